#!/usr/bin/env python3
"""CVSS-C step 1: log-mel features of the source clips in one zip, their mean and variance, and the usable utterances.

    python scripts/cvss/build_features.py --covost covost2/fr --cvss cvss-c/fr-en --language fr --jobs 8

Leaves src_fbank80.zip (stored, not compressed) with its index, gcmvn.npz over the training split, and
utterances/<split>.tsv; skipped.tsv has the clips that are missing, unreadable or shorter than 25 ms. The same command
goes on where it stopped.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from echostream_plugin.data import DataError  # noqa: E402
from echostream_plugin.data.cvss import SPLITS, run_step  # noqa: E402
from echostream_plugin.data.feature_zip import FeatureZip, Moments, read_index, read_member  # noqa: E402
from echostream_plugin.data.parallel import ordered  # noqa: E402
from echostream_plugin.data.tables import keyed_lines, write_table  # noqa: E402
from echostream_plugin.inference.audio import read_audio  # noqa: E402
from echostream_plugin.inference.errors import InputError  # noqa: E402
from echostream_plugin.inference.features import MEL_BINS, features_of  # noqa: E402


def features_or_reason(path: str):
    """Features [T, 80] of a clip, or why there are none."""
    try:
        features = features_of(*read_audio(path), np.zeros(MEL_BINS), np.ones(MEL_BINS))
    except InputError as error:
        return str(error)
    return features if len(features) else f"{path}: shorter than 25 ms"


def build(corpus, jobs: int) -> None:
    utterances = {split: corpus.utterances(split) for split in SPLITS}
    skipped_log = corpus.output / "skipped.part"
    skipped = keyed_lines(skipped_log)
    if not corpus.feature_zip.is_file():
        store = FeatureZip(corpus.feature_zip)
        with open(skipped_log, "a", encoding="utf-8") as log:
            for split, rows in utterances.items():
                waiting = [row for row in rows if row["id"] not in store.members and row["id"] not in skipped]
                results = ordered(features_or_reason, [row["src_wav"] for row in waiting], jobs, f"features {split}")
                for row, result in zip(waiting, results, strict=True):
                    if isinstance(result, str):
                        skipped[row["id"]] = " ".join(result.split())
                        log.write(f"{row['id']}|{skipped[row['id']]}\n")
                        log.flush()
                    else:
                        store.add(row["id"], result)
        store.close()
    index = read_index(corpus.feature_zip)
    for split, rows in utterances.items():
        usable = [row for row in rows if row["id"] in index]
        if not usable:
            raise DataError(f"{corpus.covost / 'clips'}: no usable clip of the {split} split; see {skipped_log}")
        corpus.write_list(split, usable)
    write_table(corpus.output / "skipped.tsv", ("id", "why"), [{"id": i, "why": why} for i, why in skipped.items()])
    write_moments(corpus, index)
    print(f"{corpus.feature_zip}: {len(index)} utterances; {len(skipped)} skipped, see {corpus.output / 'skipped.tsv'}")


def write_moments(corpus, index) -> None:
    """gcmvn.npz of the training split, read back from the zip."""
    path = corpus.output / "gcmvn.npz"
    if path.is_file():
        return
    from tqdm import tqdm

    moments = Moments()
    for row in tqdm(corpus.read_list("train"), desc="mean and variance", unit="utt"):
        moments.add(read_member(corpus.feature_zip, index[row["id"]]))
    moments.save(path)


def main(argv=None) -> int:
    def add_flags(parser):
        parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default %(default)s)")

    return run_step(__doc__, lambda corpus, args: build(corpus, args.jobs), argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
