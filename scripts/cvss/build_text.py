#!/usr/bin/env python3
"""CVSS-C step 4: SentencePiece models and dictionaries of both sides, the multitask tables, and the two yamls.

    python scripts/cvss/build_text.py --lang fr --root data --subwords 6000

Leaves {src,tgt}_unigram6000/spm_unigram_fr.{model,vocab,txt} and <split>.tsv, and fbank2unit/config_gcmvn.yaml and
config_mtl_asr_st_ctcst.yaml with relative paths. Models that are there already are used, not trained again (copy in
StreamSpeech's to go on from its checkpoints).
"""

import argparse
import sys

from echostream_plugin.data.check import Prepared, require
from echostream_plugin.data.cvss import run_step
from echostream_plugin.data.manifests import build_text


def build(corpus, size, threads, vocoder=None) -> None:
    """Subwords, tables and yamls; size: of each dictionary; then checked."""
    build_text(corpus, size, threads, vocoder)
    require(*Prepared(corpus.output, clusters=None).text())


def add_flags(parser) -> None:
    parser.add_argument("--subwords", type=int, default=6000, help="subwords of each side (default %(default)s)")
    parser.add_argument("--pieces", dest="subwords", type=int, help=argparse.SUPPRESS)  # as it was called before
    parser.add_argument(
        "--threads", type=int, default=4, help="of SentencePiece; its sums differ by their number (default %(default)s)"
    )
    parser.add_argument("--vocoder", nargs=2, metavar=("CHECKPOINT", "CONFIG"), help="noted in config_gcmvn.yaml")


def main(argv=None) -> int:
    def step(corpus, args):
        build(corpus, args.subwords, args.threads, args.vocoder)

    return run_step(__doc__, step, argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
