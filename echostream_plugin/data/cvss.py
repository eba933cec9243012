"""CVSS-C (English speech) joined with CoVoST 2 (source speech and text), in the folders that their archives unpack to.

    covost2/fr/validated.tsv, covost2/fr/covost_v2.fr_en.tsv (or .tar.gz), covost2/fr/clips/*.mp3
    cvss-c/fr-en/{train,dev,test}.tsv, cvss-c/fr-en/{train,dev,test}/*.mp3.wav
"""

import argparse
import csv
import io
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import read_table, write_table
from echostream_plugin.inference.errors import InputError

SPLITS = ("train", "dev", "test")
LIST_COLUMNS = ("id", "src_wav", "tgt_wav", "src_text", "tgt_text")


@dataclass(frozen=True)
class Corpus:
    """Where one language pair lies; `output` gets everything that is made."""

    covost: Path
    cvss: Path
    output: Path
    language: str

    def utterances(self, split: str) -> list[dict]:
        """id, src_wav, tgt_wav, src_text, tgt_text of every utterance that both corpora have, in CoVoST's order."""
        clips = read_table(self.covost / "validated.tsv", ("path", "sentence"))
        spoken = {row["path"]: row["sentence"] for row in clips}
        english = self._english(split)
        rows = []
        for row in self._covost_table():
            in_split = row["split"] == split or (split == "train" and row["split"] == "train_covost")
            path = row["path"]
            if in_split and path in spoken and path in english:
                rows.append({
                    "id": path.removesuffix(".mp3"), "src_wav": str(self.covost / "clips" / path),
                    "tgt_wav": str(self.cvss / split / f"{path}.wav"), "src_text": spoken[path],
                    "tgt_text": english[path],
                })  # fmt: skip
        if not rows:
            raise DataError(f"{self.cvss / split}.tsv: no utterance of {self.covost}'s {split} split is in it")
        return rows

    def _english(self, split: str) -> dict[str, str]:
        path = self.cvss / f"{split}.tsv"
        if not path.is_file():
            raise DataError(f"{path}: no such table; unpack cvss_c_{self.language}_en_v1.0.tar.gz there")
        texts = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            clip, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{path}:{number}: expected 'clip TAB translation'")
            texts[clip] = text
        return texts

    def _covost_table(self) -> list[dict]:
        table = self.covost / f"covost_v2.{self.language}_en.tsv"
        if table.is_file():
            return read_table(table, ("path", "translation", "split"))
        archive = table.with_name(table.name + ".tar.gz")
        if not archive.is_file():
            raise DataError(f"{table}: no such table, nor {archive.name}; CoVoST 2 offers it for download")
        with tarfile.open(archive) as tar:
            member = tar.extractfile(table.name)
            text = io.TextIOWrapper(member, encoding="utf-8", newline="")
            return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))

    def list_path(self, split: str) -> Path:
        """The table of usable utterances that the features step leaves for the later ones."""
        return self.output / "utterances" / f"{split}.tsv"

    def write_list(self, split: str, rows) -> None:
        write_table(self.list_path(split), LIST_COLUMNS, rows)

    def read_list(self, split: str) -> list[dict]:
        path = self.list_path(split)
        if not path.is_file():
            raise DataError(f"{path}: not made yet; run scripts/cvss/build_features.py first")
        return read_table(path, LIST_COLUMNS)

    @property
    def feature_zip(self) -> Path:
        return self.output / "src_fbank80.zip"

    @property
    def data_folder(self) -> Path:
        return self.output / "fbank2unit"

    def units_path(self, split: str) -> Path:
        return self.output / "units" / f"{split}.txt"

    def pieces_folder(self, side: str, size: int) -> Path:
        return self.output / f"{side}_unigram{size}"


def run_step(doc: str, build, argv=None, add_flags=None) -> int:
    """The command line of a step: `build(corpus, args)`; an error in the data is said and is the exit status 1."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--covost", type=Path, required=True, help="CoVoST 2 of the language, such as covost2/fr")
    parser.add_argument("--cvss", type=Path, required=True, help="CVSS-C of the pair, such as cvss-c/fr-en")
    parser.add_argument("--language", default="fr", help="source language (default %(default)s)")
    parser.add_argument("--output", type=Path, help="where to put what is made (default: the --cvss folder)")
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    try:
        for path in (args.covost, args.cvss):
            if not path.is_dir():
                raise DataError(f"{path}: no such folder")
        build(Corpus(args.covost, args.cvss, args.output or args.cvss, args.language), args)
    except (DataError, ConfigError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
