#!/usr/bin/env python3
"""CVSS-C step 5: does a prepared folder hold together?

    python scripts/cvss/check.py data/cvss-c/fr-en

Looks at everything that training and evaluation read: the zip's members open at the offsets of the manifests and have
their frames, units are in range and reduced, ids agree among manifests, tables and SimulEval's lists, dictionaries are
their SentencePiece models', the CMVN is finite. A folder that StreamSpeech's own scripts made can be checked too.
Prints a table; the exit status is 0 when all is well. --deep reads every feature and computes the CMVN again.
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.data.check import Prepared, print_table


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the prepared folder, with fbank2unit/ in it")
    parser.add_argument("--clusters", type=int, default=1000, help="number of units (default %(default)s)")
    parser.add_argument("--deep", action="store_true", help="read all features, not every hundredth utterance's")
    args = parser.parse_args(argv)
    if not (args.folder / "fbank2unit").is_dir():
        print(f"error: {args.folder}: no folder fbank2unit in it; is it a prepared one?", file=sys.stderr)
        return 2
    bad = print_table(Prepared(args.folder, args.clusters, args.deep).checks())
    print(f"{bad} with a problem" if bad else "all is well")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
