#!/usr/bin/env python3
"""Speak unit sequences with a unit vocoder, and, with --wer, have whisper-base transcribe them.

    python scripts/resynthesize.py --units test.txt --vocoder vocoder --out wav --wer --references test.en

--units takes lines `name|u u u`, bare `u u u`, or the unit lines of fairseq-generate (`D-<id> TAB score TAB u u u`).
Repeats are removed and durations predicted, unless --full-rate. References are one sentence a line in the order of the
unit list, `name|sentence` / `name TAB sentence` in any order, or a table with columns `id` and `target`. The last line
printed is json.
"""

import argparse
import json
import sys

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.asr import ScoringASR
from echostream_plugin.evaluation.resynthesis import error_rates, open_vocoder, read_references, resynthesize
from echostream_plugin.vocoder.data import read_unit_list


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", required=True, help="unit sequences, one a line")
    parser.add_argument("--vocoder", required=True, help="folder of scripts/train_vocoder.py, or a public checkpoint")
    parser.add_argument("--vocoder-config", help="config.json of a public checkpoint")
    parser.add_argument("--out", required=True, help="folder for the wavs")
    parser.add_argument("--full-rate", action="store_true", help="keep repeats: one unit for each 20 ms frame")
    parser.add_argument("--streaming-units", type=int, default=0, help="push so many units at a time; 0: all at once")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many sequences")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--original-wavs", help="folder of the true wavs: with --full-rate, reports the mel distance")
    parser.add_argument("--wer", action="store_true", help="word error rate by whisper-base; needs --references")
    parser.add_argument("--references", help="what was said, one sentence a line or name|sentence")
    parser.add_argument("--wer-originals", action="store_true", help="also that of --original-wavs, the upper bound")
    args = parser.parse_args(argv)
    if args.wer and not args.references:
        parser.error("--wer needs --references")
    if args.wer_originals and not args.original_wavs:
        parser.error("--wer-originals needs --original-wavs")
    return args


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    model = open_vocoder(args.vocoder, args.vocoder_config)
    sequences = read_unit_list(args.units)[: args.limit or None]
    names = [name for name, _ in sequences]
    references = read_references(args.references, names) if args.wer else []
    originals = args.original_wavs
    wavs, result = resynthesize(model, sequences, args.out, args.full_rate, args.streaming_units, originals)
    if args.wer:
        asr, originals = ScoringASR(threads=args.threads), originals if args.wer_originals else None
        result |= error_rates(asr, names, wavs, references, args.out, originals)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
