"""A streaming resampler with a known, small delay: a polyphase windowed sinc.

Block resamplers work in FFT blocks and hand their output out late and in lumps: soxr's stream at 48 kHz was 10 to 30 ms
behind its input (at 8 kHz up to 112 ms), more than the 15 ms that an encoder segment has to spare. Here every output
sample is given out as soon as the input under its kernel is there: 4 ms behind for rates from 16 kHz up, 8 ms at 8 kHz.

Pairs of rates with a small common divisor have thousands of different kernels (16,000 for 44,101 Hz). There the kernel
of an output is interpolated between two of a table of `PHASES`, which is some 100 dB exact.
"""

from functools import lru_cache
from math import ceil, gcd

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE

ZERO_CROSSINGS = 64  # of the sinc on each side; the delay is this many periods of the lower rate
KAISER_BETA = 8.0  # side lobes about 80 dB down
ROLLOFF = 0.96  # cutoff as a part of the lower Nyquist frequency: flat to 0.92, the transition band ends at 1
BLOCK_OUTPUT = 4000  # output samples computed at once, which bounds the memory of a long push,
BLOCK_VALUES = 1 << 20  # as does this for long kernels: inputs under the kernels of a block
TABLE_VALUES = 1 << 18  # a filter bank of more values is not made
PHASES = 512  # kernels of an interpolated table, between two inputs


@lru_cache(maxsize=8)
def _kernels(rate_in: int, rate_out: int):
    """The filter bank of a pair of rates.

    Returns (kernels [phases, taps] float32, up, down, reach): output n lies at input position n * down / up, and its
    kernel covers the inputs floor(n * down / up) - reach + 1 .. floor(n * down / up) + reach. There are `up` of them,
    or `PHASES` + 1 to interpolate between.
    """
    divisor = gcd(rate_in, rate_out)
    up, down = rate_out // divisor, rate_in // divisor
    bandwidth = min(1.0, rate_out / rate_in)  # of the output in units of the input's Nyquist frequency
    reach = ceil(ZERO_CROSSINGS / bandwidth)
    phases = np.arange(up) / up if up * 2 * reach <= TABLE_VALUES else np.arange(PHASES + 1) / PHASES
    offset = np.arange(-reach + 1, reach + 1)[None, :] - phases[:, None]
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (offset / reach) ** 2))) / np.i0(KAISER_BETA)
    cutoff = bandwidth * ROLLOFF
    kernels = cutoff * np.sinc(cutoff * offset) * window
    kernels /= kernels.sum(axis=1, keepdims=True)  # a constant stays the constant
    return kernels.astype(np.float32), up, down, reach


class StreamingResampler:
    """Mono float32 at any integer rate to `rate_out`; one object serves one utterance.

    For any cutting of the input, the outputs put together are those of one call over the whole."""

    SAVED = ("held", "held_from", "taken", "given")

    def __init__(self, rate_in: int, rate_out: int = SAMPLE_RATE):
        if int(rate_in) != rate_in or rate_in <= 0:
            raise ValueError(f"sample rate {rate_in!r}: expected a positive whole number of Hz")
        self.rate_in, self.rate_out = int(rate_in), int(rate_out)
        self.passthrough = self.rate_in == self.rate_out
        if not self.passthrough:
            self.kernels, self.up, self.down, self.reach = _kernels(self.rate_in, self.rate_out)
            self.held = np.zeros(self.reach - 1, dtype=np.float32)  # inputs that later outputs still need
            self.held_from = -(self.reach - 1)  # input index of held[0]; before 0 lies silence
        else:
            self.held, self.held_from = np.zeros(0, dtype=np.float32), 0
        self.taken = 0  # input samples so far
        self.given = 0  # output samples so far

    def push(self, samples: np.ndarray) -> np.ndarray:
        """samples: [n] at `rate_in`; returns what can be said at `rate_out` without the future."""
        samples = np.asarray(samples, dtype=np.float32)
        self.taken += len(samples)
        if self.passthrough:
            self.given += len(samples)
            return samples
        self.held = np.concatenate([self.held, samples])
        last_base = self.held_from + len(self.held) - 1 - self.reach  # the last input with all its right side
        return self._emit(self._outputs_before(last_base + 1))

    def finish(self) -> np.ndarray:
        """The rest: ceil(n * rate_out / rate_in) samples in all, with silence after the end."""
        if self.passthrough:
            return np.zeros(0, dtype=np.float32)
        self.held = np.concatenate([self.held, np.zeros(self.reach, dtype=np.float32)])
        return self._emit(self._outputs_before(self.taken))

    def _outputs_before(self, position: int) -> int:
        """How many outputs lie before an input position."""
        return -(-position * self.up // self.down)

    def _emit(self, until: int) -> np.ndarray:
        blocks, size = [], max(1, min(BLOCK_OUTPUT, BLOCK_VALUES // (2 * self.reach)))
        while self.given < until:
            index = np.arange(self.given, min(until, self.given + size), dtype=np.int64) * self.down
            windows = np.lib.stride_tricks.sliding_window_view(self.held, 2 * self.reach)
            first = index // self.up - self.reach + 1 - self.held_from
            blocks.append(self._filter(windows[first], index % self.up))
            self.given += len(index)
        drop = self.given * self.down // self.up - self.reach + 1 - self.held_from
        if drop > 0:
            self.held = self.held[drop:].copy()  # no view that keeps a long push alive
            self.held_from += drop
        return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)

    def _filter(self, windows: np.ndarray, phase: np.ndarray) -> np.ndarray:
        """windows: [n, taps] inputs; phase: [n] of `up`, where the outputs lie between two inputs; returns [n]."""
        if len(self.kernels) == self.up:
            return np.einsum("nt,nt->n", windows, self.kernels[phase])
        place = phase * (PHASES / self.up)
        before = place.astype(np.int64)
        part = (place - before).astype(np.float32)
        earlier, later = (np.einsum("nt,nt->n", windows, self.kernels[before + i]) for i in (0, 1))
        return earlier + part * (later - earlier)
