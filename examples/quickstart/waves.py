"""Waveforms of the quickstart corpus: mono float32 in [-1, 1] at 16 kHz everywhere."""

import io
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.files import whole_file


def silence(seconds):
    """Zeros [n] at 16 kHz."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def trim(wave, leading_s, trailing_s, below_peak_db=45.0):
    """Cuts silence (10 ms frames quieter than the loudest by `below_peak_db`) down to the given seconds at each end."""
    hop = SAMPLE_RATE // 100
    frames = np.pad(wave, (0, -wave.size % hop)).reshape(-1, hop)
    energy = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) if wave.size else np.zeros(0)
    loud = np.flatnonzero(energy > 10 ** (-below_peak_db / 20) * energy.max()) if energy.size else []
    if not len(loud):
        return wave[:0]
    first = max(0, int(loud[0]) * hop - round(leading_s * SAMPLE_RATE))
    last = min(wave.size, (int(loud[-1]) + 1) * hop + round(trailing_s * SAMPLE_RATE))
    return wave[first:last]


def to_peak(wave, level):
    """wave: [n]; the same with a largest sample of `level`."""
    return wave * np.float32(level / max(1e-4, float(np.abs(wave).max(initial=0.0))))


def encoded(wave, subtype="PCM_16", container="WAV", rate=SAMPLE_RATE):
    """The bytes of an audio file; samples outside [-1, 1] are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(wave, -1.0, 1.0), rate, subtype=subtype, format=container)
    return buffer.getvalue()


def write_wav(path, wave):
    """16-bit wav, or FLAC where the name ends so; written whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(encoded(wave, container="FLAC" if Path(path).suffix == ".flac" else "WAV"))


def read_wav(path):
    """float32 [n]; the file must be 16 kHz mono."""
    wave, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or wave.ndim != 1:
        raise ValueError(f"{path}: want mono at {SAMPLE_RATE} Hz, found {rate} Hz, shape {wave.shape}")
    return wave
