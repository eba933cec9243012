#!/usr/bin/env python3
"""Compare policies of a bundle without speaking: text BLEU and average lagging, in minutes instead of an evaluation.

    python scripts/sweep_policy.py --bundle BUNDLE --data corpus/simuleval/dev --push-ms 320 \\
        chunk_ms=320,lagging_k1=2 chunk_ms=960,lagging_k1=2,whole_word=false chunk_ms=960,lagging_k1=3,whole_word=false

Each argument is one policy: `SessionOptions` by name. What stays unnamed is the bundle's.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.latency import TEXT_METRICS, TextInstance, text_metrics, words_with_delays
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.scores import bleu
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError, InputError
from echostream_plugin.inference.events import TargetText
from echostream_plugin.inference.optimize import optimize, prepare
from echostream_plugin.inference.options import read_policy
from echostream_plugin.inference.pushes import push_all
from echostream_plugin.inference.session import TranslationSession


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--data", required=True, type=Path, help="folder with wav_list.txt and target.txt")
    parser.add_argument("--push-ms", type=int, default=320, help="how much source is pushed at a time")
    parser.add_argument("--limit", type=int, default=100, help="only the first so many utterances")
    parser.add_argument("policies", nargs="+", metavar="name=value,...", help="session options")
    return parser.parse_args(argv)


def translate(session: TranslationSession, wav: Path, push_ms: int, index: int, reference: str) -> TextInstance:
    """The words of one recording, each with the source time at which it was complete."""
    session.reset()
    samples, rate = read_audio(wav)
    events = push_all(session, samples, rate, rate * push_ms // 1000)
    pieces = [(event.source_ms, event.added) for event in events if isinstance(event, TargetText)]
    words, delays = words_with_delays(pieces, session.source_ms)
    return TextInstance(index, 1000 * len(samples) / rate, words, delays, reference)


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        bundle = optimize(load_bundle(args.bundle))
        folder = Folder.read(args.data, args.limit)
        rows = []
        for policy in args.policies:
            session = TranslationSession(bundle, speech=False, **read_policy(policy))
            prepare(bundle, session.options, args.push_ms)
            pairs = list(enumerate(zip(folder.wavs, folder.references, strict=True)))
            bar = tqdm(pairs, desc=policy, unit="wav")
            runs = [translate(session, wav, args.push_ms, index, reference) for index, (wav, reference) in bar]
            texts = [" ".join(run.words) for run in runs]
            lags = [text_metrics(run) for run in runs if run.words]
            means = {name: mean(lag[name] for lag in lags) for name in TEXT_METRICS}
            rows.append({"policy": policy, "bleu": bleu(texts, folder.references)} | means)
    except (BundleError, ConfigError, InputError, SimulError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown_table(rows, {"policy": "policy", "bleu": "text BLEU", "AL": "AL ms", "LAAL": "LAAL ms"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
