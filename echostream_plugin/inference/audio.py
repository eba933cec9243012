"""Audio files in and out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.inference.errors import InputError

PLAIN_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")  # a seek is exact to the sample
SKIP_BLOCK = 1 << 16


def read_audio(path) -> tuple[np.ndarray, int]:
    """Samples [n] or [n, channels] float32 and the sample rate of any file libsndfile reads; a file that breaks off in
    the middle gives what is there. Raises InputError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such audio file")
    try:
        return soundfile.read(path, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a readable audio file ({error})") from error


def audio_blocks(path, block_ms: int, start: int = 0) -> tuple[int, int, Iterator]:
    """A recording of any length, a block at a time: sample rate, number of samples, and an iterator over blocks
    [n] or [n, channels] float32 after the first `start` samples. Raises InputError that names the file, as `read_audio`
    does."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such audio file")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: not a readable audio file ({error})") from error

    def blocks():
        with file:
            _skip(file, start)
            while len(block := file.read(max(1, file.samplerate * block_ms // 1000), dtype="float32")):
                yield block

    return file.samplerate, file.frames, blocks()


def _skip(file: soundfile.SoundFile, samples: int):
    """Samples of a file that are not wanted. Formats whose decoder remembers are read: after a seek their samples may
    differ a little."""
    if file.format in PLAIN_FORMATS:
        file.seek(min(samples, file.frames))
        return
    while samples > 0:
        read = len(file.read(min(samples, SKIP_BLOCK), dtype="float32"))
        samples = samples - read if read else 0


def place_in_time(pieces: list, sample_rate: int) -> np.ndarray:
    """What a listener hears while the speaker talks.

    pieces: (samples [n], start_ms) in order; a piece begins at its time, or when the piece before it ends. Returns [N]
    with silence in the gaps, from the start of the source."""
    track = []
    length = 0
    for samples, start_ms in pieces:
        gap = max(0, round(start_ms * sample_rate / 1000) - length)
        track += [np.zeros(gap, dtype=np.float32), samples]
        length += gap + len(samples)
    return np.concatenate(track) if track else np.zeros(0, dtype=np.float32)
