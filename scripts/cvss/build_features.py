#!/usr/bin/env python3
"""CVSS-C step 1: log-mel features of the source clips in one zip, their mean and variance.

    python scripts/cvss/build_features.py --lang fr --root data --jobs 8

Leaves src_fbank80.zip (stored, not compressed) with its index, and gcmvn.npz over the training split. The same command
resumes where it was stopped. Clips that are missing, unreadable or shorter than 25 ms are noted in the index.

On several machines with the same folder, machine I of N and then any one of them:

    python scripts/cvss/build_features.py --lang fr --root data --shard I/N
    python scripts/cvss/build_features.py --lang fr --root data --merge N

or on a Ray cluster: --ray [ADDRESS]. The result is the same bytes however it was made.
"""

import sys

from echostream_plugin.data.check import check_cmvn, check_zip, require
from echostream_plugin.data.cvss import run_step
from echostream_plugin.data.feature_zip import read_skipped
from echostream_plugin.data.parallel import Shard, Workers, add_worker_flags, workers_of
from echostream_plugin.data.source_features import build_features, merge_features, write_moments

GIGABYTES = 0.6  # of memory that a process needs


def build(corpus, workers=Workers(), shard=Shard(), merge=None, max_missing=1.0) -> None:  # noqa: B008 (frozen)
    """The zip and its moments, of all clips or a shard, or joined from `merge` parts; then checked."""
    if merge:
        merge_features(corpus, merge)
    else:
        build_features(corpus, workers, shard, max_missing)
    made = shard.place(corpus.feature_zip)
    require(check_zip(made))
    skipped = read_skipped(made)
    print(f"{made}: {len(skipped)} skipped" + "".join(f"\n  {why}" for why in list(skipped.values())[:3]))
    if shard.count == 1:
        write_moments(corpus)
        require(check_cmvn(corpus.output / "gcmvn.npz"))


def add_flags(parser) -> None:
    add_worker_flags(parser)
    parser.add_argument("--max-missing", type=float, default=1.0, help="percent of clips that may be missing (1)")


def main(argv=None) -> int:
    def step(corpus, args):
        build(corpus, workers_of(args, gigabytes_each=GIGABYTES), args.shard, args.merge, args.max_missing)

    return run_step(__doc__, step, argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
