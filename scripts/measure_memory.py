#!/usr/bin/env python3
"""How much memory does a process hold that translates and speaks for long?

The bundle's recordings in random order, each at a speed and loudness of its own and followed by a pause, go through one
session, as fast as the machine can, in pushes of 320 ms or of random sizes (`--push-ms`). Every minute of audio the
resident memory is printed.

    python scripts/measure_memory.py --bundle BUNDLE --minutes 30 pause_ms=200
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.bundle import bundle_recordings, load_bundle
from echostream_plugin.inference.errors import BundleError, InputError
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.machine import resident_mb
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import bundle_options, read_policy
from echostream_plugin.inference.session import TranslationSession

SPEEDS, LOUDNESS_DB, PAUSES_S = (0.8, 1.25), (-12.0, 0.0), (0.3, 1.5)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of a model bundle with samples")
    parser.add_argument("--minutes", type=float, default=30.0, help="of audio")
    parser.add_argument("--push-ms", type=int, nargs=2, default=(320, 320), help="least and most pushed at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("policy", nargs="?", default="pause_ms=200", metavar="name=value,...", help="session options")
    return parser.parse_args(argv)


def varied_speech(recordings: list, generator):
    """Endless speech [n] at 16 kHz, a recording with its pause at a time."""
    while True:
        samples = recordings[generator.integers(len(recordings))]
        places = np.arange(0, len(samples) - 1, generator.uniform(*SPEEDS))
        samples = np.interp(places, np.arange(len(samples)), samples) * 10 ** (generator.uniform(*LOUDNESS_DB) / 20)
        pause = np.zeros(int(generator.uniform(*PAUSES_S) * SAMPLE_RATE))
        yield np.concatenate([samples, pause]).astype(np.float32)


def measure(session: TranslationSession, recordings: list, args):
    """Pairs of (minutes of audio, MB), and what was said in all, in seconds."""
    if not resident_mb():
        raise InputError("/proc/self/status: says nothing of resident memory on this system")
    generator = np.random.default_rng(args.seed)
    pushed, said, rows = 0, 0.0, [(0, resident_mb())]
    for speech in varied_speech(recordings, generator):
        while len(speech):
            size = SAMPLE_RATE * int(generator.integers(args.push_ms[0], args.push_ms[1] + 1)) // 1000
            events = session.push(speech[:size], SAMPLE_RATE)
            said += sum(len(event.samples) / event.sample_rate for event in events if isinstance(event, Speech))
            pushed, speech = pushed + len(speech[:size]), speech[size:]
            minutes = pushed / SAMPLE_RATE / 60
            if int(minutes) > rows[-1][0] or minutes >= args.minutes:
                rows.append((int(minutes) if minutes < args.minutes else args.minutes, resident_mb()))
                print(f"{rows[-1][0]:g} min  {rows[-1][1]:.0f} MB", flush=True)
            if minutes >= args.minutes:
                return rows, said


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        bundle = optimize(load_bundle(args.bundle))
        session = TranslationSession(bundle, bundle_options(bundle, **read_policy(args.policy)))
        recordings = [read_mono(wav) for wav in bundle_recordings(args.bundle)]
        if not recordings:
            raise InputError(f"{args.bundle / 'samples'}: no recordings")
        began = time.perf_counter()
        rows, said = measure(session, recordings, args)
    except (BundleError, ConfigError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    after_one = rows[min(1, len(rows) - 1)][1]
    print(
        f"loaded {rows[0][1]:.0f} MB, after the first minute {after_one:.0f} MB, at the end {rows[-1][1]:.0f} MB: "
        f"{rows[-1][1] - after_one:+.0f} MB since; {said / 60:.1f} min of speech in {time.perf_counter() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
