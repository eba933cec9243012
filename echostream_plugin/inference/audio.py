"""Audio files in: recordings of any length, a block at a time, as much of them as can be read."""

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.downmix import Downmix
from echostream_plugin.inference.errors import InputError, NoRecordingError
from echostream_plugin.inference.wav_stream import PcmStream, WavHeader, read_header

EXACT_SEEK = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")  # to the sample, unless compressed otherwise
EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
READ_SAMPLES = 1 << 16
STEP_SAMPLES = 1024  # how far behind a damaged place a FLAC file is tried again first, then twice as far
MOST_FAILURES = 1000  # reads in a row that give an error and nothing else
SHORT_MS = 50  # a compressed file may hold so much less than its header says
LONGEST_SAMPLES = 1 << 40  # libsndfile says more where it does not know
LONGEST_NAME = 1000  # bytes of a path, of which libsndfile takes 1024
STANDARD_INPUT = "standard input"
_SOUND_ERRORS = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError)

logger = logging.getLogger(__name__)


def read_audio(path) -> tuple[np.ndarray, int]:
    """Samples [n] or [n, channels] float32 and the sample rate of any file libsndfile reads; a file that breaks off or
    is damaged gives what is there, with a warning in the log. Raises InputError that names the file."""
    with FileRecording(path) as recording:
        blocks = list(recording.blocks(READ_SAMPLES))
        if recording.problem:
            logger.warning(recording.problem)
        return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32), recording.rate


def at_rate(samples: np.ndarray, rate: float, wanted: int = SAMPLE_RATE) -> np.ndarray:
    """Whole recordings [n] of `rate` samples a second as float32 [n * wanted / rate]."""
    samples = np.asarray(samples, np.float32)
    return samples if rate == wanted else soxr.resample(samples, rate, wanted).astype(np.float32)


def read_mono(path) -> np.ndarray:
    """A recording with its channels made one (`Downmix`), float32 [n] at 16 kHz; else as `read_audio`."""
    samples, rate = read_audio(path)
    return at_rate(Downmix(rate).push(samples), rate)


def open_recording(path, raw_rate: int | None = None, stdin=None, quiet: bool = False) -> "FileRecording | PcmStream":
    """A recording to read in blocks: `rate`, `samples` (None where they are still being made), `seconds`,
    `blocks(block_samples, start)`, and afterwards `problem`, what could not be read, or "".

    path: a file, or '-' for the standard input (stdin: its bytes): a wav stream is read as it comes, any other format
    when it is complete. raw_rate: it has no header: 16-bit little-endian samples, one channel. quiet: see
    `FileRecording`. Raises InputError that names the recording."""
    if str(path) != "-":
        if raw_rate is None:
            return FileRecording(path, quiet=quiet)
        return PcmStream(open(_regular(path), "rb"), WavHeader.raw(raw_rate), str(path))
    if stdin is None or (hasattr(stdin, "isatty") and stdin.isatty()):
        raise InputError(f"{STANDARD_INPUT}: nothing comes in; pipe a recording into it")
    if raw_rate is not None:
        return PcmStream(stdin, WavHeader.raw(raw_rate), STANDARD_INPUT)
    try:
        header, read = read_header(stdin.read, STANDARD_INPUT)
    except OSError as error:
        raise InputError(f"{STANDARD_INPUT}: cannot be read ({error.strerror})") from error
    if header is not None and header.decodable:
        return PcmStream(stdin, header, STANDARD_INPUT)
    return FileRecording(_spooled(stdin, read), STANDARD_INPUT, quiet)


def _spooled(stdin, beginning: bytes):
    """The rest of a stream in a file that goes away when it is closed."""
    with tempfile.TemporaryFile() as file:
        file.write(beginning)
        while block := stdin.read(READ_SAMPLES):
            file.write(block)
        file.flush()
        file.seek(0)
        return open(os.dup(file.fileno()), "rb", buffering=0)


def _regular(path) -> Path:
    """The path of a file with contents. Raises NoRecordingError that says what it is instead."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise NoRecordingError(f"{path}: no such audio file") from error
    except (OSError, ValueError) as error:
        shown, reason = ascii(str(path)[:200]), getattr(error, "strerror", None) or error
        raise NoRecordingError(f"{shown}: no such audio file ({reason})") from error
    if stat.S_ISDIR(mode):
        raise NoRecordingError(f"{path}: is a folder; name a recording")
    if not stat.S_ISREG(mode):
        raise NoRecordingError(f"{path}: not a file; pipe it in, with '-' as the name of the recording")
    return path


class FileRecording:
    """A file that libsndfile reads, from its start or from any sample on. Use as a context manager.

    What is damaged in a FLAC file is silence of its length, so that all that follows stays in its place."""

    def __init__(self, path, name: str | None = None, quiet: bool = False):
        """path: or an open file of bytes; name: for messages; quiet: what the decoder of mp3 says of damaged frames is
        not wanted on the standard error (its descriptor is turned away for the time of each read)."""
        opened = not isinstance(path, str | os.PathLike)
        self.name = name or str(path)
        self.path = None if opened else _regular(path)
        self.problem = ""
        self._quiet = quiet
        self._missing = []  # (start, samples) of what could not be read
        try:
            self._bytes = path if opened else open(self.path, "rb", buffering=0)  # libsndfile moves in it too
        except OSError as error:
            raise InputError(f"{self.name}: cannot be opened ({error.strerror})") from error
        self._file = None
        try:
            self._open()
        except InputError:
            self._bytes.close()
            raise

    def _open(self):
        header = self._header()
        if header is not None and header.unfinished and header.decodable:
            self._bytes.seek(header.data_start)
            self._stream = PcmStream(self._bytes, header, self.name)
            self.rate, self.channels = header.rate, header.channels
            self.samples = header.samples_to(self._size())
            return
        self._stream = None
        try:
            with _silenced(self._quiet):
                self._reopen()
        except _SOUND_ERRORS as error:
            reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
            raise InputError(
                f"{self.name}: not a readable audio file ({reason}); wav, flac, ogg and mp3 work, and samples without "
                "a header with --raw RATE"
            ) from error
        self.rate, self.channels = self._file.samplerate, self._file.channels
        self.samples = self._file.frames if self._file.frames < LONGEST_SAMPLES else None
        self._promised = self.samples or 0
        if header is not None and not header.unfinished and header.decodable:
            self._promised = header.samples

    def _header(self) -> WavHeader | None:
        """Of a wav file."""
        try:
            return read_header(self._bytes.read, self.name, self._size())[0]
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror})") from error

    def _size(self) -> int:
        return os.fstat(self._bytes.fileno()).st_size

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._bytes.close()

    @property
    def seconds(self) -> float | None:
        """None: not known before it was read."""
        return None if self.samples is None else self.samples / self.rate

    def blocks(self, block_samples: int, start: int = 0) -> Iterator[np.ndarray]:
        """Blocks [n] or [n, channels] float32 after the first `start` samples; n is `block_samples` but for the last
        and, in damaged places, others."""
        if self._stream is not None:
            yield from self._stream.blocks(block_samples, start)
            self.problem = self._stream.problem
            return
        taken, block_samples = 0, min(block_samples, max(1, self.samples or READ_SAMPLES))
        if start and self._seeks_exactly():
            taken = self._seek(min(start, self.samples))
        for block in self._read(block_samples, taken):
            ahead = max(0, min(len(block), start - taken))
            taken += len(block)
            if ahead < len(block):
                yield block[ahead:]
        self._say_what_is_missing(taken)

    def _seeks_exactly(self) -> bool:
        """Decoders that remember are read from the start: after a seek their samples may differ a little."""
        plain = self._file.format in EXACT_SEEK and self._file.subtype.startswith(EXACT_SUBTYPES)
        return plain and self._file.seekable() and self.samples is not None

    def _seek(self, position: int) -> int:
        """Go to a sample; where that place is damaged, to the start. Returns the position."""
        try:
            return self._file.seek(position)
        except soundfile.SoundFileError:
            self._reopen()
            return 0

    def _read(self, block_samples: int, position: int) -> Iterator[np.ndarray]:
        """Blocks from `position`, where the file is, to the end, over damaged places."""
        failures = 0
        while failures < MOST_FAILURES:
            block = np.zeros((block_samples, self.channels) if self.channels > 1 else block_samples, dtype=np.float32)
            damaged = False
            try:
                with _silenced(self._quiet):
                    read = len(self._file.read(out=block))
            except _SOUND_ERRORS:
                damaged = True
                read = self._read_before_error(position)
            failures = failures + 1 if damaged and not read else 0
            if not damaged and not read:
                return
            position += read
            if read:
                yield block[:read]
            if damaged:
                gap = self._pass_damage(position)
                if gap is None:
                    return
                if gap:
                    self._missing.append((position, gap))
                    yield from self._silence(gap, block_samples)
                    position += gap
                elif not self._missing or self._missing[-1] != (position, 0):
                    self._missing.append((position, 0))

    def _read_before_error(self, position: int) -> int:
        """How many samples of a read that gave an error are there."""
        try:
            return max(0, self._file.tell() - position) if self._file.seekable() else 0
        except soundfile.SoundFileError:
            return 0

    def _pass_damage(self, position: int) -> int | None:
        """Go on behind a damaged place: how many samples are lost; 0: the decoder has passed it by itself; None:
        nothing can be read from here on."""
        if self._file.format != "FLAC" or self.samples is None:
            return 0
        step = STEP_SAMPLES
        while position + step < self.samples:
            try:
                self._reopen()
                self._file.seek(position + step)
                self._file.read(1)
                self._file.seek(position + step)
                return step
            except soundfile.SoundFileError:
                step *= 2
        return None

    def _reopen(self):
        """An mp3 file by its name, whose ending helps where it begins with something else."""
        if self._file is not None:
            self._file.close()
        os.lseek(self._bytes.fileno(), 0, os.SEEK_SET)
        named = self.path is not None and self.path.suffix.lower() == ".mp3" and can_be_named(str(self.path))
        self._file = soundfile.SoundFile(self.path if named else self._bytes.fileno(), closefd=False)

    def _silence(self, samples: int, block_samples: int) -> Iterator[np.ndarray]:
        while samples > 0:
            size = min(samples, block_samples)
            yield np.zeros((size, self.channels) if self.channels > 1 else size, dtype=np.float32)
            samples -= size

    def _say_what_is_missing(self, taken: int):
        """taken: samples given out, with those that stand for lost ones."""
        if self._missing:
            places = ", ".join(f"{start / self.rate:.2f} s" for start, _ in self._missing[:3])
            more = f" and {len(self._missing) - 3} more places" if len(self._missing) > 3 else ""
            self.problem = f"{self.name}: damaged at {places}{more}, which could not be read"
        short = self._promised - taken
        if short > (0 if self._seeks_exactly() else SHORT_MS * self.rate // 1000):
            cut = f"breaks off: only {taken / self.rate:.2f} s of {self._promised / self.rate:.2f} s could be read"
            self.problem = f"{self.problem}; {cut}" if self.problem else f"{self.name}: {cut}"


def can_be_named(path: str) -> bool:
    """Does libsndfile take this name, of any that a file can have?"""
    try:
        return len(path.encode("utf-8")) < LONGEST_NAME
    except UnicodeEncodeError:
        return False


@contextmanager
def _silenced(quiet: bool):
    """What C code writes to the standard error goes nowhere."""
    try:
        kept = os.dup(2) if quiet else None
    except OSError:  # it is closed
        kept = None
    if kept is None:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
