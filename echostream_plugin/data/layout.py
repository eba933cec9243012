"""Where the files of a prepared corpus lie: StreamSpeech's layout, the same for every corpus that it is made of."""

import os
from collections.abc import Iterator
from pathlib import Path

from echostream_plugin.data import DataError
from echostream_plugin.data.tables import read_table

SPLITS = ("train", "dev", "test")
LIST_COLUMNS = ("id", "src_wav", "tgt_wav", "src_text", "tgt_text")


class Layout:
    """A folder `output` for everything that is made of a corpus; a corpus says what its `utterances` are.

    output: the folder; language: of the source, which names the SentencePiece models as StreamSpeech does."""

    output: Path
    language: str
    splits: tuple = SPLITS

    def utterances(self, split: str) -> list[dict]:
        """id, src_wav, tgt_wav, src_text, tgt_text of every utterance of a split, in the order of the manifest."""
        raise NotImplementedError

    def stream(self, split: str) -> Iterator[dict]:
        """The same, one after the other; a corpus that need not hold them all says how."""
        yield from self.utterances(split)

    def evaluation_order(self, split: str) -> dict[str, int]:
        """The place of each utterance (by id) in SimulEval's lists: the manifest's, where a corpus has no other."""
        return {row["id"]: place for place, row in enumerate(self.utterances(split))}

    def all_utterances(self) -> list[dict]:
        """Those of all splits, one after the other, each with its `split`."""
        return [row | {"split": split} for split in self.splits for row in self.utterances(split)]

    def list_path(self, split: str) -> Path:
        """The table of usable utterances that the manifests step leaves for the text step."""
        return self.output / "utterances" / f"{split}.tsv"

    def read_list(self, split: str) -> list[dict]:
        """The rows of `list_path`. Raises DataError where it is not made yet."""
        path = self.list_path(split)
        if not path.is_file():
            raise DataError(f"{path}: not made yet; run scripts/cvss/build_manifests.py first")
        return read_table(path, LIST_COLUMNS)

    @property
    def feature_zip(self) -> Path:
        """Where the source features lie."""
        return self.output / "src_fbank80.zip"

    @property
    def data_folder(self) -> Path:
        """fairseq's data folder."""
        return self.output / "fbank2unit"

    def units_path(self, split: str) -> Path:
        """Where the units of a split lie."""
        return self.output / "units" / f"{split}.txt"

    def subwords_folder(self, side: str, size: int) -> Path:
        """Where dictionary and table of a side (src or tgt) lie."""
        return self.output / f"{side}_unigram{size}"


def need_files(rows: list[dict], column: str, max_missing_percent: float) -> None:
    """Refuse to begin where too many recordings are not there: then the download is not whole."""
    folders = {Path(row[column]).parent for row in rows}
    there = {folder: {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set() for folder in folders}
    paths = [Path(row[column]) for row in rows]
    missing = [path for path in paths if path.name not in there[path.parent]]
    if len(missing) > max_missing_percent / 100 * len(rows):
        raise DataError(
            f"{missing[0]}: no such recording, nor {len(missing) - 1} others of {len(rows)}; unpack the whole archive, "
            f"or go on without them by --max-missing {100 * len(missing) // len(rows) + 1} (percent)"
        )
