#!/usr/bin/env python3
"""Checkpoints of fairseq-train, StreamSpeech's and ours: make, average, describe.

    python scripts/checkpoint.py from-bundle BUNDLE --out checkpoint.pt --data corpus/fbank2unit
    python scripts/checkpoint.py average --dir checkpoints --last 10 --out average.pt
    python scripts/checkpoint.py average one.pt two.pt --out average.pt
    python scripts/checkpoint.py card checkpoint_best.pt

from-bundle   the other way round than scripts/make_bundle.py, which makes a bundle of a checkpoint. What is written is
              read by fairseq-generate, by fairseq-train --finetune-from-model or --restore-file, and here. Without
              --data, yamls, dictionaries and CMVN are written beside it (CHECKPOINT_data/fbank2unit); a bundle holds
              half precision, so the parameters are those of the checkpoint it came from to three digits.
average       the mean of parameters, often better than the last checkpoint; the options are the last one's. No
              optimizer state is kept.
card          parameters per part, what the encoder hears in ms, dictionaries, flags, updates; markdown or --json.

Only tensors and plain values are read from a checkpoint; no code in it is run.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    bundle = commands.add_parser("from-bundle", help="a bundle becomes a checkpoint of fairseq-train")
    bundle.add_argument("bundle", help="bundle folder")
    bundle.add_argument("--out", required=True, help="checkpoint to write, such as checkpoint.pt")
    bundle.add_argument("--data", help="data folder with the model's yamls (default: written beside the checkpoint)")
    bundle.add_argument("--config-yaml", default="config_gcmvn.yaml", help="in the data folder (default %(default)s)")
    bundle.add_argument(
        "--multitask-config-yaml",
        default="config_mtl_asr_st_ctcst.yaml",
        help="in the data folder (default %(default)s)",
    )
    average = commands.add_parser("average", help="the mean of several checkpoints")
    average.add_argument("checkpoints", nargs="*", help="checkpoints of one training")
    average.add_argument("--out", required=True, help="checkpoint to write")
    average.add_argument("--dir", help="folder of checkpoints to take the newest of")
    average.add_argument("--last", type=int, help="how many of them")
    average.add_argument(
        "--by", choices=("epoch", "update"), default="epoch", help="which series of them (default %(default)s)"
    )
    card = commands.add_parser("card", help="what a checkpoint or a bundle is")
    card.add_argument("path", help="checkpoint file or bundle folder")
    card.add_argument("--json", action="store_true", help="json instead of markdown")
    args = parser.parse_args(argv)
    if args.command == "average":
        if bool(args.dir) != (args.last is not None):
            parser.error("average: --dir and --last belong together")
        if bool(args.dir) == bool(args.checkpoints):
            parser.error("average: name the checkpoints, or give --last N --dir FOLDER")
    return args


def run(args):
    from echostream_plugin.fairseq_ext import card, checkpoints

    if args.command == "from-bundle":
        data = checkpoints.from_bundle(args.bundle, args.out, args.data, args.config_yaml, args.multitask_config_yaml)
        print(f"{args.out}: reads {data}")
    elif args.command == "average":
        paths = checkpoints.last_checkpoints(args.dir, args.last, args.by) if args.dir else args.checkpoints
        checkpoints.average(paths, args.out)
        print(f"{args.out}: the mean of {', '.join(Path(path).name for path in paths)}")
    else:
        facts = card.model_card(args.path)
        print(json.dumps(facts, indent=1, ensure_ascii=False, default=str) if args.json else card.as_markdown(facts))


def main(argv=None) -> int:
    args = parse_args(argv)
    from echostream_plugin.config import ConfigError
    from echostream_plugin.inference.errors import BundleError

    try:
        run(args)
    except (ConfigError, BundleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
