"""The target side: units of the English speech, by a HuBERT and a k-means model that the user names."""

import sys
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from echostream_plugin.data import DataError
from echostream_plugin.data.layout import SPLITS, Layout, need_files
from echostream_plugin.data.parallel import Shard, Workers
from echostream_plugin.data.tables import keyed_lines, write_lines
from echostream_plugin.data.units import UnitsLog, nearest_units
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.errors import InputError

MIN_SAMPLES = 400  # at 16 kHz: what HuBERT's convolutions need for one frame
_worker: dict = {}  # what a process keeps between recordings


def start_worker(make_features: Callable, centres: np.ndarray) -> None:
    """make_features() -> features: wave float32 [n] at 16 kHz -> [T, D]; centres: [K, D]."""
    _worker["features"], _worker["centres"] = make_features(), centres


def units_or_reason(path: str) -> list[int] | str:
    """A unit for every 20 ms of a recording, or why there are none."""
    try:
        wave = read_mono(path)
    except InputError as error:
        return str(error)
    if len(wave) < MIN_SAMPLES:
        return f"{path}: shorter than 25 ms"
    return nearest_units(_worker["features"](wave), _worker["centres"])


def build_units(
    corpus: Layout, make_features: Callable, centres, workers: Workers, shard: Shard, max_missing_percent: float = 1.0
) -> None:
    """Units of a shard (or of all recordings), a file a split; what is interrupted resumes."""
    waiting, logs = [], {}
    for split in corpus.splits:
        target = shard.place(corpus.units_path(split))
        if not target.is_file():
            rows = shard.take(corpus.utterances(split))
            need_files(rows, "tgt_wav", max_missing_percent)
            log = logs[split] = UnitsLog(target)
            waiting += [(log, row) for row in rows if row["id"] not in log.done]
    paths = [row["tgt_wav"] for _, row in waiting]
    results = workers.ordered(units_or_reason, paths, "units", start_worker, (make_features, centres))
    for (log, row), found in zip(waiting, results, strict=True):
        if isinstance(found, str):
            tqdm.write(f"skipped: {found}", file=sys.stderr)
            found = ()
        log.add(row["id"], found)
    for log in logs.values():
        log.close()


def merge_units(corpus: Layout, count: int) -> None:
    """One file a split of the parts of all shards, in the corpus's order."""
    for split in SPLITS:
        target = corpus.units_path(split)
        if target.is_file():
            continue
        lines = {}
        for shard in Shard(1, count).of_all():
            part = shard.place(target)
            if not part.is_file():
                raise DataError(f"{part}: not there; make it with build_units.py --shard {shard.number}/{count}")
            lines |= keyed_lines(part)
        rows = corpus.utterances(split)
        missing = [row["id"] for row in rows if row["id"] not in lines]
        if missing:
            raise DataError(f"{target}: no part has utterance {missing[0]}; were the parts made from the same tables?")
        write_lines(target, (f"{row['id']}|{lines[row['id']]}" for row in rows))
