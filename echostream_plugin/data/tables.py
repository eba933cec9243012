"""Tab-separated tables as fairseq and Common Voice have them, lists of lines, and resumable logs of lines."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from echostream_plugin.data import DataError
from echostream_plugin.files import whole_file, write_text

MANIFEST_COLUMNS = ("id", "src_audio", "src_n_frames", "src_text", "tgt_text", "tgt_audio", "tgt_n_frames")


def write_lines(path, lines) -> None:
    """Write a text file of these lines, whole or not at all."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def cell(value) -> str:
    """A value as a table can hold it: tabs, line breaks and backslashes become spaces, spaces one space.

    A backslash would escape the character after it in fairseq's reader.
    """
    return " ".join(str(value).replace("\\", " ").split())


def table_line(columns, row: dict) -> str:
    """A row of a fairseq manifest: tab separated, no quoting; values as `cell` has them."""
    return "\t".join(cell(row[column]) for column in columns)


def write_table(path, columns, rows) -> None:
    """A fairseq manifest: its columns, and a line a row."""
    write_lines(path, ["\t".join(columns), *(table_line(columns, row) for row in rows)])


class GrowingFile:
    """Lines that are written as they come, for tables that memory need not hold; the file has its name when it is
    whole, at the end of the `with` block."""

    def __init__(self, path):
        self._whole = whole_file(path, alone=True)
        self._file = open(self._whole.__enter__(), "wb")
        self._end = 0

    def add(self, line: str) -> int:
        """Returns the byte at which the line begins."""
        begin, content = self._end, f"{line}\n".encode()
        self._file.write(content)
        self._end += len(content)
        return begin

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self._whole.__exit__(*error)


def read_table(path, columns=()) -> list[dict]:
    """Rows as dicts; a file or column that is missing is named."""
    return list(stream_table(path, columns))


def stream_table(path, columns=()) -> Iterator[dict]:
    """Rows as dicts, one after the other; a file or column that is missing is named."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such table")
    with open(path, encoding="utf-8", newline="") as file:
        yield from rows_of(file, path, columns)


def rows_of(file, name, columns=()) -> Iterator[dict]:
    """Rows of an open table (newline="") as dicts; name: of the table, for the message on a column that is missing."""
    csv.field_size_limit(sys.maxsize)  # the units of a long recording are more than csv's 128 KB
    reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{name}: no column '{missing[0]}'; it has {', '.join(reader.fieldnames or ['none'])}")
    yield from reader


def file_of_table(table, name: str) -> Path:
    """A file that a table names: by its whole path, or from the table's folder or the one above; from the table's
    folder where it is not there."""
    folder = Path(table).resolve().parent
    places = folder / name, folder.parent / name
    return next((place for place in places if place.is_file()), places[0])


def keyed_lines(path) -> dict[str, str]:
    """``id|value`` lines of a log; a torn last line is cut off the file, so that appending goes on."""
    path = Path(path)
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    return dict(line.split("|", 1) for line in whole.decode("utf-8").splitlines() if "|" in line)
