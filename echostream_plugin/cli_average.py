"""`echostream average`: the mean of several checkpoints of fairseq-train."""

import argparse
from pathlib import Path

from echostream_plugin.cli_errors import DONE, OverwriteError, check_free
from echostream_plugin.cli_options import same_file
from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext import checkpoints

DESCRIPTION = """The mean of the parameters of several checkpoints of one training, often better than the last one. The
options are the last one's; no optimizer state is kept. Only tensors and plain values are read from a checkpoint; no
code in it is run."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("checkpoints", nargs="*", type=Path, help="checkpoints of one training")
    add("-o", "--out", required=True, type=Path, help="checkpoint to write")
    add("--dir", help="folder of checkpoints to take the newest of")
    add("--last", type=int, help="how many of them")
    add("--by", choices=("epoch", "update"), default="epoch", help="which series of them (default %(default)s)")
    add(
        "--halfway-to",
        type=Path,
        metavar="ADAPTED",
        help="adapted.safetensors of scripts/adapt_encoder.py, which the model's encoder began with: the encoder's "
        "layers become the mean of theirs and of these, which takes back half of what a training on few voices did to "
        "them (WiSE-FT); train the model on from there",
    )
    add("--overwrite", action="store_true", help="replace the checkpoint that is there")
    parser.set_defaults(run=run_average)


def run_average(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    check_free(args.out, args.overwrite)
    if bool(args.dir) != (args.last is not None):
        raise ConfigError("average: --dir and --last belong together")
    if bool(args.dir) == bool(args.checkpoints):
        raise ConfigError("average: name the checkpoints, or give --last N --dir FOLDER")
    paths = checkpoints.last_checkpoints(args.dir, args.last, args.by) if args.dir else args.checkpoints
    for path in (*paths, *filter(None, [args.halfway_to])):
        if same_file(path, args.out):
            raise OverwriteError(f"{args.out}: is one of those that are averaged; name another file")
    checkpoints.average(paths, args.out, args.halfway_to)
    back = f"; its encoder halfway back to {args.halfway_to}" if args.halfway_to else ""
    print(f"{args.out}: the mean of {', '.join(Path(path).name for path in paths)}{back}")
    return DONE
