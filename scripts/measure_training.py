#!/usr/bin/env python3
"""Updates per second of whole trainings: the same data, losses and batches under one architecture after the other.

    python scripts/measure_training.py --data work/quickstart/corpus/fbank2unit --clusters 500 \\
        --archs streamspeech echostream --updates 60

Full sizes unless further flags for fairseq-train follow a `--`. The first updates, in which memory is found, do not
count. Nothing else should run meanwhile.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from echostream_plugin.evaluation.architectures import Training, TrainingError, updates_per_second
from echostream_plugin.evaluation.table import commit, markdown_table

FLAGS = [
    "--lr", "0.001", "--max-tokens", "6000", "--max-target-positions", "1200", "--multichunk", "--log-interval", "1",
    "--disable-validation", "--no-save-optimizer-state",
]  # fmt: skip


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="fbank2unit folder of a corpus")
    parser.add_argument("--clusters", required=True, type=int, help="units of the corpus")
    parser.add_argument("--archs", nargs="+", default=["streamspeech", "echostream"], metavar="ARCH")
    parser.add_argument("--updates", type=int, default=60, help="of each (default %(default)s)")
    parser.add_argument("--warm-up", type=int, default=10, help="updates that do not count (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("flags", nargs="*", help="after --: further flags for fairseq-train")
    args = parser.parse_args(argv)
    if not 0 < args.warm_up < args.updates:
        parser.error("--warm-up must be at least 1, and below --updates")
    return args


def measure(args) -> list[dict]:
    """Rows of the table, the first architecture's speed being 1."""
    rows = []
    flags = (*FLAGS, "--target-code-size", str(args.clusters), *args.flags)
    for arch in args.archs:
        with tempfile.TemporaryDirectory() as folder:
            training = Training(args.data, Path(folder), 0, args.updates, flags, args.threads)
            training.run(arch, [])
            speed = updates_per_second(training.folder, args.warm_up)
        rows.append({"arch": arch, "speed": speed, "ratio": speed / rows[0]["speed"] if rows else 1.0})
    return rows


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        rows = measure(args)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    columns = {"arch": "--arch", "speed": "updates a second", "ratio": f"times {args.archs[0]}'s"}
    shown = [{"arch": row["arch"], **{key: f"{row[key]:.3f}" for key in ("speed", "ratio")}} for row in rows]
    print(f"{markdown_table(shown, columns)}\n\n{args.threads} thread(s), commit {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
