#!/usr/bin/env python3
"""What does a session make of sounds that are no speech, and does it still hear speech?

Noise, hum, tones, notes, clicks and silence go through a session; then the bundle's recordings, clean and under noise.
The tables say how many words were written, and how many seconds of speech were said.

    python scripts/measure_noise.py --bundle BUNDLE pause_ms=200,vad=false pause_ms=200,vad=true

Each argument is one policy: `SessionOptions` by name. What stays unnamed is the bundle's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.evaluation.sounds import NOISES, noise, sounds
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.bundle import bundle_recordings, load_bundle
from echostream_plugin.inference.errors import BundleError, InputError
from echostream_plugin.inference.events import Speech, TargetText
from echostream_plugin.inference.options import bundle_options, read_policy
from echostream_plugin.inference.pushes import push_all
from echostream_plugin.inference.session import TranslationSession

SNR_DB = (20, 10, 0)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of a model bundle with samples")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each sound lasts")
    parser.add_argument("--push-ms", type=int, default=320, help="how much source is pushed at a time")
    parser.add_argument("policies", nargs="+", metavar="name=value,...", help="session options")
    return parser.parse_args(argv)


def translate(session: TranslationSession, samples: np.ndarray, push_ms: int) -> tuple[list, float]:
    """The words written, and the seconds of speech said."""
    session.reset()
    events = push_all(session, samples, SAMPLE_RATE, SAMPLE_RATE * push_ms // 1000)
    text = "".join(event.added for event in events if isinstance(event, TargetText))
    said = sum(len(event.samples) / event.sample_rate for event in events if isinstance(event, Speech))
    return normalize(text).split(), said


def noise_rows(sessions: dict, args) -> list:
    """One row for each sound."""
    rows = []
    for name, samples in tqdm(sounds(args.seconds).items(), desc="sounds", leave=False):
        row = {"sound": name}
        for policy, session in sessions.items():
            words, said = translate(session, samples, args.push_ms)
            row[policy] = f"{len(words)} words, {said:.1f} s" if words or said else "nothing"
        rows.append(row)
    return rows


def speech_rows(sessions: dict, recordings: list, push_ms: int) -> list:
    """One row for each kind of noise over the recordings: words, and those that the first policy has not, or more."""
    rows = []
    for name in ("clean", *(f"{kind} noise {db} dB below" for kind in NOISES for db in SNR_DB)):
        row, first = {"recordings": name}, None
        for policy, session in sessions.items():
            words = [translate(session, under_noise(samples, name), push_ms)[0] for samples in recordings]
            first = first or words
            same = sum(a == b for a, b in zip(words, first, strict=True))
            row[policy] = f"{sum(map(len, words))} words, {same} of {len(words)} the same"
        rows.append(row)
    return rows


def under_noise(samples: np.ndarray, name: str) -> np.ndarray:
    """name: `clean`, or `pink noise 20 dB below`."""
    if name == "clean":
        return samples
    kind, _, db, *_ = name.split()
    added = noise(len(samples), NOISES[kind], np.random.default_rng(0))
    added *= np.sqrt(np.mean(samples**2) / np.mean(added**2)) / 10 ** (float(db) / 20)
    return (samples + added).clip(-1, 1).astype(np.float32)


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        bundle = load_bundle(args.bundle)
        policies = {text: bundle_options(bundle, **read_policy(text)) for text in args.policies}
        sessions = {text: TranslationSession(bundle, options) for text, options in policies.items()}
        recordings = [read_mono(wav) for wav in bundle_recordings(args.bundle)]
        tables = [noise_rows(sessions, args), speech_rows(sessions, recordings, args.push_ms)]
    except (BundleError, ConfigError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(markdown_table(rows, {name: name for name in rows[0]}) for rows in tables if rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
