"""A corpus's tables: what fairseq trains from, SimulEval's lists, SentencePiece models and dictionaries."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import read_places
from echostream_plugin.data.layout import LIST_COLUMNS, SPLITS, Layout
from echostream_plugin.data.subwords import (
    DECODER,
    alphabet_size,
    load_subwords,
    train_subwords,
    write_configs,
    write_task_table,
)
from echostream_plugin.data.tables import MANIFEST_COLUMNS, GrowingFile, cell, table_line, write_table
from echostream_plugin.data.units import UNITS_NOTE, UnitsFile
from echostream_plugin.data.waveforms import frames_of
from echostream_plugin.inference.words import normalise
from echostream_plugin.units import reduce_units

# languages of thousands of characters: the part of the text that SentencePiece recommends to cover, so that rare ones
# take no piece each
MANY_CHARACTERS, PART_OF_THEM = 500, 0.9995
WRITTEN_IN_MANY = ("zh-CN", "ja")
SIDES = (("src", "src_text"), ("tgt", "tgt_text"))


def manifest_row(row: dict, src_audio: str, frames: int, units: list[int]) -> dict:
    """One utterance of fbank2unit/<split>.tsv. row: id, src_text, tgt_text; src_audio: `zip:offset:size` of stored
    features, or a recording; frames: of 10 ms; units: at 50 Hz, repeats included."""
    reduced = reduce_units(units)
    return {
        "id": row["id"],
        "src_audio": src_audio,
        "src_n_frames": frames,
        "src_text": row["src_text"],
        "tgt_text": row["tgt_text"],
        "tgt_audio": " ".join(map(str, reduced)),
        "tgt_n_frames": len(reduced),
    }


def stored_source(corpus: Layout):
    """source(row) -> (src_audio, frames) of the corpus's feature zip, or why an utterance has no features."""
    places, reasons = read_places(corpus.feature_zip)

    def source(row: dict) -> tuple[str, int] | str:
        name = row["id"]
        if name in reasons:
            return reasons[name]
        if name not in places:
            raise unknown(corpus.feature_zip, name)
        offset, size, frames = places[name]
        return f"../{corpus.feature_zip.name}:{offset}:{size}", frames

    return source


def unknown(made_by: Path, name: str) -> DataError:
    """The error for an utterance that is missing in what was made before."""
    return DataError(f"{made_by}: does not know utterance {name}; was it made from other tables? Remove it")


def recorded_source(row: dict) -> tuple[str, int] | str:
    """As what `stored_source` returns: the recording itself, whose features are computed when it is read."""
    frames = frames_of(row["src_wav"])
    return (str(Path(row["src_wav"]).resolve()), frames) if frames else f"{row['src_wav']}: shorter than 25 ms"


def build_manifests(corpus: Layout, source=None) -> dict[str, int]:
    """fbank2unit/<split>.{tsv,src,txt,unit}, simuleval/<split>/*.txt, utterances/<split>.tsv and skipped.tsv.

    source: default `stored_source(corpus)`. Utterances with features and units are in them; returns how many a split.
    Rows are written as they are read: what memory holds of an utterance is its name and a few numbers."""
    source = source or stored_source(corpus)
    skipped, sizes = [], {}
    for split in SPLITS:
        sizes[split] = _build_split(corpus, split, source, skipped)
    write_table(corpus.output / "skipped.tsv", ("id", "why"), skipped)
    note = corpus.units_path(SPLITS[0]).with_name(UNITS_NOTE)
    if note.is_file():  # a training's data say which units they are
        shutil.copyfile(note, corpus.data_folder / UNITS_NOTE)
    return sizes | {"skipped": len(skipped)}


def _build_split(corpus: Layout, split: str, source, skipped: list[dict]) -> int:
    units = UnitsFile(corpus.units_path(split))
    written = []  # where each row begins in the two tables
    with _SplitFiles(corpus, split) as files:
        for row in tqdm(corpus.stream(split), desc=f"manifest {split}", unit="utt"):
            name = row["id"]
            if name not in units:
                raise unknown(corpus.units_path(split), name)
            row |= {column: cell(row[column]) for column in ("src_text", "tgt_text")}
            found, heard = units[name], source(row)
            if isinstance(heard, str) or not found or not normalise(row["tgt_text"]):
                no_target = f"{row['tgt_wav']}: no units" if not found else f"{split}.tsv: no translation"
                skipped.append({"id": name, "why": heard if isinstance(heard, str) else no_target})
                continue
            written.append((name, files.add(row, manifest_row(row, *heard, found))))
        units.close()
        if not written:
            raise DataError(f"{split}: no utterance has features and units; first: {skipped[-1]['why']}")
    _write_simuleval(corpus, split, written)
    return len(written)


class _SplitFiles:
    """The tables and lists of a split while they grow."""

    def __init__(self, corpus: Layout, split: str):
        folder = corpus.data_folder
        self.manifest, self.listed = GrowingFile(folder / f"{split}.tsv"), GrowingFile(corpus.list_path(split))
        self.manifest.add("\t".join(MANIFEST_COLUMNS))
        self.listed.add("\t".join(LIST_COLUMNS))
        self.lists = {kind: GrowingFile(folder / f"{split}.{kind}") for kind in ("src", "txt", "unit")}

    def add(self, row: dict, entry: dict) -> tuple[int, int]:
        """Returns where the row begins in the manifest and in the table of utterances."""
        self.lists["src"].add(normalise(entry["src_text"]))
        self.lists["txt"].add(entry["tgt_text"].lower())
        self.lists["unit"].add(entry["tgt_audio"])
        return self.manifest.add(table_line(MANIFEST_COLUMNS, entry)), self.listed.add(table_line(LIST_COLUMNS, row))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in (self.manifest, self.listed, *self.lists.values()):
            file.__exit__(*error)


def _write_simuleval(corpus: Layout, split: str, written: list[tuple]) -> None:
    """SimulEval's lists, in the corpus's order of evaluation. written: id, and where its row begins in the two
    tables."""
    order = corpus.evaluation_order(split)
    written.sort(key=lambda entry: order[entry[0]])
    folder = corpus.output / "simuleval" / split
    lists = {name: GrowingFile(folder / f"{name}.txt") for name in ("wav_list", "target", "src", "unit")}
    with ExitStack() as open_files:
        for file in lists.values():
            open_files.enter_context(file)
        manifest = open_files.enter_context(open(corpus.data_folder / f"{split}.tsv", "rb"))
        listed = open_files.enter_context(open(corpus.list_path(split), "rb"))
        for _, (in_manifest, in_list) in written:
            entry, row = _row_at(manifest, in_manifest, MANIFEST_COLUMNS), _row_at(listed, in_list, LIST_COLUMNS)
            lists["wav_list"].add(str(Path(row["src_wav"]).resolve()))
            lists["target"].add(entry["tgt_text"])
            lists["src"].add(normalise(entry["src_text"]))
            lists["unit"].add(entry["tgt_audio"])


def _row_at(file, begin: int, columns) -> dict:
    file.seek(begin)
    return dict(zip(columns, file.readline().decode().rstrip("\n").split("\t"), strict=True))


def build_text(corpus: Layout, size: int, threads: int, vocoder=None, decoder=DECODER) -> None:
    """{src,tgt}_unigram<size>/: models (those that are there stay), dictionaries, tables; fbank2unit/config_*.yaml,
    with `decoder` as the MT decoder's arguments."""
    rows = {split: corpus.read_list(split) for split in SPLITS}
    name, dictionaries = f"spm_unigram_{corpus.language}", []
    for side, column in SIDES:
        folder = corpus.subwords_folder(side, size)
        if all((folder / f"{name}.{kind}").is_file() for kind in ("model", "txt")):
            processor = load_subwords(folder / f"{name}.model")
        else:
            print(f"training {size} subwords of the {side} side; minutes for a whole CVSS-C pair")
            sentences = [normalise(row[column]) for row in rows["train"]]
            known = side == "src" and corpus.language in WRITTEN_IN_MANY
            many = known or alphabet_size(sentences, 1.0) > MANY_CHARACTERS
            processor = train_subwords(folder, name, sentences, size, threads, PART_OF_THEM if many else 1.0)
        for split in tqdm(SPLITS, desc=f"{side} subwords", unit="split"):
            write_task_table(folder / f"{split}.tsv", rows[split], column, processor)
        dictionaries.append(folder / f"{name}.txt")
    write_configs(corpus.data_folder, *dictionaries, vocoder, decoder=decoder)
