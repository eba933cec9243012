#!/usr/bin/env python3
"""CVSS-C step 3: the manifests that fairseq trains from, and SimulEval's lists.

    python scripts/cvss/build_manifests.py --lang fr --root data

Leaves fbank2unit/<split>.{tsv,src,txt,unit} (units reduced, paths relative to the folder),
simuleval/<split>/{wav_list,target,src,unit}.txt, and skipped.tsv with what has no features or no units, and why.
A minute, so one process; a run that was stopped is run again.
"""

import sys

from echostream_plugin.data.check import Prepared, require
from echostream_plugin.data.cvss import run_step
from echostream_plugin.data.manifests import build_manifests


def build(corpus) -> None:
    """The manifests and SimulEval's lists; then checked."""
    print(f"{corpus.data_folder}: {build_manifests(corpus)}")
    require(*Prepared(corpus.output, clusters=None).tables())


def main(argv=None) -> int:
    return run_step(__doc__, lambda corpus, args: build(corpus), argv)


if __name__ == "__main__":
    sys.exit(main())
