"""Files that are written whole or not at all: a kill leaves the old file, the new one, or none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end of the block, and goes away after an error.

    Folders that are missing are made. Processes that write the same file do not meet: the last one's stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path, text: str) -> Path:
    """Write a whole text file or nothing; returns its path."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)
