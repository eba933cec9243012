#!/usr/bin/env python3
"""CVSS-C step 2: units of the English speech, by HuBERT and k-means models that you name.

    python scripts/cvss/build_units.py --lang fr --root data \\
        --hubert mhubert_base_vp_en_es_fr_it3.pt --layer 11 --kmeans mhubert_base_vp_en_es_fr_it3_L11_km1000.bin

--hubert: fairseq's checkpoint (a pickle: only from a source that you trust), or a folder of the transformers library.
Leaves units/<split>.txt with lines `id|u u u ...`, one unit every 20 ms. The same command resumes where it was stopped.
Several GPUs: a shard each (--shard 1/2 --device cuda:0, --shard 2/2 --device cuda:1, then --merge 2), or --ray.
"""

import sys
from functools import partial
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data.check import check_units, require
from echostream_plugin.data.cvss import run_step
from echostream_plugin.data.layout import SPLITS
from echostream_plugin.data.parallel import Shard, Workers, add_worker_flags, workers_of
from echostream_plugin.data.target_units import build_units, merge_units
from echostream_plugin.data.units import load_centres, note_units

GIGABYTES = 2.0  # of memory that a process with a HuBERT base needs


def build(corpus, make_features, centres, workers=Workers(), shard=Shard(), max_missing=1.0) -> None:  # noqa: B008
    """make_features() -> (wave float32 [n] at 16 kHz -> [T, D]); centres: [K, D]."""
    build_units(corpus, make_features, centres, workers, shard, max_missing)
    note_units(corpus.units_path(SPLITS[0]).parent, centres)
    verify(corpus, shard, len(centres))


def verify(corpus, shard, clusters=None) -> None:
    """Check the unit files of a shard, or of all. Raises DataError."""
    for split in SPLITS:
        names = [row["id"] for row in shard.take(corpus.utterances(split))]
        require(check_units(shard.place(corpus.units_path(split)), clusters, names))


def hubert_maker(path: Path, layer: int, device: str):
    """What makes the features in each process: by transformers for a folder, by fairseq for a checkpoint."""
    if path.is_dir():
        from echostream_plugin.data.hubert import TransformersHubert

        return partial(TransformersHubert, path, layer, device)
    if not path.is_file():
        raise ConfigError(f"{path}: no such HuBERT checkpoint or folder; check_downloads.py says where it is from")
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures

    return partial(HubertFeatures, path, layer, device)


def step(corpus, args) -> None:
    """What the command line asks for: the units of a shard, or the parts joined."""
    gpus = 1 if args.device.startswith("cuda") else 0
    workers = workers_of(args, gpus_each=gpus, default_jobs=1 if gpus else None, gigabytes_each=GIGABYTES)
    if args.merge:
        merge_units(corpus, args.merge)
        return verify(corpus, Shard())
    if args.kmeans is None or args.hubert is None:
        raise ConfigError("--hubert and --kmeans must be named; check_downloads.py says where they are from")
    centres = load_centres(args.kmeans)
    make_features = hubert_maker(args.hubert, args.layer, args.device)
    build(corpus, make_features, centres, workers, args.shard, args.max_missing)


def add_flags(parser) -> None:
    parser.add_argument("--hubert", type=Path, help="fairseq checkpoint of HuBERT (a pickle), or a transformers folder")
    parser.add_argument("--layer", type=int, default=11, help="its layer (default %(default)s)")
    parser.add_argument("--kmeans", type=Path, help="k-means of that layer: joblib (a pickle) or .npy of centres")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (one process by default on a GPU)")
    add_worker_flags(parser)
    parser.add_argument("--max-missing", type=float, default=1.0, help="percent of wavs that may be missing (1)")


def main(argv=None) -> int:
    return run_step(__doc__, step, argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
