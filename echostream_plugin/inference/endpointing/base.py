"""Where the sentences of a stream begin and end: what every end-pointer does, and all of them by name.

An utterance without `pause_ms` is one sentence. With the option `vad` the silence and the noise before its first speech
are skipped.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.pauses import SPEECH_FEATURES, PauseDetector
from echostream_plugin.inference.stages import Listener
from echostream_plugin.inference.vad import SpeechDetector

if TYPE_CHECKING:
    from echostream_plugin.inference.options import SessionOptions  # which imports this module

LEAD_FRAMES = 2  # where the encoder begins anew: the silence that is kept before the first sound of a sentence
LONG_QUIET_FRAMES = 25  # with a detector of speech: after a second without any, nothing is decided
HOUR_MS = 3_600_000
LONG_PAUSE_MS = 400  # the pause_ms of long recordings where nobody said which
ENDPOINTERS = {}  # name -> class; see register_endpointer


def register_endpointer(endpointer):
    """Class decorator: `endpointer` is found by its name, the value of the session option `endpointer`. To add one,
    write such a class in a file of this folder and import it in `endpointing/__init__.py`."""
    ENDPOINTERS[endpointer.name] = endpointer
    return endpointer


def sentence_ends(silent_frames: int, open_frames: int, pause_frames: int, longest_frames: int) -> bool:
    """Is a sentence of a long stream over?

    silent_frames: since a CTC head last found a token, or since the sentence opened where none did; open_frames: since
    it opened; pause_frames: the pause that ends a sentence, 0 for never; longest_frames: the most it may last."""
    return pause_frames > 0 and (silent_frames >= pause_frames or open_frames >= longest_frames)


class EndPointer(ABC):
    """Follows one stream, between its features and the encoder, and says where a sentence is over.

    A class says of itself:
        name: the value of the session option `endpointer`.
        Options: a frozen dataclass of its `config.option` fields, which become session options and flags; None where it
            has none.
        measures_loudness: it needs the pauses of the audio.
        late_frames: the most encoder frames after a sentence's end that may have been taken in when `end` says so. The
            transcript stays so many behind, what was taken in since the end is heard again as the next sentence's.
        reads_text: it needs the punctuated transcript (`text_sentences`).

    opened_frame: the first encoder frame of the present sentence; asleep: nothing but silence since it was opened, the
    encoder begins anew with the first sound.
    """

    name: ClassVar[str]
    Options: ClassVar[type | None] = None
    measures_loudness: ClassVar[bool] = True
    late_frames: ClassVar[int] = 0
    reads_text: ClassVar[bool] = False
    SAVED = ("detector", "pauses", "opened_frame", "asleep", "_opened_loud")

    def __init__(self, listener: Listener, features: tuple, options: "SessionOptions"):
        """features: mean, std and kind of the features that the encoder reads."""
        self.listener, self.options = listener, options
        self.detector = SpeechDetector() if options.detects_speech else None
        measures = options.pause_ms and self.measures_loudness or self.detector is not None
        self.pauses = PauseDetector(*features, remembers=options.reads_text) if measures else None
        self.asleep = options.restarts_encoder
        self.open(0)

    @abstractmethod
    def silent_frames(self) -> int:
        """For how many encoder frames there has been a pause, up to the last one that was taken in."""

    def open(self, frame: int):
        """A new sentence begins at that frame of the stream."""
        self.opened_frame = frame
        self._opened_loud = self.pauses.loud_features if self.pauses is not None else 0
        if self.options.reads_text:
            self._opened_loud = self.pauses.loud_before(self.listener.frames - frame)
            self.pauses.forget(self.listener.frames - frame)

    def hear(self, features: np.ndarray):
        """features: [t, bins], the next ones; a generator of calls that returns the segments [1, s, C] that are now
        complete, not yet taken in."""
        if self.pauses is not None:
            self.pauses.push(features, None if self.detector is None else self.detector.speech_frames(len(features)))
        if not self.asleep:
            return (yield from self.listener.hear(features))
        self.listener.hold(features)
        return (yield from self.wake())

    def wake(self):
        """Skip the silence ahead; encoder and heads begin anew shortly before the first sound, if there is one yet.
        Returns the segments that are complete, in place of those not taken in."""
        silent, sounds = self.pauses.silence_ahead()
        skipped = max(0, silent - LEAD_FRAMES)
        self.listener.skip(skipped)
        self.pauses.advance(skipped)
        self.opened_frame = self.listener.frames
        self.pauses.forget(0)
        self.asleep = not sounds
        return (yield from self.listener.restart()) if sounds else []

    def split(self, segment: Tensor) -> list:
        """A segment [1, s, C] in pieces that end where a pause has lasted long enough, so that a short one inside a
        long segment is found."""
        cuts = self._pause_ends(segment.size(1))
        return list(segment.tensor_split(cuts, dim=1)) if cuts else [segment]

    def before_pause(self, frames: Tensor) -> Tensor:
        """Of frames [1, p, C] not taken in those before a pause: what follows it is the next sentence's."""
        return frames[:, : (self._pause_ends(frames.size(1)) or [None])[0]]

    def _pause_ends(self, frames: int) -> list:
        """Places inside the next `frames` encoder frames at which a pause has lasted `pause_ms`."""
        if self.pauses is None:
            return []
        return [end for end in self.pauses.pauses(frames, self.options.pause_ms // FRAME_MS) if end < frames]

    def advance(self, frames: int):
        """So many encoder frames were taken in."""
        if self.pauses is not None:
            self.pauses.advance(frames)

    def end(self) -> int | None:
        """The frame of the stream before which the sentence ended, None while it goes on: the number of frames that
        were taken in, or up to `late_frames` less."""
        return self.listener.frames if self._is_over() else None

    def _is_over(self) -> bool:
        pause_frames, longest_frames = self.options.pause_ms // FRAME_MS, self.options.longest_sentence_ms // FRAME_MS
        open_frames = self.listener.frames - self.opened_frame
        over = sentence_ends(self.silent_frames(), open_frames, pause_frames, longest_frames)
        return over or (not self.spoken and self.pauses.quiet_frames > 0)

    @property
    def quiet(self) -> bool:
        """Is it quiet where the encoder is?"""
        return self.pauses is not None and self.pauses.quiet_frames > 0

    @property
    def spoken(self) -> bool:
        """Did anybody speak since the sentence was opened? Without a detector of speech: yes."""
        return self.detector is None or self.pauses.newest_loud > self._opened_loud

    @property
    def spoken_so_far(self) -> bool:
        """The same, in the frames that were taken in."""
        return self.detector is None or self.pauses.loud_features > self._opened_loud

    @property
    def speaking(self) -> bool:
        """Is somebody speaking, or was a moment ago? Without a detector of speech: yes."""
        return self.detector is None or (self.spoken and self.pauses.quiet_frames < LONG_QUIET_FRAMES)

    def _blank_frames(self) -> int:
        """For how many frames no CTC head has found a token."""
        found = self.listener.token_frames()
        return self.listener.frames - (found[1] if found else self.opened_frame)

    def _quiet_frames(self) -> int:
        """For how many frames it has been quiet. Tokens that the heads guess in a pause open no sentence: it ends after
        speech, or where nothing was heard."""
        if self.pauses is None:
            return 0
        spoken = self.pauses.loud_features - self._opened_loud >= SPEECH_FEATURES
        return self.pauses.quiet_frames if spoken or not self.listener.heard else 0
