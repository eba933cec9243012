"""Files that are written whole or not at all: a kill leaves the old file, the new one, or none."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path, alone: bool = False, synced: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` at the end of the block, and goes away after an error.

    Folders that are missing are made. Processes that write the same file do not meet: the last one's stays. alone: no
    other process writes it, so the name is always `<path>.part` and what a kill left there goes away. synced: it is on
    the disk before it has its name, whatever becomes of the machine."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part" if alone else f"{path.name}.{os.getpid()}.part")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        if synced:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path, text: str) -> Path:
    """Write a whole text file or nothing; returns its path."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path, value) -> Path:
    """Write a whole json file or nothing; returns its path."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path, tensors: dict, metadata: dict | None = None) -> Path:
    """Write a whole safetensors file or nothing; returns its path. Its mode is that of the user's other files, where
    safetensors' own writer lets nobody else read it."""
    from safetensors.torch import save  # not before it is needed: it takes torch with it

    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, metadata))
    return Path(path)


def json_lines(path, mend: bool = False) -> list[dict]:
    """The json objects of a log with one in a line; [] where there is no file. What an interruption left torn, or is no
    object, is passed over. mend: cut a torn last line off the file, so that what is appended stands in its own line."""
    path = Path(path)
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    if mend and whole < len(content):
        os.truncate(path, whole)
        content = content[:whole]
    found = []
    for line in content.decode("utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            found.append(json.loads(line))
    return [entry for entry in found if isinstance(entry, dict)]
