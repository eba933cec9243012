#!/usr/bin/env python3
"""CVSS-C step 0: what to fetch, from where, for which step, and what of it is there. It opens no connection.

    python scripts/cvss/check_downloads.py --lang fr --root data

Expects data/covost2/fr, data/cvss-c/fr-en and data/models; each can be named by itself. The exit status is 0 when all
is there.
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.data.cvss import add_corpus_flags, corpus_of
from echostream_plugin.data.downloads import (
    HUBERT_NAME,
    KMEANS_NAME,
    count_clips,
    downloads,
)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_corpus_flags(parser)
    parser.add_argument("--hubert", type=Path, help=f"if not ROOT/models/{HUBERT_NAME}")
    parser.add_argument("--kmeans", type=Path, help=f"if not ROOT/models/{KMEANS_NAME}")
    parser.add_argument("--vocoder", type=Path, help="folder of g_00500000 and config.json, if not ROOT/models/vocoder")
    args = parser.parse_args(argv)
    models = (args.root or Path()) / "models"
    corpus = corpus_of(args)
    hubert, kmeans = args.hubert or models / HUBERT_NAME, args.kmeans or models / KMEANS_NAME
    missing = 0
    for item in downloads(corpus, hubert, kmeans, args.vocoder or models / "vocoder"):
        state = item.state()
        print(f"{'ok     ' if state == 'there' else 'MISSING'} {item.name}  ({item.size}; for: {item.step})")
        if state != "there":
            missing += 1
            print(f"        {state}\n        from {item.source}\n        page {item.page}")
    lines = count_clips(corpus)
    print("\n".join(lines))
    incomplete = sum("<- not all" in line for line in lines)
    print(f"{missing} of the downloads missing" if missing else "all downloads are there")
    return 1 if missing or incomplete else 0


if __name__ == "__main__":
    sys.exit(main())
