#!/usr/bin/env python3
"""CVSS-C step 2: units of the English speech, by HuBERT and k-means models that you name.

    python scripts/cvss/build_units.py --covost covost2/fr --cvss cvss-c/fr-en --language fr \\
        --hubert mhubert_base_vp_en_es_fr_it3.pt --layer 11 --kmeans mhubert_base_vp_en_es_fr_it3_L11_km1000.bin

Leaves units/<split>.txt with lines `id|u u u ...`, one unit every 20 ms. The same command goes on where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from echostream_plugin.data.cvss import SPLITS, run_step  # noqa: E402
from echostream_plugin.data.units import load_centres, nearest_units, read_wave, write_units  # noqa: E402


def build(corpus, features, centres) -> None:
    """features: wave float32 [n] at 16 kHz -> [T, D]; centres: [K, D]."""
    for split in SPLITS:
        rows = corpus.read_list(split)
        write_units(
            corpus.units_path(split),
            rows,
            lambda wav: nearest_units(features(read_wave(wav)), centres),
            progress=f"units {split}",
        )


def build_with_hubert(corpus, args) -> None:
    centres = load_centres(args.kmeans)
    from echostream_plugin.fairseq_ext.hubert import HubertFeatures

    build(corpus, HubertFeatures(args.hubert, args.layer, args.device), centres)


def add_flags(parser) -> None:
    parser.add_argument("--hubert", type=Path, required=True, help="fairseq checkpoint of HuBERT (a pickle)")
    parser.add_argument("--layer", type=int, default=11, help="its layer (default %(default)s)")
    parser.add_argument("--kmeans", type=Path, required=True, help="k-means of that layer: joblib (a pickle) or .npy")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")


def main(argv=None) -> int:
    return run_step(__doc__, build_with_hubert, argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
