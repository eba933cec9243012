"""Whisper's log-mel spectrum (Radford et al., arXiv 2212.04356), a piece at a time.

Whisper clips what lies 80 dB under the loudest moment of a recording, which a stream does not know in advance: here
the floor is fixed. Frame t is centred on sample 160 t, as Whisper's; before the first sample there is silence.
"""

import numpy as np

from echostream_plugin.constants import HOP_SAMPLES, MEL_BINS, SAMPLE_RATE, WINDOW_SAMPLES
from echostream_plugin.inference.frontends.base import FeatureExtractor, register_frontend

FLOOR = -6.5  # of the decadic logarithm of a bin's power; speech of full scale reaches 1.5
SILENCE_DB = 19.0  # what the floor counts in `loudness_db`


def mel_filters(bins: int = MEL_BINS, fft: int = WINDOW_SAMPLES, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Slaney's mel filters, each of area 1: float32 [bins, fft // 2 + 1]; linear below 1 kHz, logarithmic above."""
    hz_per_mel, break_mel, step = 200 / 3, 15.0, np.log(6.4) / 27
    top = break_mel + np.log(rate / 2 / 1000) / step
    mels = np.linspace(0.0, top, bins + 2)
    edges = np.where(mels < break_mel, hz_per_mel * mels, 1000 * np.exp(step * (mels - break_mel)))
    hz = np.arange(fft // 2 + 1) * rate / fft
    rising = (hz - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - hz) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters.astype(np.float32)


@register_frontend
class StreamingLogMel(FeatureExtractor):
    """Whisper's features of 16 kHz audio, (log10 power + 4) / 4; one object serves one utterance and keeps under a
    window of samples."""

    DESCRIPTION = {
        "kind": "whisper-log-mel",
        "bins": MEL_BINS,
        "window_samples": WINDOW_SAMPLES,
        "hop_samples": HOP_SAMPLES,
        "floor": FLOOR,
    }
    NORMALISED = True
    SAVED = ("given", "held")

    def __init__(self):
        self.given = 0  # feature frames so far
        self.held = np.zeros(WINDOW_SAMPLES // 2, dtype=np.float32)  # samples from the start of the next frame on
        self._filters = mel_filters().T
        self._taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)).astype(np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        held = np.concatenate([self.held, samples])
        new = max(0, 1 + (len(held) - WINDOW_SAMPLES) // HOP_SAMPLES)
        self.held = held[new * HOP_SAMPLES :].copy()  # no view of a long push
        if not new:
            return np.zeros((0, MEL_BINS), dtype=np.float32)
        self.given += new
        windows = np.lib.stride_tricks.sliding_window_view(held, WINDOW_SAMPLES)[: new * HOP_SAMPLES : HOP_SAMPLES]
        power = np.square(np.abs(np.fft.rfft(windows * self._taper))).astype(np.float32)
        log_mel = np.log10(np.maximum(power @ self._filters, 10.0**FLOOR))
        return (log_mel + 4) / 4

    @staticmethod
    def frame_count(samples: int) -> int:
        """Feature frames of so many samples at 16 kHz: none under 12.5 ms."""
        return max(0, 1 + (samples - WINDOW_SAMPLES // 2) // HOP_SAMPLES)

    @staticmethod
    def loudness_db(features: np.ndarray) -> np.ndarray:
        """The mean of the bins in dB, [t], of features [t, 80]; the floor counts 19, which is silence."""
        return 10 * (4 * features.mean(axis=1) - 4 - FLOOR) + SILENCE_DB
