"""Pauses of the speaker, heard in the loudness of the features: the acoustic half of the end-pointer.

A frame is quiet where it is little louder than the quietest moment of the last seconds (minimum statistics: R. Martin,
"Noise power spectral density estimation based on optimal smoothing and minimum statistics", 2001), or far below the
loudest one. Nothing is learnt and nothing but a few numbers is kept.
"""

import numpy as np

from echostream_plugin.inference.features import FRONTENDS
from echostream_plugin.inference.stages import FEATURES_PER_FRAME

BLOCK_FEATURES = 100  # the quietest and the loudest moment are kept for blocks of a second
BLOCKS = 10  # so many seconds are looked back
ABOVE_FLOOR_DB = 5.0  # noise stays below this over its own minimum
BELOW_PEAK_DB = 40.0  # so far below the loudest moment it is quiet, whatever the floor
LEAST_DEPTH_DB = 8.0  # a pause is at least so far below the loudest moment: steady sound alone is none
SILENCE_DB = 20.0  # under the noise of one bit of 16: digital silence, quiet in any company
SPEECH_FEATURES = 10  # frames that are not quiet, to be speech rather than a click


class PauseDetector:
    """How long it has been quiet at each encoder frame of a stream.

    `push` takes features as they come, `advance` follows the encoder, which is behind by up to a segment."""

    SAVED = ("quiet_frames", "loud_features", "_quiet", "_loud", "_features", "_lows", "_highs", "_ahead")

    def __init__(self, mean: np.ndarray, std: np.ndarray, kind: str = "kaldi-fbank"):
        """mean, std: [bins] of the features' normalisation; kind: a key of `features.FRONTENDS`."""
        self._mean, self._std = mean, std
        self._loudness_db = FRONTENDS[kind].loudness_db
        self.quiet_frames = 0  # encoder frames for which it has been quiet, where `advance` is
        self.loud_features = 0  # feature frames of the stream that were not quiet, up to there
        self._quiet = self._loud = self._features = 0  # the same of the newest feature frame, and how many there were
        self._lows, self._highs = [], []  # quietest and loudest moment of each block
        self._ahead = []  # (quiet_frames, loud_features) of the encoder frames that `advance` has not reached

    def push(self, features: np.ndarray):
        """features: [t, bins], normalised."""
        if len(features) == 0:
            return
        for level in self._loudness_db(features * self._std + self._mean).tolist():
            if self._is_quiet(level):
                self._quiet += 1
            else:
                self._quiet, self._loud = 0, self._loud + 1
            if self._features % FEATURES_PER_FRAME == 0:  # an encoder frame ends with the first of its features
                self._ahead.append((self._quiet // FEATURES_PER_FRAME, self._loud))
            self._features += 1

    def pauses(self, frames: int, pause_frames: int) -> list:
        """At which of the next `frames` encoder frames the quiet comes to last `pause_frames`: counts from 1 on."""
        before, found = self.quiet_frames, []
        for count, (quiet, _) in enumerate(self._ahead[:frames], 1):
            if before < pause_frames <= quiet:
                found.append(count)
            before = quiet
        return found

    def silence_ahead(self) -> tuple[int, bool]:
        """For how many encoder frames from here on nothing sounds, and whether something does then."""
        for count, (_, loud) in enumerate(self._ahead):
            if loud > self.loud_features:
                return count, True
        return len(self._ahead), False

    def advance(self, frames: int):
        """The encoder went on by so many frames."""
        if frames:
            self.quiet_frames, self.loud_features = self._ahead[frames - 1]
            del self._ahead[:frames]

    def _is_quiet(self, level: float) -> bool:
        if self._features % BLOCK_FEATURES == 0:
            self._lows = [*self._lows[1 - BLOCKS :], level]
            self._highs = [*self._highs[1 - BLOCKS :], level]
        self._lows[-1], self._highs[-1] = min(self._lows[-1], level), max(self._highs[-1], level)
        floor, peak = min(self._lows), max(self._highs)
        quiet_db = min(max(floor + ABOVE_FLOOR_DB, peak - BELOW_PEAK_DB), peak - LEAST_DEPTH_DB)
        return level < max(quiet_db, SILENCE_DB)
