"""Sound as it comes through a pipe: samples without a header, and wav whose length nobody knew when it was begun.

libsndfile wants to seek, and reads nothing of a wav file whose header says 0 bytes because its writer was stopped.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile

from echostream_plugin.inference.errors import InputError

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
SUBTYPES = {
    (PCM, 8): "PCM_U8", (PCM, 16): "PCM_16", (PCM, 24): "PCM_24", (PCM, 32): "PCM_32", (FLOAT, 32): "FLOAT",
    (FLOAT, 64): "DOUBLE", (ALAW, 8): "ALAW", (MULAW, 8): "ULAW",
}  # fmt: skip
ENDLESS_BYTES = 0x7FFF0000  # programs that write into a pipe say this or more; it is 3 hours at 96 kHz stereo
LONGEST_CHUNK_BYTES = 1 << 24  # of what stands before the samples
MOST_CHANNELS = 1024


@dataclass(frozen=True)
class WavHeader:
    """What stands before the samples; data_bytes: of the samples, None where the header does not say.

    subtype: libsndfile's name, "" for one that a stream is not read in."""

    rate: int
    channels: int
    subtype: str
    frame_bytes: int
    data_start: int
    data_bytes: int | None

    @classmethod
    def raw(cls, rate: int) -> "WavHeader":
        """Of 16-bit samples in one channel that have none."""
        return cls(rate, 1, "PCM_16", 2, 0, None)

    @property
    def unfinished(self) -> bool:
        """Is the number of samples not known, since the file is still being written?"""
        return self.data_bytes is None

    @property
    def decodable(self) -> bool:
        """Is its subtype one that a stream is read in?"""
        return bool(self.subtype)

    @property
    def samples(self) -> int | None:
        """In each channel; None: not known."""
        return None if self.data_bytes is None else self.data_bytes // self.frame_bytes

    def samples_to(self, size: int) -> int:
        """How many samples are in a file of `size` bytes."""
        return max(0, size - self.data_start) // self.frame_bytes


def read_header(read: Callable, name: str, size: int | None = None) -> tuple[WavHeader | None, bytes]:
    """The header of a wav stream, None for another kind of sound, and all bytes that were read.

    read: as of a file of bytes; size: of the whole file where it is one, for what it says of its samples to be checked.
    Raises InputError that names the recording, for nothing at all."""
    head = _exactly(read, 12)
    if not head:
        raise InputError(f"{name}: is empty (0 bytes)")
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:12] != b"WAVE":
        return None, head
    taken, form, long_size = head, None, None
    while True:
        chunk = _exactly(read, 8)
        taken += chunk
        if len(chunk) < 8:
            return None, taken
        kind, length = struct.unpack("<4sI", chunk)
        if kind == b"data":
            break
        if length > LONGEST_CHUNK_BYTES:
            return None, taken
        body = _exactly(read, length + length % 2)
        taken += body
        if kind == b"fmt ":
            form = body
        elif kind == b"ds64" and len(body) >= 16:
            long_size = struct.unpack("<Q", body[8:16])[0]
    if form is None or len(form) < 16:
        return None, taken
    data_bytes = _data_bytes(length, long_size, read if size is not None else None, size, len(taken))
    return _header(form, len(taken), data_bytes), taken


def _data_bytes(length: int, long_size: int | None, read: Callable | None, size: int | None, start: int) -> int | None:
    """How many bytes of samples there are by the header; None where its writer did not come to say."""
    if long_size and length == 0xFFFFFFFF:
        return long_size
    if length == 0 and size is not None:
        rest = read(size - start) if size - start < LONGEST_CHUNK_BYTES else b"samples"
        return 0 if _are_chunks(rest) else None
    ends_later = size is None or size - start < length  # a wav file may indeed be so long
    return None if length == 0 or (length >= ENDLESS_BYTES and ends_later) else length


def _are_chunks(rest: bytes) -> bool:
    """Is this what may follow the samples of a wav file: chunks, up to the end?"""
    while len(rest) >= 8 and rest[:4].isascii() and rest[:4].decode().isprintable():
        length = struct.unpack("<I", rest[4:8])[0]
        rest = rest[8 + length + length % 2 :] if length <= len(rest) - 8 else b"?"
    return not rest


def _header(form: bytes, start: int, data_bytes: int | None) -> WavHeader | None:
    kind, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = struct.unpack("<H", form[24:26])[0]
    subtype = SUBTYPES.get((kind, bits), "")
    if not 0 < channels <= MOST_CHANNELS or rate <= 0 or frame_bytes != channels * bits // 8:
        subtype = ""
    return WavHeader(rate, channels, subtype, max(1, frame_bytes), start, data_bytes)


def _exactly(read: Callable, size: int) -> bytes:
    """So many bytes, fewer at the end only."""
    pieces, missing = [], size
    while missing > 0 and (piece := read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


class PcmStream:
    """Samples of a fixed size, read once and as they come. Use as a context manager."""

    def __init__(self, file, header: WavHeader, name: str):
        """file: of bytes, at the first sample."""
        self.name, self.rate, self.channels, self.samples = name, header.rate, header.channels, header.samples
        self.path = None
        self.problem = ""
        self._file, self._header = file, header

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Files are closed; the standard input is not ours."""
        if hasattr(self._file, "fileno") and not self._is_standard_input():
            self._file.close()

    def _is_standard_input(self) -> bool:
        try:
            return self._file.fileno() == 0
        except OSError:  # a file in memory
            return True

    @property
    def seconds(self) -> float | None:
        """None: not known before it was read."""
        return None if self.samples is None else self.samples / self.rate

    def blocks(self, block_samples: int, start: int = 0) -> Iterator[np.ndarray]:
        """Blocks [n] or [n, channels] float32 after the first `start` samples; n: `block_samples`, the last's less."""
        header, taken = self._header, 0
        while header.samples is None or taken < header.samples:
            wanted = block_samples if header.samples is None else min(block_samples, header.samples - taken)
            try:
                data = _exactly(self._file.read, wanted * header.frame_bytes)
            except OSError as error:
                self.problem = f"{self.name}: cannot be read on after {taken / header.rate:.2f} s ({error.strerror})"
                return
            count = len(data) // header.frame_bytes
            if count:
                ahead = max(0, min(count, start - taken))
                taken += count
                if ahead < count:
                    yield self._decode(data[ahead * header.frame_bytes : count * header.frame_bytes])
            if count < wanted:
                break
        if header.samples is not None and taken < header.samples:
            there, promised = taken / header.rate, header.samples / header.rate
            self.problem = f"{self.name}: breaks off: only {there:.2f} s of {promised:.2f} s could be read"

    def _decode(self, data: bytes) -> np.ndarray:
        header = self._header
        layout = {"samplerate": 1, "channels": header.channels, "subtype": header.subtype}  # of any rate
        return soundfile.read(io.BytesIO(data), dtype="float32", format="RAW", endian="LITTLE", **layout)[0]
