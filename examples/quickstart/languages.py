"""Verses in Spanish and in other languages, spoken by synthesizers: from them the gate learns what is not Spanish.

Both sides say the same kind of text, so that it is the language that tells them apart. The recordings of people in
other languages (`human.py`) belong to the lesson too. None of this is in a dev or test set, nor does a model hear it.
"""

from engines import Speaker, speak
from speakers import generator
from waves import write_wav

from echostream_plugin.data import DataError
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.punctuated import verses
from echostream_plugin.data.tables import write_table

# language -> edition of the package's verses; espeak's name of the language is the same
EDITIONS = {
    "es": "9", "it": "1", "en": "3", "fr": "5", "pt": "a", "de": "s",
    "ro": "u", "ru": "r", "pl": "z", "tr": "t", "id": "6",
}  # fmt: skip
PICO = {"es": ("es-ES",), "it": ("it-IT",), "en": ("en-GB", "en-US"), "fr": ("fr-FR",), "de": ("de-DE",)}
# of espeak, none of them breathy (see `engines`), none of those in `not_spanish`
VARIANTS = ("", "m1", "m4", "m6", "f1", "steph2", "belinda", "klatt", "klatt4", "Alex", "anika", "robert")
PER_ENGINE = 60  # verses of a language
WORDS = (4, 16)
COLUMNS = ("id", "what", "wav", "source")
SOURCE = "es"


def planned(engines, seed):
    """(id, language, text, speaker) of every recording; [] where the verses' package is not installed."""
    try:
        texts = {language: _short(verses(edition)) for language, edition in EDITIONS.items()}
    except DataError:
        return []
    found = []
    for language, short in texts.items():
        for engine in (name for name in ("espeak", "pico") if name in engines):
            if engine == "pico" and language not in PICO:
                continue
            rng = generator(seed, f"verses {language} {engine}")
            for number, place in enumerate(rng.choice(len(short), PER_ENGINE, replace=False)):
                name = f"verse_{language}_{engine}_{number:02d}"
                found.append((name, language, short[place], _speaker(engine, language, generator(seed, name))))
    return found


def _short(texts):
    kept = (" ".join(text.split()) for text in texts.values())
    return [text for text in kept if WORDS[0] <= len(text.split()) <= WORDS[1]]


def _speaker(engine, language, rng):
    level, rate = round(float(rng.uniform(0.3, 0.9)), 3), round(float(rng.uniform(0.85, 1.2)), 2)
    if engine == "pico":
        return Speaker(
            "pico", str(rng.choice(PICO[language])), rate, round(float(rng.uniform(0.75, 1.3)), 2), level=level
        )
    variant = str(rng.choice(VARIANTS))
    return Speaker("espeak", f"{language}+{variant}" if variant else language, rate, level=level)


def speak_verse(job):
    """Write one recording. job: its path, text and speaker."""
    path, text, speaker = job
    write_wav(path, speak(text, speaker))


def make_verses(out, engines, seed, jobs):
    """languages/{source,others}.tsv: id, what (the language), wav, source (the text), with their recordings."""
    folder = out / "languages"
    tables = {True: folder / "source.tsv", False: folder / "others.tsv"}
    wanted = planned(engines, seed)
    if not wanted or all(table.exists() for table in tables.values()):
        return
    folder.mkdir(parents=True, exist_ok=True)
    work = [(folder / f"{name}.flac", text, speaker) for name, _, text, speaker in wanted]
    for _ in Workers(jobs).ordered(speak_verse, [job for job in work if not job[0].exists()], "verses"):
        pass
    for source, table in tables.items():
        rows = [(name, language, text) for name, language, text, _ in wanted if (language == SOURCE) == source]
        columns = (
            dict(zip(COLUMNS, (name, language, f"{name}.flac", text), strict=True)) for name, language, text in rows
        )
        write_table(table, COLUMNS, list(columns))
