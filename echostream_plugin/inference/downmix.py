"""Several channels to one: their mean, or the louder channel where the mean loses the signal.

A microphone whose one wire is swapped records the same in both channels with opposite signs, and their mean is silence.
The choice is made at every multiple of 10 ms of the stream, by what was heard before, so it does not depend on how the
audio was cut into pushes.
"""

import numpy as np

BLOCKS_PER_SECOND = 100
KEEP = 0.95  # of the energies from block to block: they look back a fifth of a second
LOST = 0.25  # the mean is lost where it has so much less energy than if a single channel sounded (6 dB)
QUIETER = 0.25  # and a channel gives way to one that is so much louder than itself (6 dB)


class Downmix:
    """The channels of one stream as one: `push(samples)`; nothing is held back.

    Of c channels of which one sounds, the mean has 1/c^2 of its energy. Where the mean has less than `LOST` of that,
    the loudest channel is taken, until the mean has all of it again."""

    SAVED = ("_energies", "_open", "_channel")

    def __init__(self, sample_rate: int):
        self._block = max(1, int(sample_rate) // BLOCKS_PER_SECOND)
        self._begin(1)

    def _begin(self, channels: int):
        self._energies = np.zeros(channels + 1)  # of each channel, then of the mean
        self._open = np.zeros((0, channels), dtype=np.float32)  # what there is of the present block
        self._channel = None  # that is taken; None: the mean

    def push(self, samples: np.ndarray) -> np.ndarray:
        """samples: [n] or [n, channels] floats; returns [n] float32. Another number of channels begins anew."""
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        if len(samples) and channels != self._open.shape[1]:
            self._begin(channels)
        if channels == 1:
            return samples.reshape(-1).astype(np.float32)
        mean = _mean(samples)
        mixed = np.empty(len(samples), dtype=np.float32)
        start = 0
        while start < len(samples):
            end = min(len(samples), start + self._block - len(self._open))
            mixed[start:end] = mean[start:end] if self._channel is None else samples[start:end, self._channel]
            self._open = np.concatenate([self._open, samples[start:end].astype(np.float32)])
            if len(self._open) == self._block:
                self._choose()
            start = end
        return mixed

    def _choose(self):
        """A block is complete: what is taken in the next one."""
        channels = self._open.shape[1]
        heard = np.column_stack([self._open, _mean(self._open)])
        self._energies = KEEP * self._energies + np.square(heard, dtype=np.float64).sum(axis=0)
        self._open = np.zeros((0, channels), dtype=np.float32)
        loudest = int(np.argmax(self._energies[:-1]))
        left = self._energies[-1] * channels**2 / max(self._energies[loudest], np.finfo(np.float64).tiny)
        if self._channel is None:
            self._channel = loudest if left < LOST and self._energies[loudest] > 0 else None
        elif left >= 1:
            self._channel = None
        elif self._energies[self._channel] < QUIETER * self._energies[loudest]:
            self._channel = loudest


def _mean(samples: np.ndarray) -> np.ndarray:
    """[n, channels] to [n], channel after channel, so that no memory layout rounds otherwise."""
    total = samples[:, 0].copy()
    for channel in range(1, samples.shape[1]):
        total += samples[:, channel]
    return total / samples.dtype.type(samples.shape[1])
