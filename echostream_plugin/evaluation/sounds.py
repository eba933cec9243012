"""Sounds that are no speech, to see that nothing is made of them."""

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE

NOISES = {"white": 0.0, "pink": 0.5, "brown": 1.0}  # by the exponent of 1/f of the amplitude
NOISE_DB = (-60, -50, -40, -30, -20, -10)
LOUDNESS_DB = -20.0  # of what is no noise
CHORD, MELODY_MS, CHORD_MS, BEAT_MS = (0, 4, 7), 250, 500, 250


def sounds(seconds: float, seed: int = 0) -> dict:
    """Samples [n] float32 at 16 kHz by name: noises at several levels (dB below full scale), hum, tones, notes, beats,
    clicks, silence."""
    length, generator = int(seconds * SAMPLE_RATE), np.random.default_rng(seed)
    time = np.arange(length) / SAMPLE_RATE
    made = {
        f"{name} noise {db} dB": level(noise(length, NOISES[name], generator), db) for name in NOISES for db in NOISE_DB
    }
    swinging = generator.standard_normal(length) * (1 + np.sin(2 * np.pi * 4 * time))
    others = {
        **{f"hum {f} Hz": harmonics(2 * np.pi * f * time, 8) for f in (50, 60)},
        **{f"tone {f} Hz": np.sin(2 * np.pi * f * time) for f in (200, 440, 1000, 3000)},
        "vibrato": harmonics(2 * np.pi * 300 * time + 1.2 * np.sin(2 * np.pi * 5 * time), 12),
        "sweep": np.sin(2 * np.pi * 1700 * time - 3000 * np.cos(np.pi * time)),
        "melody": notes(length, MELODY_MS, (0,), generator),
        "chords": notes(length, CHORD_MS, CHORD, generator),
        "drums": beats(length, generator),
        "noise swelling 4 times a second": swinging,
    }
    made |= {name: level(samples, LOUDNESS_DB) for name, samples in others.items()}
    clicks = np.zeros(length, dtype=np.float32)
    clicks[:: SAMPLE_RATE // 3] = 0.8
    return {**made, "clicks": clicks, "digital silence": np.zeros(length, dtype=np.float32)}


def level(samples: np.ndarray, db: float) -> np.ndarray:
    """The samples with a mean power of `db` dB below full scale, clipped."""
    scale = 10 ** (db / 20) / np.sqrt(np.mean(samples**2))
    return (samples * scale).clip(-1, 1).astype(np.float32)


def noise(length: int, exponent: float, generator) -> np.ndarray:
    """Gaussian noise whose amplitude falls with frequency to the power of `exponent`, [length]."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 20.0)
    return np.fft.irfft(spectrum / frequency**exponent, length)


def harmonics(phase: np.ndarray, count: int) -> np.ndarray:
    """A tone with overtones; phase: [n] of the fundamental."""
    return sum(np.sin(k * phase) / k for k in range(1, count + 1))


def notes(length: int, note_ms: int, intervals: tuple, generator) -> np.ndarray:
    """Plucked notes or chords over two octaves, one after the other, [length]; intervals: semitones above the root."""
    samples, size = np.zeros(length), SAMPLE_RATE * note_ms // 1000
    time = np.arange(size) / SAMPLE_RATE
    for start in range(0, length - size + 1, size):
        root = 300 * 2 ** (generator.integers(-12, 12) / 12)
        for interval in intervals:
            pitch = root * 2 ** (interval / 12)
            samples[start : start + size] += harmonics(2 * np.pi * pitch * time, 8) * np.exp(-2 * time)
    return samples


def beats(length: int, generator) -> np.ndarray:
    """Short decaying bursts of noise, [length]."""
    samples, size = np.zeros(length), SAMPLE_RATE * BEAT_MS // 1000
    for start in range(0, length - size + 1, size):
        samples[start : start + size] = generator.standard_normal(size) * np.exp(-np.arange(size) / 600)
    return samples
