"""Pauses of the speaker, heard in the loudness of the features: the acoustic half of the end-pointer.

A frame is quiet where it is little louder than the quietest moment of the last seconds (minimum statistics: R. Martin,
"Noise power spectral density estimation based on optimal smoothing and minimum statistics", 2001), or far below the
loudest one. Nothing is learnt and nothing but a few numbers is kept.
"""

import numpy as np

from echostream_plugin.constants import FEATURES_PER_FRAME
from echostream_plugin.inference.frontends import FRONTENDS

BLOCK_FEATURES = 100  # the quietest and the loudest moment are kept for blocks of a second
BLOCKS = 10  # so many seconds are looked back
ABOVE_FLOOR_DB = 5.0  # noise stays below this over its own minimum
BELOW_PEAK_DB = 40.0  # so far below the loudest moment it is quiet, whatever the floor
LEAST_DEPTH_DB = 8.0  # a pause is at least so far below the loudest moment: steady sound alone is none
SILENCE_DB = 20.0  # under the noise of one bit of 16: digital silence, quiet in any company
SPEECH_FEATURES = 10  # frames that are not quiet, to be speech rather than a click
DOUBT_FEATURES = 32  # a sound that may yet turn out to be speech: the detector of speech needs up to 300 ms


class PauseDetector:
    """How long it has been quiet at each encoder frame of a stream.

    With a detector of speech (`vad.SpeechDetector`), what sounds but is no speech is quiet too; a sound has the benefit
    of the doubt for `DOUBT_FEATURES`. `push` takes features as they come, `advance` follows the encoder, which is
    behind by up to a segment."""

    SAVED = ("quiet_frames", "loud_features", "_sounds", "_quiet_from", "_doubted", "_loud", "_sounding") + (
        *("_features", "_lows", "_highs", "_ahead", "_behind"),
    )

    def __init__(self, mean: np.ndarray, std: np.ndarray, kind: str = "kaldi-fbank", remembers: bool = False):
        """mean, std: [bins] of the features' normalisation; kind: a key of `frontends.FRONTENDS`; remembers: keep what
        `advance` has passed, for `rewind` and `quietest`, until `forget`."""
        self._mean, self._std = mean, std
        self._loudness_db = FRONTENDS[kind].loudness_db
        self.quiet_frames = 0  # encoder frames for which it has been quiet, where `advance` is
        self.loud_features = 0  # feature frames of the stream that were speech (or not quiet), up to there
        self._sounds = 0  # those that were not quiet, speech or not, up to there
        self._quiet_from = None  # the feature frame from which on nobody has spoken
        self._doubted = 0  # newest feature frames that sounded, but were not found to be speech
        self._loud = self._sounding = self._features = 0  # the same at the newest feature frame; how many there were
        self._lows, self._highs = [], []  # quietest and loudest moment of each block
        # (quiet_frames, loud_features, sounds, dB) of the encoder frames that `advance` has not reached
        self._ahead = []
        self._behind = [(0, 0, 0, 0.0)] if remembers else []  # of those that it has passed, and of the one before them

    def push(self, features: np.ndarray, speech: np.ndarray | None = None):
        """features: [t, bins], normalised; speech: [t] bool, where a detector heard speech; None: there is none, all
        that is not quiet is speech."""
        if len(features) == 0:
            return
        levels = self._loudness_db(features * self._std + self._mean).tolist()
        for level, spoken in zip(levels, [True] * len(levels) if speech is None else speech.tolist(), strict=True):
            quiet = self._quiet_features(self._is_quiet(level), spoken)
            if self._features % FEATURES_PER_FRAME == 0:  # an encoder frame ends with the first of its features
                self._ahead.append((quiet // FEATURES_PER_FRAME, self._loud, self._sounding, level))
            self._features += 1

    def _quiet_features(self, quiet: bool, spoken: bool) -> int:
        """For how many feature frames it has been quiet; quiet, spoken: what is known of the newest one."""
        if spoken and not quiet:
            self._quiet_from, self._doubted = None, 0
            self._loud, self._sounding = self._loud + 1, self._sounding + 1
            return 0
        if self._quiet_from is None:
            self._quiet_from = self._features
        self._doubted = 0 if quiet else self._doubted + 1
        self._sounding += not quiet
        return 0 if 0 < self._doubted <= DOUBT_FEATURES else self._features - self._quiet_from + 1

    def pauses(self, frames: int, pause_frames: int) -> list:
        """At which of the next `frames` encoder frames the quiet comes to last `pause_frames`: counts from 1 on."""
        before, found = self.quiet_frames, []
        for count, (quiet, *_) in enumerate(self._ahead[:frames], 1):
            if before < pause_frames <= quiet:
                found.append(count)
            before = quiet
        return found

    def silence_ahead(self) -> tuple[int, bool]:
        """For how many encoder frames from here on nothing sounds that is (or may be) speech, and whether there is
        speech then. Speech begins with its first sound, up to `DOUBT_FEATURES` before it was found to be speech."""
        ahead = self._ahead
        spoken = next((i for i, (_, loud, *_) in enumerate(ahead) if loud > self.loud_features), len(ahead))
        before = self._sounds
        for count, (_, _, sounds, _) in enumerate(ahead[: spoken + 1]):
            if sounds > before and count >= spoken - DOUBT_FEATURES // FEATURES_PER_FRAME:
                return count, spoken < len(ahead)
            before = sounds
        return len(ahead), False

    @property
    def newest_loud(self) -> int:
        """`loud_features` at the newest feature frame."""
        return self._loud

    def advance(self, frames: int):
        """The encoder went on by so many frames."""
        if frames:
            self.quiet_frames, self.loud_features, self._sounds, _ = self._ahead[frames - 1]
            self._behind += self._ahead[:frames] if self._behind else []
            del self._ahead[:frames]

    def rewind(self, frames: int):
        """The encoder goes back by so many frames, which were not forgotten."""
        if frames:
            self._ahead = self._behind[-frames:] + self._ahead
            del self._behind[-frames:]
            self.quiet_frames, self.loud_features, self._sounds, _ = self._behind[-1]

    def forget(self, frames: int):
        """Remember only the newest so many frames."""
        del self._behind[: -(frames + 1)]

    def quietest(self, first: int, last: int) -> int:
        """The quietest of the frames `first` to `last` before the next one (first >= last; the newest is 1); of equal
        ones that which was first."""
        return min(range(first, last - 1, -1), key=lambda back: self._behind[-back][-1])

    def loud_before(self, frames: int) -> int:
        """`loud_features` so many frames ago."""
        return self._behind[-1 - frames][1] if frames else self.loud_features

    def _is_quiet(self, level: float) -> bool:
        if self._features % BLOCK_FEATURES == 0:
            self._lows = [*self._lows[1 - BLOCKS :], level]
            self._highs = [*self._highs[1 - BLOCKS :], level]
        self._lows[-1], self._highs[-1] = min(self._lows[-1], level), max(self._highs[-1], level)
        floor, peak = min(self._lows), max(self._highs)
        quiet_db = min(max(floor + ABOVE_FLOOR_DB, peak - BELOW_PEAK_DB), peak - LEAST_DEPTH_DB)
        return level < max(quiet_db, SILENCE_DB)
