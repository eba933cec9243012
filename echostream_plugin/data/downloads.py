"""What has to be fetched for CVSS-C, from where, and what of it is there. Nothing here opens a connection."""

import os
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.data import DataError
from echostream_plugin.data.cvss import Corpus
from echostream_plugin.data.layout import SPLITS

COMMON_VOICE = "https://commonvoice.mozilla.org/datasets"
COVOST = "https://github.com/facebookresearch/covost"
CVSS = "https://github.com/google-research-datasets/cvss"
TEXTLESS = (
    "https://github.com/facebookresearch/fairseq/blob/ust/examples/speech_to_speech/docs/textless_s2st_real_data.md"
)
FILES = "https://dl.fbaipublicfiles.com"
VOCODER = f"{FILES}/fairseq/speech_to_speech/vocoder/code_hifigan/mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj"
HUBERT_NAME = "mhubert_base_vp_en_es_fr_it3.pt"
KMEANS_NAME = "mhubert_base_vp_en_es_fr_it3_L11_km1000.bin"
# bytes of the archive, clips in it, rows of validated.tsv, of release 4 (2019-12-10), by Common Voice's own statistics
COMMON_VOICE_4 = {
    "fr": (11_572_099_037, 311_742, 264_897),
    "de": (15_073_085_593, 413_561, 370_976),
    "es": (6_226_191_576, 148_372, 112_127),
}


@dataclass(frozen=True)
class Download:
    """One thing to fetch. `paths`: what it leaves, all of which must be there; `archive`: where its archive may lie."""

    name: str
    source: str
    page: str
    size: str
    step: str
    paths: tuple[Path, ...]
    archive: Path | None = None

    def state(self) -> str:
        """'there', or what is wrong and what to do."""
        missing = [path for path in self.paths if not path.exists()]
        empty = [path for path in self.paths if path.exists() and is_empty(path)]
        if not missing and not empty:
            return "there"
        if self.archive is not None and self.archive.is_file():
            return f"not unpacked: tar -xzf {self.archive} -C {self.archive.parent}"
        if empty:
            return f"empty: {empty[0]}"
        return f"missing: {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")


def is_empty(path: Path) -> bool:
    """An empty file, or a folder with nothing in it."""
    if path.is_dir():
        with os.scandir(path) as entries:
            return next(entries, None) is None
    return path.stat().st_size == 0


def downloads(corpus: Corpus, hubert: Path, kmeans: Path, vocoder: Path) -> list[Download]:
    """Everything for one language pair. vocoder: the folder of its checkpoint and its config."""
    lang = corpus.language
    size = COMMON_VOICE_4.get(lang)
    table = corpus.covost / f"covost_v2.{lang}_en.tsv"
    table_archive = table.with_name(table.name + ".tar.gz")
    archive = f"cvss_c_{lang.split('-')[0]}_en_v1.0.tar.gz"
    return [
        Download(
            f"Common Voice 4, {lang}.tar.gz", f"release cv-corpus-4-2019-12-10, {lang}.tar.gz", COMMON_VOICE,
            f"{size[0] / 1e9:.1f} GB" if size else "?", "features",
            (corpus.covost / "validated.tsv", corpus.covost / "clips"), corpus.covost / f"{lang}.tar.gz",
        ),
        Download(
            f"CoVoST 2, {table_archive.name}", f"{FILES}/covost/{table_archive.name}", COVOST, "?", "features",
            # the steps read the archive too
            (table_archive if table_archive.is_file() else table,),
        ),
        Download(
            f"CVSS-C, {archive}", f"https://storage.googleapis.com/cvss/cvss_c_v1.0/{archive}", CVSS, "?",
            "features (tables), units (speech)",
            tuple(corpus.cvss / name for split in SPLITS for name in (f"{split}.tsv", split)), corpus.cvss / archive,
        ),
        Download(
            f"mHuBERT, {HUBERT_NAME}", f"{FILES}/hubert/{HUBERT_NAME}", TEXTLESS, "0.3 GB", "units", (hubert,)
        ),
        Download(f"k-means, {KMEANS_NAME}", f"{FILES}/hubert/{KMEANS_NAME}", TEXTLESS, "3 MB", "units", (kmeans,)),
        Download(
            "vocoder, g_00500000", f"{VOCODER}/g_00500000", TEXTLESS, "?", "speech (evaluation)",
            (vocoder / "g_00500000",),
        ),
        Download(
            "vocoder, config.json", f"{VOCODER}/config.json", TEXTLESS, "2 kB", "speech (evaluation)",
            (vocoder / "config.json",),
        ),
    ]  # fmt: skip


def count_clips(corpus: Corpus) -> list[str]:
    """Where the tables are there: how many of the recordings that they name are there, a line a split and side."""
    lines = []
    try:
        for split in SPLITS:
            rows = corpus.utterances(split)
            for side, column in (("source clips", "src_wav"), ("English wavs", "tgt_wav")):
                folder = Path(rows[0][column]).parent
                names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
                there = sum(Path(row[column]).name in names for row in rows)
                lines.append(f"{split}: {there} of {len(rows)} {side}" + ("" if there == len(rows) else "  <- not all"))
    except DataError as error:
        lines.append(f"recordings not counted: {error}")
    return lines
