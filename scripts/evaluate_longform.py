#!/usr/bin/env python3
"""What is the translation of a long recording worth, how late is it, and does it stay so?

    python scripts/evaluate_longform.py --bundle BUNDLE --recordings longform --output eval/longform \\
        endpointer=energy endpointer=text endpointer=text+energy endpointer=oracle

Each argument is one policy: `SessionOptions` by name. What stays unnamed is the bundle's, pause_ms 400. The endpointer
'oracle' is told where the sentences end, and waits for pause_ms of the silence after each, where there is one.

The recordings of a folder with segmentation.yaml (scripts/build_longform.py, or any that OmniSTEval takes, with
reference.txt) go through a session, a push at a time. With --speech it speaks, and the speech is scored too, by the
word times of the scoring ASR.

A run that was killed goes on, and one that is complete is not repeated: give the same command. Runs of one output
folder may be made by several commands at once. Each leaves in <run>/scored what OmniSTEval (pip install .[longform])
takes:

    omnisteval longform --word_level --speech_segmentation segmentation.yaml --ref_sentences_file reference.txt \\
        --hypothesis_file instances.log
"""

import argparse
import sys
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.long_table import LongEvaluation, evaluate, write_results
from echostream_plugin.evaluation.resegmentation import SegmentationError, mwer_segments
from echostream_plugin.evaluation.table import TableError, replace_block, require_marks
from echostream_plugin.inference.errors import BundleError, InputError, OutputError, SessionError
from echostream_plugin.inference.languages import language_of, load_card


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--recordings", required=True, type=Path, help="folder with segmentation.yaml")
    parser.add_argument("--output", required=True, type=Path, help="folder of the runs and the tables")
    parser.add_argument("--push-ms", type=int, default=320, help="how much source is pushed at a time")
    parser.add_argument("--speech", action="store_true", help="speak, and score what the scoring ASR hears")
    parser.add_argument("--write", type=Path, help="also put the tables between the marks of this page")
    parser.add_argument("policies", nargs="+", metavar="name=value,...", help="session options")
    args = parser.parse_args(argv)
    if args.push_ms < 1:
        parser.error(f"--push-ms must be at least 1, got {args.push_ms}")
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    command = tuple(sys.argv[1:] if argv is None else argv)
    try:
        mwer_segments(["word"], ["word"])
    except SegmentationError as error:
        print(f"{error}; it is left out", file=sys.stderr)
    try:
        language = language_of(load_card(args.bundle), "target") or "en"
        asr = ScoringASR(language=language) if args.speech else None
        places = args.bundle, args.recordings, args.output
        asked = LongEvaluation(*places, args.policies, args.push_ms, asr, command)
        if args.write:
            require_marks(args.write)
        tables = write_results(*evaluate(asked), asked)
        if args.write:
            replace_block(args.write, tables)
        print(tables)
    except (
        *(BundleError, ConfigError, DataError, InputError, OutputError),
        *(OSError, ScoringASRError, SegmentationError, SessionError, SimulError, TableError),
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
