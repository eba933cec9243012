"""Who speaks which utterance: drawn from (seed, utterance id) alone, so that no order of work changes it."""

import hashlib
from dataclasses import replace

import numpy as np
from engines import ENGINES, Speaker

COLUMNS = ("engine", "voice", "rate", "pitch", "warp", "level", "heard")  # of the text tables
HEARD, HELD_OUT = "in training", "held out"


def engines_in_use(wanted=None, without=()):
    """Names of the engines to use, and notes on those that are missing; ValueError names a misspelt engine.

    wanted: names, or None for all that are installed. A wanted engine that is not installed is an error.
    """
    for name in (*(wanted or ()), *without):
        if name not in ENGINES:
            raise ValueError(f"--engines, --without-engine: there is no '{name}'; there are {', '.join(ENGINES)}")
    used, notes = [], []
    for name, engine in ENGINES.items():
        if name in without or (wanted and name not in wanted):
            continue
        if engine.installed():
            used.append(name)
        elif wanted:
            raise ValueError(f"--engines {name}: not installed; pip install {engine.package}")
        else:
            notes.append(f"{name} is not installed and speaks nothing (pip install {engine.package})")
    if not used:
        raise ValueError("no speech synthesizer is left; pip install espeakng-loader")
    return tuple(used), notes


def generator(seed, name):
    """A random generator that belongs to one name.

    By a cryptographic hash: seeded with the checksums of numbered names, generators drew 47 % where 45 % were due.
    """
    return np.random.default_rng(list(hashlib.sha256(f"{seed} {name}".encode()).digest()))


def draw_speaker(split, number, name, seed, engines):
    """(speaker, HEARD or HELD_OUT). Every other utterance of dev and test has a held-out voice, engines by turns.

    The engine is drawn from all that there are, and drawn again if it is not in use: an utterance of an engine in use
    sounds the same whichever others are.
    """
    rng = generator(seed, name)
    chosen = _draw_engine(rng, ENGINES)
    if chosen not in engines:
        chosen = _draw_engine(rng, engines)
        rng = generator(seed, f"{name} {chosen}")
    level = round(float(rng.uniform(0.3, 0.9)), 3)
    if split != "train" and number % 2 == 0:
        engine = ENGINES[engines[number // 2 % len(engines)]]
        rate = round(float(rng.uniform(*engine.rate)), 2)
        return replace(engine.held_out, rate=rate, level=level), HELD_OUT
    engine = ENGINES[chosen]
    rate, pitch, warp = (round(float(rng.uniform(*bounds)), 2) for bounds in (engine.rate, engine.pitch, engine.warp))
    return Speaker(chosen, _draw_voice(rng, engine), rate, pitch, warp, level), HEARD


def _draw_engine(rng, engines):
    shares = np.array([ENGINES[engine].share for engine in engines])
    return str(rng.choice(list(engines), p=shares / shares.sum()))


def _draw_voice(rng, engine):
    first, second = (str(voice) for voice in rng.choice(engine.voices, 2))
    if engine.mixed and first != second and rng.random() < 0.6:
        return f"{first}*{rng.uniform(0.25, 0.75):.2f}+{second}"
    return first


def speaker_of(row):
    """The speaker of a row of a text table."""
    numbers = (float(row[name]) for name in ("rate", "pitch", "warp", "level"))
    return Speaker(row["engine"], row["voice"], *numbers)
