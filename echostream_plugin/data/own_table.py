"""A user's own table of parallel speech, checked row by row before anything is computed from it.

A tab- or comma-separated file with a header. Columns: `src_audio`, `src_text`, `tgt_text`, `tgt_audio` (paths absolute
or relative to the table's folder); optional: `id`, `split` (train, dev or test), `src_n_frames` (only compared).
"""

import csv
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import soundfile

from echostream_plugin.data import DataError
from echostream_plugin.data.layout import LIST_COLUMNS, SPLITS, Layout
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.tables import read_table, write_table
from echostream_plugin.inference.words import normalise

COLUMNS = ("src_audio", "src_text", "tgt_text", "tgt_audio")
CHECKED_COLUMNS = ("id", "split", "src_wav", "original", "src_text", "tgt_text")
FRAME_SECONDS = 0.01  # of a feature frame, what src_n_frames counts
MIN_SECONDS = 0.1
MOST_CHARACTERS_PER_SECOND = 45  # nobody speaks faster; texts of other recordings and cut recordings are found by it
_NAME = re.compile(r"[\w.-]+")


def read_rows(table) -> list[dict]:
    """The table's rows as dicts, each with an `id`; a missing column, an empty table, a name that is used twice or that
    cannot be a file's is a DataError that names line and column."""
    table = Path(table)
    if not table.is_file():
        raise DataError(f"{table}: no such table; it needs a header with the columns {', '.join(COLUMNS)}")
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if "\t" in file.readline() else ","
            file.seek(0)
            quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, restval="")
            rows, header = list(reader), reader.fieldnames or []
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{table}: no column '{missing[0]}'; it has {', '.join(header) or 'no header'}")
    if not rows:
        raise DataError(f"{table}: has a header but no rows")
    _name_rows(table, rows)
    return rows


def _name_rows(table: Path, rows: list[dict]) -> None:
    """Give each row its id: the column's, else the name of its source recording where those differ, else a number."""
    if "id" not in rows[0]:
        stems = [Path(row["src_audio"]).stem for row in rows]
        distinct = len(set(stems)) == len(stems) and all(map(_NAME.fullmatch, stems))
        for number, row in enumerate(rows):
            row["id"] = stems[number] if distinct else f"utt{number:06d}"
    seen = {}
    for line, row in enumerate(rows, 2):
        if None in row:
            raise DataError(f"{table}:{line}: more cells than the header has columns")
        if not _NAME.fullmatch(row["id"]):
            raise DataError(f"{table}:{line}: id '{row['id']}' cannot name a file; use letters, digits, '.', '_', '-'")
        if row["id"] in seen:
            raise DataError(f"{table}:{line}: id '{row['id']}' is that of line {seen[row['id']]} too")
        seen[row["id"]] = line
        if row.get("split", "") not in ("", *SPLITS):
            raise DataError(f"{table}:{line}: split '{row['split']}'; use {', '.join(SPLITS)}")


def problem_of(job: tuple[dict, float]) -> str:
    """Why a row (with absolute paths) cannot be used, or ''. job: the row, and the longest recording in seconds."""
    row, most_seconds = job
    for side in ("src", "tgt"):
        path, text = row[f"{side}_audio"], normalise(row[f"{side}_text"])
        if not text:
            return f"{side}_text is empty"
        if not Path(path).is_file():
            return f"{path}: no such recording"
        try:
            info = soundfile.info(path)
        except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
            return f"{path}: not a readable recording ({error})"
        seconds = info.frames / info.samplerate
        if not MIN_SECONDS <= seconds <= most_seconds:
            return f"{path}: {seconds:.2f} s long; usable are {MIN_SECONDS} to {most_seconds:g} s"
        if len(text) > MOST_CHARACTERS_PER_SECOND * seconds:
            return f"{path}: {len(text)} characters in {seconds:.2f} s; is this the text of this recording?"
        if side == "src" and (problem := _frames_problem(row.get("src_n_frames", ""), info)):
            return f"{path}: {problem}"
    return ""


def _frames_problem(given: str, info) -> str:
    """A table that counts frames counts those of 10 ms; samples given as frames would make every length wrong."""
    if not given:
        return ""
    frames = info.frames / info.samplerate / FRAME_SECONDS
    if not given.isdigit():
        return f"src_n_frames '{given}' is no number"
    if abs(int(given) - frames) <= 5 + 0.02 * frames:
        return ""
    samples = " (that is its number of samples)" if int(given) in (info.frames, round(160 * frames)) else ""
    return f"src_n_frames is {given}{samples}, but the recording has {frames:.0f} frames of 10 ms"


def split_rows(rows: list[dict], dev_percent: float, test_percent: float) -> None:
    """Give every row a `split` where it has none. The same source text is in one split only, and where it goes depends
    on the text alone; dev and test get one text each at least."""
    texts = sorted({normalise(row["src_text"]) for row in rows if not row.get("split")}, key=_text_hash)
    there = {row.get("split") for row in rows}
    sizes = {
        split: 0 if split in there else max(1, round(len(texts) * percent / 100))
        for split, percent in (("dev", dev_percent), ("test", test_percent))
    }
    if texts and sum(sizes.values()) >= len(texts) and "train" not in there:
        raise DataError(f"{len(texts)} different sentences are too few for train, dev and test; 3 is the least")
    dev, test = set(texts[: sizes["dev"]]), set(texts[sizes["dev"] : sizes["dev"] + sizes["test"]])
    for row in rows:
        text = normalise(row["src_text"])
        row["split"] = row.get("split") or ("dev" if text in dev else "test" if text in test else "train")
    for split in SPLITS:
        if not any(row["split"] == split for row in rows):
            raise DataError(f"the table's column 'split' has no row of '{split}'")


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class OwnCorpus(Layout):
    """A checked table in the folder that is made of it; the target recordings are its own 16 kHz copies."""

    output: Path
    language: str

    @property
    def table(self) -> Path:
        """The rows that are used, with the paths of their recordings."""
        return self.output / "table.tsv"

    @cached_property
    def _rows(self) -> list[dict]:
        return read_table(self.table, CHECKED_COLUMNS)

    def utterances(self, split: str) -> list[dict]:
        """As `Layout.utterances`, in the order of the user's table; `original` is the target recording as given."""
        copies = self.output / "tgt_wav"
        rows = [row | {"tgt_wav": str(copies / f"{row['id']}.wav")} for row in self._rows if row["split"] == split]
        return [{column: row[column] for column in (*LIST_COLUMNS, "original")} for row in rows]


def check_table(
    table, corpus: OwnCorpus, workers: Workers, dev_percent: float, test_percent: float,
    most_seconds: float, max_missing_percent: float,
) -> None:  # fmt: skip
    """Write `corpus.table` and dropped.tsv (rows that cannot be used, and why) of a user's table.

    Raises DataError where more than `max_missing_percent` of the rows cannot be used."""
    if corpus.table.is_file():
        return
    table, rows = Path(table), read_rows(table)
    for row in rows:
        for side in ("src", "tgt"):
            row[f"{side}_audio"] = str((table.parent / row[f"{side}_audio"]).resolve())
    jobs = ((row, most_seconds) for row in rows)
    problems = list(workers.ordered(problem_of, jobs, "check recordings"))
    dropped = [{"id": r["id"], "why": why} for r, why in zip(rows, problems, strict=True) if why]
    write_table(corpus.output / "dropped.tsv", ("id", "why"), dropped)
    if len(dropped) > max_missing_percent / 100 * len(rows):
        raise DataError(
            f"{table}: {len(dropped)} of {len(rows)} rows cannot be used, all in {corpus.output / 'dropped.tsv'}; mend "
            f"them, or go on without them by --max-missing {100 * len(dropped) // len(rows) + 1} (percent). The first: "
            f"{dropped[0]['id']}: {dropped[0]['why']}"
        )
    kept = [row for row, why in zip(rows, problems, strict=True) if not why]
    split_rows(kept, dev_percent, test_percent)
    renamed = [row | {"src_wav": row["src_audio"], "original": row["tgt_audio"]} for row in kept]
    write_table(corpus.table, CHECKED_COLUMNS, renamed)
