#!/usr/bin/env python3
"""Where does the end-pointer end the sentences of a stream, and what does that do to the translation?

Recordings in a row, with silences of known places between them, go through a session. A silence is found where a
sentence ends in it or at most 0.5 s after it; every other end of a sentence is false. Text BLEU is that of the whole
stream's translation, wherever sentences were ended.

    python scripts/measure_endpointer.py --bundle BUNDLE --data corpus/simuleval/test --noise-db none 30 20 \\
        pause_ms=400,endpointer=ctc pause_ms=400,endpointer=energy pause_ms=400,endpointer=both

Each argument is one policy: `SessionOptions` by name. What stays unnamed is the bundle's.
"""

import argparse
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.boundaries import listen, score, spoken_stream
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.scores import bleu
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError, InputError
from echostream_plugin.inference.options import read_policy
from echostream_plugin.inference.session import TranslationSession

COLUMNS = {
    "policy": "policy",
    "noise": "noise",
    "silences": "silences",
    "found": "found",
    "extra": "false",
    "delay": "delay, median ms",
    "bleu": "text BLEU of the stream",
}


def noise_level(text: str) -> float | None:
    """`none`, or dB below the speech."""
    return None if text == "none" else float(text)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--data", required=True, type=Path, help="folder with wav_list.txt and target.txt, 16 kHz")
    parser.add_argument("--push-ms", type=int, default=320, help="how much source is pushed at a time")
    parser.add_argument("--limit", type=int, default=120, help="only the first so many recordings")
    parser.add_argument("--stream", type=int, default=20, help="recordings in a stream")
    parser.add_argument("--gap-ms", type=int, nargs=2, default=(600, 1200), help="least and most silence after each")
    parser.add_argument(
        "--noise-db", type=noise_level, nargs="+", default=[None], help="white noise so far below the speech; or none"
    )
    parser.add_argument("--early-ms", type=float, default=0.0, help="an end so long before a silence is found too")
    parser.add_argument("--seed", type=int, default=1, help="of the silences and the noise")
    parser.add_argument("policies", nargs="+", metavar="name=value,...", help="session options")
    return parser.parse_args(argv)


def read_recordings(wavs: list) -> list:
    """Mono recordings [n] at 16 kHz; InputError where one is silent."""
    recordings = [read_mono(wav) for wav in wavs]
    for wav, samples in zip(wavs, recordings, strict=True):
        if not samples.any():
            raise InputError(f"{wav}: nothing but silence")
    return recordings


def measure(bundle, policy: str, noise_db, recordings: list, references: list, args) -> dict:
    """A row of the table."""
    session = TranslationSession(bundle, speech=False, **read_policy(policy))
    generator = np.random.default_rng(args.seed)
    starts = range(0, len(recordings), args.stream)
    results, texts = [], []
    for start in tqdm(starts, desc=f"{policy}, noise {noise_db}", unit="stream", leave=False):
        stream = spoken_stream(recordings[start : start + args.stream], args.gap_ms, generator, noise_db)
        ends, text = listen(session, stream, args.push_ms)
        results.append(score(ends, stream.silences, early_ms=args.early_ms))
        texts.append(text)
    wanted = [" ".join(references[start : start + args.stream]) for start in starts]
    delays = [delay for result in results for delay in result.delays_ms]
    return {
        "policy": policy,
        "noise": "none" if noise_db is None else f"-{noise_db:g} dB",
        "silences": sum(result.silences for result in results),
        "found": sum(result.found for result in results),
        "extra": sum(result.extra for result in results),
        "delay": median(delays) if delays else None,
        "bleu": bleu(texts, wanted),
    }


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        bundle = load_bundle(args.bundle)
        folder = Folder.read(args.data, args.limit)
        recordings, references = read_recordings(folder.wavs), folder.references
        rows = [
            measure(bundle, policy, noise_db, recordings, references, args)
            for policy in args.policies
            for noise_db in args.noise_db
        ]
    except (BundleError, ConfigError, InputError, SimulError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown_table(rows, COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
