"""How many speakers a machine translates in real time: measured when the server starts, corrected while it works.

A round, in which n speakers are pushed together, takes a + b n seconds. A new speaker is admitted while a round of all
of them would still take less than `MOST_LOAD` of the time in which their next audio arrives: those who are heard are
not slowed down by those who come.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import bundle_recordings
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.options import SessionOptions

MOST_LOAD = 0.9  # of one thread's time, that the model may be asked for
MOST_RESUMED = 1.0  # the same where a speaker comes back who was promised a place
MOST_SPEAKERS = 64  # admitted by measurement; the line through two points is not followed further
TOGETHER = 4  # speakers of the second point
WINDOW_S = 10.0  # seconds of audio after which the costs are compared with what was predicted
SECONDS = 2.5  # of speech in a calibration, for each point


class Capacity:
    """The cost of a round, and what follows from it. It knows no clock: who measures tells it.

    push_s: seconds of audio that a speaker brings to a round."""

    def __init__(self, push_s: float):
        self.push_s = push_s
        self.round_s, self.speaker_s = 0.0, 0.0  # a and b
        self.factor = 1.0  # what rounds take now, of what the calibration said
        self._worked = self._predicted = self._audio = 0.0

    def calibrate(self, alone_s: float, together_s: float):
        """Mean seconds of a round of one speaker and of one of `TOGETHER`."""
        slope = (together_s - alone_s) / (TOGETHER - 1)
        self.speaker_s = max(slope, together_s / (4 * TOGETHER))  # a noisy first point must not make others free
        self.round_s = max(0.0, together_s - TOGETHER * self.speaker_s)

    def saw(self, audio_s: float, worked_s: float):
        """A round was processed: seconds of audio of all its speakers, and how long it took."""
        self._audio += audio_s
        self._worked += worked_s
        self._predicted += self.round_s + self.speaker_s * audio_s / self.push_s
        if self._audio < WINDOW_S or not self._predicted:
            return
        ratio = self._worked / self._predicted
        weight = 0.5 if ratio > self.factor else 0.1  # a speaker who is silent for a while soon speaks again
        self.factor = min(50.0, max(0.5, self.factor + weight * (ratio - self.factor)))
        self._worked = self._predicted = self._audio = 0.0

    def load(self, speakers: int) -> float:
        """The share of a thread's time that so many speakers need; 1: all of it."""
        return self.factor * (self.round_s + self.speaker_s * speakers) / self.push_s if speakers else 0.0

    def has_room(self, speakers: int, resumed: bool = False) -> bool:
        """May one more come to so many? The first one always may."""
        fits = self.load(speakers + 1) <= (MOST_RESUMED if resumed else MOST_LOAD)
        return not speakers or (fits and speakers < MOST_SPEAKERS)

    @property
    def speakers(self) -> int:
        """How many there is room for; at least one."""
        count = 1
        while self.has_room(count):
            count += 1
        return count


def calibrate(
    capacity: Capacity,
    batch: BatchedSession,
    options: SessionOptions,
    speech: np.ndarray,
    rate: int,
    clock: Callable = time.perf_counter,
):
    """Measure the rounds of a capacity: one speaker, then several with different parts of the speech ([n] at rate)."""
    rounds_of(batch, options, speech, rate, 1, capacity.push_s, clock, seconds=1.0)  # the first steps prepare memory
    times = [rounds_of(batch, options, speech, rate, count, capacity.push_s, clock) for count in (1, TOGETHER)]
    capacity.calibrate(*times)


def rounds_of(batch, options, speech, rate, speakers, push_s, clock, seconds=SECONDS) -> float:
    """Mean seconds of a round of so many speakers, each at another place of the speech."""
    size, count = max(1, round(push_s * rate)), max(1, round(seconds / push_s))
    voices = {
        f"calibration {i}": np.resize(np.roll(speech, -i * len(speech) // speakers), size * count)
        for i in range(speakers)
    }
    for key in voices:
        batch.join(key, options)
    try:
        began = clock()
        for start in range(0, size * count, size):
            batch.push({key: voice[start : start + size] for key, voice in voices.items()}, rate)
        return (clock() - began) / count
    finally:
        for key in voices:
            batch.leave(key)


def speech_of(folder: Path) -> tuple[np.ndarray, int]:
    """Samples [n] and rate of the recordings that a bundle brings along; noise where there are none, which costs less
    than speech does: the first speakers correct it."""
    recordings = []
    for path in bundle_recordings(folder)[:4]:
        with suppress(InputError):
            recordings.append(read_mono(path))
    if not sum(map(len, recordings)):
        recordings = [np.random.default_rng(0).normal(0, 0.05, 3 * SAMPLE_RATE).astype(np.float32)]
    return np.concatenate(recordings), SAMPLE_RATE
