"""A corpus's tables: what fairseq trains from, SimulEval's lists, SentencePiece models and dictionaries."""

from pathlib import Path

from tqdm import tqdm

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import read_index, read_skipped
from echostream_plugin.data.layout import SPLITS, Layout
from echostream_plugin.data.pieces import DECODER, load_pieces, train_pieces, write_configs, write_task_table
from echostream_plugin.data.tables import MANIFEST_COLUMNS, cell, normalise, write_lines, write_table
from echostream_plugin.data.units import read_units, reduce_units

SIDES = (("src", "src_text"), ("tgt", "tgt_text"))


def manifest_row(corpus: Layout, row: dict, feature: dict, units: list[int]) -> dict:
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


def build_manifests(corpus: Layout) -> dict[str, int]:
    """fbank2unit/<split>.{tsv,src,txt,unit}, simuleval/<split>/*.txt, utterances/<split>.tsv and skipped.tsv.

    Utterances with features and units are in them; returns how many a split."""
    index, reasons = read_index(corpus.feature_zip), read_skipped(corpus.feature_zip)
    skipped, sizes = [], {}
    for split in SPLITS:
        units = read_units(corpus.units_path(split))
        usable, manifest = [], []
        for row in tqdm(corpus.utterances(split), desc=f"manifest {split}", unit="utt"):
            name = row["id"]
            if name not in units or (name not in index and name not in reasons):
                made_by = corpus.feature_zip if name in units else corpus.units_path(split)
                raise DataError(f"{made_by}: does not know utterance {name}; was it made from other tables? Remove it")
            row |= {column: cell(row[column]) for column in ("src_text", "tgt_text")}
            if name not in index or not units[name] or not normalise(row["tgt_text"]):
                no_target = f"{row['tgt_wav']}: no units" if not units[name] else f"{split}.tsv: no translation"
                skipped.append({"id": name, "why": reasons.get(name) or no_target})
                continue
            usable.append(row)
            manifest.append(manifest_row(corpus, row, index[name], units[name]))
        if not usable:
            raise DataError(f"{split}: no utterance has features and units; first: {skipped[-1]['why']}")
        _write_split(corpus, split, usable, manifest)
        _write_simuleval(corpus, split, usable, manifest)
        sizes[split] = len(usable)
    write_table(corpus.output / "skipped.tsv", ("id", "why"), skipped)
    return sizes | {"skipped": len(skipped)}


def _write_split(corpus: Layout, split: str, rows: list[dict], manifest: list[dict]) -> None:
    folder = corpus.data_folder
    write_table(folder / f"{split}.tsv", MANIFEST_COLUMNS, manifest)
    write_lines(folder / f"{split}.src", (normalise(row["src_text"]) for row in manifest))
    write_lines(folder / f"{split}.txt", (row["tgt_text"].lower() for row in manifest))
    write_lines(folder / f"{split}.unit", (row["tgt_audio"] for row in manifest))
    corpus.write_list(split, rows)


def _write_simuleval(corpus: Layout, split: str, rows: list[dict], manifest: list[dict]) -> None:
    """SimulEval's lists, in the corpus's order of evaluation."""
    place = corpus.evaluation_order(split)
    pairs = sorted(zip(rows, manifest, strict=True), key=lambda pair: place[pair[0]["id"]])
    lists = corpus.output / "simuleval" / split
    write_lines(lists / "wav_list.txt", (Path(row["src_wav"]).resolve() for row, _ in pairs))
    write_lines(lists / "target.txt", (row["tgt_text"] for row, _ in pairs))
    write_lines(lists / "src.txt", (normalise(row["src_text"]) for row, _ in pairs))
    write_lines(lists / "unit.txt", (entry["tgt_audio"] for _, entry in pairs))


def build_text(corpus: Layout, size: int, threads: int, vocoder=None, decoder=DECODER) -> None:
    """{src,tgt}_unigram<size>/: models (those that are there stay), dictionaries, tables; fbank2unit/config_*.yaml,
    with `decoder` as the MT decoder's arguments."""
    rows = {split: corpus.read_list(split) for split in SPLITS}
    name, dictionaries = f"spm_unigram_{corpus.language}", []
    for side, column in SIDES:
        folder = corpus.pieces_folder(side, size)
        if all((folder / f"{name}.{kind}").is_file() for kind in ("model", "txt")):
            processor = load_pieces(folder / f"{name}.model")
        else:
            print(f"training {size} pieces of the {side} side; minutes for a whole CVSS-C pair")
            processor = train_pieces(folder, name, (normalise(row[column]) for row in rows["train"]), size, threads)
        for split in tqdm(SPLITS, desc=f"{side} pieces", unit="split"):
            write_task_table(folder / f"{split}.tsv", rows[split], column, processor)
        dictionaries.append(folder / f"{name}.txt")
    write_configs(corpus.data_folder, *dictionaries, vocoder, decoder=decoder)
