#!/usr/bin/env python3
"""Evaluate a bundle on voices: those of the training, one that it never heard, people, noise, recordings in a row, and
audio that is no speech of its language.

    python scripts/evaluate_voices.py --bundle BUNDLE --corpus work/quickstart/corpus --output eval --jobs 2
    ... --left-out pico=OTHER_BUNDLE      (c): a model trained without an engine, on that engine
    ... --also "another speaker=FOLDER"   any other folder of wav_list.txt, target.txt, src.txt
    ... --most 40                         the first 40 recordings of each set: a quick look

Recordings go in 320 ms at a time. Every one is kept as it is done, so the same command resumes if stopped, with
any --jobs; runs lie in a folder named by the digests of the bundle's content and of the options. Writes voices.json and
voices.md with 95 % intervals.
"""

import argparse
import datetime
import sys
from dataclasses import fields
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.evaluation import voices
from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.table import commit
from echostream_plugin.evaluation.voices_tables import PARTS, Asked, VoicesEvaluation, report
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.digest import bundle_digest
from echostream_plugin.inference.endpointing.base import LONG_PAUSE_MS
from echostream_plugin.inference.errors import BundleError, InputError
from echostream_plugin.inference.options import read_policy


def named_folder(text: str) -> tuple[str, Path]:
    """An argument NAME=FOLDER."""
    name, given, folder = text.partition("=")
    if not given or not name:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=FOLDER")
    return name, Path(folder)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--corpus", required=True, type=Path, help="folder that build_corpus.py made")
    parser.add_argument("--output", required=True, type=Path, help="folder of runs and results; resumed if it exists")
    parser.add_argument("--left-out", type=named_folder, action="append", default=[], metavar="ENGINE=BUNDLE",
                        help="(c): a bundle that was trained without an engine, tested on it")  # fmt: skip
    parser.add_argument("--also", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
                        help="a further SimulEval folder for the first table")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"only some of {' '.join(PARTS)} (default: all that the corpus has)")  # fmt: skip
    parser.add_argument("--most", type=int, default=0, help="only so many recordings of each set; 0: all")
    parser.add_argument("--row", type=int, default=60, help="recordings in a row for (f)")
    parser.add_argument("--rows", type=int, default=2, help="how many such rows")
    parser.add_argument("--pause-ms", type=int, default=LONG_PAUSE_MS, help="pause_ms of (f)")
    parser.add_argument("--segment-ms", type=int, default=320, help="how much source goes in at a time")
    parser.add_argument("--options", default="", metavar="name=value,...", help="session options for every set")
    parser.add_argument("--no-asr-bleu", action="store_true", help="no ASR-BLEU and no resynthesis (no whisper)")
    parser.add_argument("--no-judge", dest="no_asr_bleu", action="store_true", help=argparse.SUPPRESS)  # earlier name
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    command = list(sys.argv[1:] if argv is None else argv)
    facts = {"command": command, "commit": commit(), "date": str(datetime.date.today())}
    try:
        named = {field.name: getattr(args, field.name) for field in fields(Asked)}
        asked = Asked(**named | {"options": read_policy(args.options) if args.options else {}})
        evaluation = VoicesEvaluation(asked, None if args.no_asr_bleu else ScoringASR(threads=args.jobs))
        tables = evaluation.tables()
        facts["bundle"] = bundle_digest(args.bundle)
        text = report(tables, facts)
        flat = {name: [voices.flat(row) for row in rows] for name, rows in tables.items()}
        for folder in (evaluation.runner.output, args.output):
            write_json(folder / "voices.json", {**facts, "tables": flat})
            write_text(folder / "voices.md", text + "\n")
    except (SimulError, ScoringASRError, ConfigError, BundleError, DataError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
