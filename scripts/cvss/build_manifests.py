#!/usr/bin/env python3
"""CVSS-C step 3: the manifests that fairseq trains from, and SimulEval's lists.

    python scripts/cvss/build_manifests.py --covost covost2/fr --cvss cvss-c/fr-en --language fr

Leaves fbank2unit/<split>.{tsv,src,txt,unit} (units reduced, paths relative to the folder) and
simuleval/<split>/{wav_list,target,src,unit}.txt.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm  # noqa: E402

from echostream_plugin.data import DataError  # noqa: E402
from echostream_plugin.data.cvss import SPLITS, run_step  # noqa: E402
from echostream_plugin.data.feature_zip import read_index  # noqa: E402
from echostream_plugin.data.tables import MANIFEST_COLUMNS, normalise, write_lines, write_table  # noqa: E402
from echostream_plugin.data.units import read_units, reduce_units  # noqa: E402


def manifest_row(corpus, row: dict, feature: dict, units: list[int]) -> dict:
    """One utterance of fbank2unit/<split>.tsv."""
    reduced = reduce_units(units)
    return {
        "id": row["id"],
        "src_audio": f"../{corpus.feature_zip.name}:{feature['offset']}:{feature['size']}",
        "src_n_frames": feature["frames"],
        "src_text": row["src_text"],
        "tgt_text": row["tgt_text"],
        "tgt_audio": " ".join(map(str, reduced)),
        "tgt_n_frames": len(reduced),
    }


def build(corpus) -> None:
    index = read_index(corpus.feature_zip)
    for split in SPLITS:
        rows, units = corpus.read_list(split), read_units(corpus.units_path(split))
        missing = [row["id"] for row in rows if not units.get(row["id"])]
        if missing:
            raise DataError(f"{corpus.units_path(split)}: no units for {len(missing)} utterances, such as {missing[0]}")
        bar = tqdm(rows, desc=f"manifest {split}", unit="utt")
        manifest = [manifest_row(corpus, row, index[row["id"]], units[row["id"]]) for row in bar]
        folder = corpus.data_folder
        write_table(folder / f"{split}.tsv", MANIFEST_COLUMNS, manifest)
        write_lines(folder / f"{split}.src", (row["src_text"] for row in manifest))
        write_lines(folder / f"{split}.txt", (row["tgt_text"] for row in manifest))
        write_lines(folder / f"{split}.unit", (row["tgt_audio"] for row in manifest))
        lists = corpus.output / "simuleval" / split
        write_lines(lists / "wav_list.txt", (Path(row["src_wav"]).resolve() for row in rows))
        write_lines(lists / "target.txt", (" ".join(row["tgt_text"].split()) for row in rows))
        write_lines(lists / "src.txt", (normalise(row["src_text"]) for row in rows))
        write_lines(lists / "unit.txt", (row["tgt_audio"] for row in manifest))


def main(argv=None) -> int:
    return run_step(__doc__, lambda corpus, args: build(corpus), argv)


if __name__ == "__main__":
    sys.exit(main())
