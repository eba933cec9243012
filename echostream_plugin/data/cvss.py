"""CVSS-C (English speech) joined with CoVoST 2 (source speech and text), in the folders that their archives unpack to.

covost2/fr/validated.tsv, covost2/fr/covost_v2.fr_en.tsv (or .tar.gz), covost2/fr/clips/*.mp3
cvss-c/fr-en/{train,dev,test}.tsv, cvss-c/fr-en/{train,dev,test}/*.mp3.wav
"""

import argparse
import io
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.layout import SPLITS as SPLITS
from echostream_plugin.data.layout import Layout
from echostream_plugin.data.tables import rows_of, stream_table
from echostream_plugin.inference.errors import InputError

COVOST_COLUMNS = ("path", "translation", "split")
# CoVoST 2's languages that are translated into English; French, Spanish and German are StreamSpeech's
LANGUAGES = (
    "fr", "es", "de", "ca", "it", "ru", "zh-CN", "pt", "fa", "et", "mn", "nl", "tr", "ar", "sv-SE", "lv", "sl", "ta",
    "ja", "id", "cy",
)  # fmt: skip


@dataclass(frozen=True)
class Corpus(Layout):
    """Where one language pair lies; `output` gets everything that is made."""

    covost: Path
    cvss: Path
    output: Path
    language: str

    def utterances(self, split: str) -> list[dict]:
        """id, src_wav, tgt_wav, src_text, tgt_text of every utterance that both corpora have.

        In the order of Common Voice's validated.tsv, as StreamSpeech's manifests are.
        """
        return list(self.stream(split))

    def stream(self, split: str) -> Iterator[dict]:
        """The rows of `utterances` one after the other, so that memory need not hold them."""
        english, found = self.english(split), False
        for row in stream_table(self.covost / "validated.tsv", ("path", "sentence")):
            path = row["path"]
            if path in english and self._split_of.get(path) == split:
                found = True
                yield {
                    "id": path.removesuffix(".mp3"), "src_wav": str(self.covost / "clips" / path),
                    "tgt_wav": str(self.cvss / split / f"{path}.wav"), "src_text": row["sentence"],
                    "tgt_text": english[path],
                }  # fmt: skip
        if not found:
            raise DataError(f"{self.cvss / split}.tsv: no utterance of {self.covost}'s {split} split is in it")

    def evaluation_order(self, split: str) -> dict[str, int]:
        """The place of each utterance in CVSS's table, which StreamSpeech's lists follow."""
        return {Path(clip).stem: place for place, clip in enumerate(self.english(split))}

    @cached_property
    def _split_of(self) -> dict[str, str]:
        """Clip -> CoVoST's split; what CoVoST added to Common Voice's training split belongs to it."""
        splits = {split: split for split in SPLITS}  # one string for all rows
        named = ((row["path"], row["split"].replace("train_covost", "train")) for row in self._covost_table())
        return {path: splits.get(split, split) for path, split in named}

    def english(self, split: str) -> dict[str, str]:
        """Clip -> normalised translation, in CVSS's order."""
        path = self.cvss / f"{split}.tsv"
        if not path.is_file():
            raise DataError(f"{path}: no such table; unpack cvss_c_{self.language}_en_v1.0.tar.gz there")
        texts = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), 1):
            clip, tab, text = line.partition("\t")
            if not tab:
                raise DataError(f"{path}:{number}: expected 'clip TAB translation'")
            texts[clip] = text
        return texts

    def _covost_table(self) -> Iterator[dict]:
        table = self.covost / f"covost_v2.{self.language}_en.tsv"
        if table.is_file():
            yield from stream_table(table, COVOST_COLUMNS)
            return
        archive = table.with_name(table.name + ".tar.gz")
        if not archive.is_file():
            raise DataError(f"{table}: no such table, nor {archive.name}; CoVoST 2 offers it for download")
        try:
            with tarfile.open(archive) as tar:
                text = io.TextIOWrapper(tar.extractfile(table.name), encoding="utf-8", newline="")
                yield from rows_of(text, table, COVOST_COLUMNS)
        except (tarfile.TarError, EOFError, KeyError) as error:
            raise DataError(f"{archive}: not whole, or {table.name} is not in it ({error}); fetch it again") from error


def add_corpus_flags(parser: argparse.ArgumentParser) -> None:
    """--lang, --root, --covost, --cvss, --output; `corpus_of` reads them."""
    parser.add_argument(
        "--lang", "--language", dest="language", choices=LANGUAGES, default="fr", metavar="LANG",
        help="source language: fr, es, de, or another of CVSS-C (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder with covost2/LANG and cvss-c/LANG-en")
    parser.add_argument("--covost", type=Path, help="CoVoST 2 of the language, if not ROOT/covost2/LANG")
    parser.add_argument("--cvss", type=Path, help="CVSS-C of the pair, if not ROOT/cvss-c/LANG-en")
    parser.add_argument("--output", type=Path, help="where to put what is made (default: the CVSS-C folder)")


def corpus_of(args) -> Corpus:
    """The corpus that the flags name; its folders may not be there."""
    root = args.root or Path()
    covost = args.covost or root / "covost2" / args.language
    cvss = args.cvss or root / "cvss-c" / f"{args.language}-en"
    return Corpus(covost, cvss, args.output or cvss, args.language)


def run_step(doc: str, build, argv=None, add_flags=None) -> int:
    """The command line of a step: `build(corpus, args)`; an error in the data is said and is the exit status 1."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_corpus_flags(parser)
    if add_flags is not None:
        add_flags(parser)
    args = parser.parse_args(argv)
    try:
        corpus = corpus_of(args)
        for path in (corpus.covost, corpus.cvss):
            if not path.is_dir():
                raise DataError(f"{path}: no such folder; scripts/cvss/check_downloads.py says what to fetch")
        build(corpus, args)
    except (DataError, ConfigError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
