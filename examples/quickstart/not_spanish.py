"""Audio that is not Spanish speech, for which a translator should say nothing: other languages, noise, tones, music.

`items` lists what a split holds, drawn from (seed, id); `render` makes one of them. Human speech of other languages
comes from the recordings of `human.py` where they are there.
"""

from dataclasses import dataclass, replace

import numpy as np
from augment import NOISES, make_noise, room_response
from engines import Speaker, speak
from scipy.signal import fftconvolve
from speakers import generator
from waves import SAMPLE_RATE, to_peak

SPLITS = ("dev", "test")
COLUMNS = ("id", "kind", "what", "wav", "seconds")
# dev has the first half of each, test the second
SENTENCES = {
    "de": (
        "Guten Tag, ich hätte gern ein Zimmer mit Bad für drei Nächte.", "Wo ist der nächste Bahnhof, bitte?",
        "Meine Schwester arbeitet seit einem Jahr in einem kleinen Krankenhaus.", "Das Wetter wird morgen besser.",
        "Können Sie mir sagen, wann der Zug nach Hamburg abfährt?", "Ich habe meinen Schlüssel im Büro vergessen.",
        "Wir möchten zwei Tassen Kaffee und ein Stück Kuchen.", "Der Arzt hat heute leider keine Zeit mehr.",
    ),
    "fr": (
        "Bonjour, je voudrais une chambre pour deux personnes, s'il vous plaît.", "Où se trouve la gare ?",
        "Mon frère habite depuis longtemps dans une petite ville au bord de la mer.", "Il pleut depuis ce matin.",
        "Pouvez-vous me dire à quelle heure part le bus ?", "J'ai oublié mes lunettes à la maison.",
        "Nous avons mangé du pain avec du fromage.", "Le médecin reviendra jeudi après-midi.",
    ),
    "it": (
        "Buongiorno, vorrei una camera doppia per due notti.", "Scusi, dov'è la fermata dell'autobus?",
        "Mia sorella lavora da molti anni in un ufficio vicino al ponte.", "Domani farà più freddo di oggi.",
        "A che ora parte il prossimo treno per Firenze?", "Ho dimenticato le chiavi nella borsa.",
        "Vorremmo due caffè e un bicchiere d'acqua.", "Il dottore non può riceverla questa settimana.",
    ),
    "en": (
        "Good morning, I would like a room with a view of the garden.", "Could you tell me where the station is?",
        "My brother has been working in a hospital for more than three years.", "It will be much colder tomorrow.",
        "What time does the next train leave for London?", "I must have left my glasses on the table.",
        "We would like two cups of tea and some bread.", "The doctor cannot see you before Thursday.",
    ),
}  # fmt: skip
_PICO_VOICES = {"de": "de-DE", "fr": "fr-FR", "it": "it-IT", "en": "en-GB"}
_ESPEAK_VARIANTS = ("m3", "f4", "klatt2", "steph", "pablo", "linda", "m7", "aunty")
PER_SOUND = 8  # of each noise, and of tones, music and silence


@dataclass(frozen=True)
class Item:
    """kind: human, speech, noise, tones, music, babble or silence; what: language and voice, or the sound."""

    id: str
    kind: str
    what: str
    text: str = ""
    speaker: Speaker | None = None


def items(split, engines, foreign=()):
    """What the split holds. foreign: (id, language) of human recordings in other languages for this split."""
    found = [Item(f"not_{split}_{name}", "human", language) for name, language in foreign]
    half = slice(0, 4) if split == "dev" else slice(4, 8)
    for language, sentences in SENTENCES.items():
        for number, text in enumerate(sentences[half]):
            for speaker in _speakers(language, number, engines):
                name = f"not_{split}_{speaker.engine}_{language}_{number}"
                found.append(Item(name, "speech", f"{language}, {speaker.engine} {speaker.voice}", text, speaker))
    sounds = [("babble" if kind == "babble" else "noise", kind) for kind in NOISES]
    for kind, what in [*sounds, ("tones", "tones"), ("music", "music"), ("silence", "silence")]:
        found += [Item(f"not_{split}_{what}_{number}", kind, what) for number in range(PER_SOUND)]
    return found


def _speakers(language, number, engines):
    rate = (0.85, 1.0, 1.15, 0.95)[number % 4]
    if "pico" in engines:
        yield Speaker("pico", _PICO_VOICES[language], rate, (1.0, 0.8, 1.25, 1.1)[number % 4])
    if "espeak" in engines:
        yield Speaker("espeak", f"{language}+{_ESPEAK_VARIANTS[2 * number % 8 + (language in 'fr it')]}", rate)


def render(item, seed, babble):
    """float32 [n] of an item that is no human recording; babble: waves of speech."""
    rng = generator(seed, item.id)
    if item.kind == "speech":
        return speak(item.text, replace(item.speaker, level=round(float(rng.uniform(0.3, 0.9)), 3)))
    samples = int(rng.uniform(2.0, 8.0) * SAMPLE_RATE)
    if item.kind == "silence":
        floor = float(rng.choice((0.0, 1e-4, 1e-3)))
        return (floor * rng.standard_normal(samples)).astype(np.float32)
    made = {"tones": tones, "music": music}.get(item.kind)
    wave = made(samples, rng) if made else make_noise(item.what, samples, rng, babble)
    return to_peak(wave, 10 ** rng.uniform(-1.5, -0.1))


def tones(samples, rng):
    """Telephone tones and beeps: one to three frequencies at once, on and off."""
    wave, at = np.zeros(samples, np.float32), 0
    while at < samples:
        length = min(samples - at, int(rng.uniform(0.08, 0.9) * SAMPLE_RATE))
        time = np.arange(length) / SAMPLE_RATE
        for frequency in rng.uniform(250, 2200, int(rng.integers(1, 4))):
            wave[at : at + length] += np.sin(2 * np.pi * frequency * time)
        at += length + int(rng.uniform(0.0, 0.5) * SAMPLE_RATE)
    return wave


def music(samples, rng):
    """Chords, a melody of plucked notes and a beat, in a room."""
    beat = int(rng.uniform(0.25, 0.5) * SAMPLE_RATE)
    scale = 110.0 * 2 ** (rng.integers(0, 12) / 12) * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    wave = np.zeros(samples + 4 * beat)
    for start in range(0, samples, beat):
        time = np.arange(2 * beat) / SAMPLE_RATE
        root = int(rng.integers(0, 4))
        notes = [2 * scale[int(rng.integers(8))]]
        if start // beat % 4 == 0:
            notes += list(scale[[root, root + 2, root + 4]])
        for note in notes:
            parts = sum(np.sin(2 * np.pi * note * k * time) * np.exp(-(2 + k) * time) / k for k in range(1, 7))
            wave[start : start + time.size] += rng.uniform(0.5, 1.0) * parts
        drum = rng.standard_normal(beat // 4) * np.exp(-np.arange(beat // 4) / (0.01 * SAMPLE_RATE))
        wave[start : start + drum.size] += rng.uniform(0.0, 0.6) * drum
    return fftconvolve(wave[:samples], room_response(rng)[0])[:samples].astype(np.float32)
