"""The source side: log-mel features of the clips in one zip, and their mean and variance."""

import numpy as np
from tqdm import tqdm

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import FeatureZip, Moments, merge_zips, read_index, read_member
from echostream_plugin.data.layout import Layout, need_files
from echostream_plugin.data.parallel import Shard, Workers
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.features import raw_features


def features_or_reason(path: str) -> np.ndarray | str:
    """Features [T, 80] of a clip without CMVN, or why there are none."""
    try:
        features = raw_features(*read_audio(path))
    except InputError as error:
        return str(error)
    return features if len(features) else f"{path}: shorter than 25 ms"


def build_features(corpus: Layout, workers: Workers, shard: Shard, max_missing_percent: float = 1.0) -> None:
    """The zip of a shard (or of all clips); an interrupted one resumes."""
    target = shard.place(corpus.feature_zip)
    if target.is_file():
        return
    rows = shard.take(corpus.all_utterances())
    need_files(rows, "src_wav", max_missing_percent)
    store = FeatureZip(target)
    waiting = [row for row in rows if row["id"] not in store]
    results = workers.ordered(features_or_reason, [row["src_wav"] for row in waiting], f"features {target.name}")
    for row, result in zip(waiting, results, strict=True):
        if isinstance(result, str):
            store.skip(row["id"], result)
        else:
            store.add(row["id"], result)
    store.close()


def merge_features(corpus: Layout, count: int) -> None:
    """One zip of the parts of all shards."""
    if corpus.feature_zip.is_file():
        return
    parts = [shard.place(corpus.feature_zip) for shard in Shard(1, count).of_all()]
    for number, part in enumerate(parts, 1):
        if not part.is_file():
            raise DataError(f"{part}: not there; make it with build_features.py --shard {number}/{count}")
    rows = corpus.all_utterances()
    merge_zips(corpus.feature_zip, parts, (row["id"] for row in tqdm(rows, desc="join features", unit="utt")))


def write_moments(corpus: Layout) -> None:
    """gcmvn.npz of the training split, read back from the zip."""
    path = corpus.output / "gcmvn.npz"
    if path.is_file():
        return
    index = read_index(corpus.feature_zip)
    rows = [row for row in corpus.utterances("train") if row["id"] in index]
    moments = Moments()
    for row in tqdm(rows, desc="mean and variance", unit="utt"):
        moments.add(read_member(corpus.feature_zip, index[row["id"]]))
    moments.save(path)
