"""Features of a whole corpus in one stored zip, which fairseq reads by byte offset; an interrupted one is continued."""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from echostream_plugin.data import DataError
from echostream_plugin.files import whole_file

_DATE = (1980, 1, 1, 0, 0, 0)  # two builds are the same bytes
_LOCAL_HEADER_BYTES = 30  # of a zip member, before its name


class FeatureZip:
    """Writes `<id>.npy` members one after the other, and a journal of them, so that nothing done is done again.

    While it grows the zip is ``<name>.part`` beside ``<name>.part.jsonl``; `close` gives it its name and leaves
    ``<name>.jsonl`` with a line for each member (id, offset and size in bytes, frames, crc) or skipped utterance (id,
    why).
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(self.path.name + ".part")
        self._journal = self.path.with_name(self._part.name + ".jsonl")
        if self._part.is_file() and not self._journal.is_file() and index_path(self.path).is_file():
            os.replace(index_path(self.path), self._journal)  # stopped between the two renamings of `close`
        entries = list(_whole_lines(self._journal))
        self.members = {entry["id"]: entry for entry in entries if "why" not in entry}
        self.skipped = {entry["id"]: entry["why"] for entry in entries if "why" in entry}
        self._resume()

    def __contains__(self, name: str) -> bool:
        """Whether this utterance is done with: stored or skipped."""
        return name in self.members or name in self.skipped

    def _resume(self):
        end = max((entry["offset"] + entry["size"] for entry in self.members.values()), default=0)
        if end and not self._part.is_file():
            raise DataError(f"{self._journal}: its zip {self._part} is gone; remove the journal")
        if self._part.is_file() and self._part.stat().st_size < end:
            raise DataError(f"{self._part}: shorter than its journal says; remove it and {self._journal}")
        with open(self._part, "ab") as file:
            file.truncate(end)
        self._zip = zipfile.ZipFile(self._part, "a", zipfile.ZIP_STORED)
        for name, entry in self.members.items():
            member = _member(name)
            member.header_offset = entry["offset"] - _LOCAL_HEADER_BYTES - len(member.filename.encode())
            member.file_size = member.compress_size = entry["size"]
            member.CRC = entry["crc"]
            self._zip.filelist.append(member)
            self._zip.NameToInfo[member.filename] = member
        self._log = open(self._journal, "a", encoding="utf-8")

    def add(self, name: str, features: np.ndarray) -> dict:
        """Store [T, F] features; returns the journal's entry."""
        buffer = io.BytesIO()
        np.save(buffer, features.astype(np.float32))
        return self.add_bytes(name, buffer.getvalue(), len(features))

    def add_bytes(self, name: str, content: bytes, frames: int) -> dict:
        """Store an npy that is made already."""
        member = _member(name)
        self._zip.writestr(member, content)
        self._zip.fp.flush()
        offset = member.header_offset + _LOCAL_HEADER_BYTES + len(member.filename.encode())
        entry = {"id": name, "offset": offset, "size": len(content), "frames": frames, "crc": member.CRC}
        self._note(entry)
        self.members[name] = entry
        return entry

    def skip(self, name: str, why: str) -> None:
        """Note that an utterance has no features."""
        self.skipped[name] = " ".join(why.split())
        self._note({"id": name, "why": self.skipped[name]})

    def _note(self, entry: dict) -> None:
        self._log.write(json.dumps(entry) + "\n")
        self._log.flush()

    def close(self) -> None:
        """Finish the zip under its own name."""
        self._zip.close()
        self._log.close()
        os.replace(self._journal, index_path(self.path))
        os.replace(self._part, self.path)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(f"{name}.npy", _DATE)
    member.external_attr = 0o644 << 16
    return member


def index_path(zip_path) -> Path:
    """Where a finished zip's index lies."""
    return Path(zip_path).with_name(Path(zip_path).name + ".jsonl")


def read_index(zip_path) -> dict[str, dict]:
    """id -> {offset, size, frames, crc} of a finished zip."""
    return {entry["id"]: entry for entry in _finished_lines(zip_path) if "why" not in entry}


def read_skipped(zip_path) -> dict[str, str]:
    """id -> why it has no features, of a finished zip."""
    return {entry["id"]: entry["why"] for entry in _finished_lines(zip_path) if "why" in entry}


def read_places(zip_path) -> tuple[dict[str, tuple[int, int, int]], dict[str, str]]:
    """id -> (offset, size, frames), and id -> why it has no features, of a finished zip; smaller than its index."""
    places, reasons = {}, {}
    for entry in _finished_lines(zip_path):
        if "why" in entry:
            reasons[entry["id"]] = entry["why"]
        else:
            places[entry["id"]] = (entry["offset"], entry["size"], entry["frames"])
    return places, reasons


def _finished_lines(zip_path) -> Iterator[dict]:
    path = index_path(zip_path)
    if not Path(zip_path).is_file() or not path.is_file():
        raise DataError(f"{zip_path}: no finished feature zip (with {path.name}); make it with build_features.py")
    yield from _whole_lines(path)


def _whole_lines(path: Path) -> Iterator[dict]:
    """Journal entries; a torn last line is cut off the file."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: damaged ({error}); remove it and its zip, and make them again") from error
        file.seek(0, os.SEEK_END)
        if file.tell() > end:
            file.truncate(end)


def merge_zips(target, parts: list, names: Iterable[str]) -> None:
    """Join finished zips into one with the members in the order of `names`; resumes where it was stopped.

    The result is, byte for byte, the zip that one machine would have written. Every member's checksum is compared.
    """
    where = {}
    for part in parts:
        where |= {entry["id"]: (part, entry) for entry in _finished_lines(part)}
    store = FeatureZip(target)
    files = {part: open(part, "rb") for part in parts}
    try:
        for name in names:
            if name in store:
                continue
            if name not in where:
                raise DataError(f"{target}: no part has utterance {name}; were the parts made from the same tables?")
            part, entry = where[name]
            if "why" in entry:
                store.skip(name, entry["why"])
            else:
                store.add_bytes(name, _read_checked(files[part], part, entry), entry["frames"])
    finally:
        for file in files.values():
            file.close()
    store.close()


def _read_checked(file, path, entry: dict) -> bytes:
    file.seek(entry["offset"])
    content = file.read(entry["size"])
    if len(content) != entry["size"] or zlib.crc32(content) != entry["crc"]:
        raise DataError(f"{path}: {entry['id']}.npy is damaged; remove the file with its .jsonl and make it again")
    return content


def read_stored(zip_path, offset: int, size: int) -> np.ndarray:
    """Features [T, F] at a byte offset, read as fairseq does."""
    with open(zip_path, "rb") as file:
        file.seek(offset)
        return np.load(io.BytesIO(file.read(size)))


def read_member(zip_path, entry: dict) -> np.ndarray:
    """Features [T, F] of one journal entry."""
    return read_stored(zip_path, entry["offset"], entry["size"])


class Moments:
    """Mean and standard deviation of each feature over many utterances, in float64; adding order does not matter much
    and is the corpus's, so that two builds agree."""

    def __init__(self):
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, features: np.ndarray) -> None:
        """Count in features [T, F]."""
        frames = features.astype(np.float64)
        self.count += len(frames)
        self.total = self.total + frames.sum(axis=0)
        self.squares = self.squares + np.square(frames).sum(axis=0)

    def save(self, path) -> None:
        """gcmvn.npz: `mean` and `std`, float32 [F]."""
        if not self.count:
            raise DataError(f"{path}: no training frames to take mean and variance of")
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - np.square(mean), 1e-8))  # fairseq's floor
        save_npz(path, mean=mean.astype(np.float32), std=std.astype(np.float32))


def save_npz(path, **arrays) -> None:
    """numpy.savez without the time of day in it, written whole or not at all."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(_member(name), buffer.getvalue())
