"""Sentences end where their text does."""

from dataclasses import dataclass

from echostream_plugin.config import option
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.endpointing.base import HOUR_MS, EndPointer, register_endpointer


@register_endpointer
class TextEndPointer(EndPointer):
    """The punctuator puts a period or a question mark after a word, `punctuation_delay` words later.

    Whether the speaker pauses plays no part. `end` says where a sentence is over whatever its text."""

    name = "text"
    reads_text = True

    def silent_frames(self) -> int:
        return 0

    @property
    def pausing(self) -> bool:
        """Is there a pause in which the sentence is over if its last word can be the last one?"""
        return False

    def boundary(self, first: int, last: int) -> int:
        """The quietest of the frames first to last, which were taken in since the sentence was opened, or `first`."""
        now = self.listener.frames
        last = min(last, now - 1)
        return now - self.pauses.quietest(now - first, now - last) if last > first else first

    def rewind(self, frame: int):
        """The encoder begins anew at that frame, which was taken in since the sentence was opened."""
        self.pauses.rewind(self.listener.frames - frame)
        self.listener.rewind(frame)


@dataclass(frozen=True)
class LongPauseOptions:
    """The pause that needs no words."""

    long_pause_ms: int = option(
        1000,
        "endpointer='text+energy': a pause of so many ms ends a sentence whatever its text; not below pause_ms",
        minimum=0,
        maximum=HOUR_MS,
    )


@register_endpointer
class TextAndEnergyEndPointer(TextEndPointer):
    """As 'text'; also where the audio is quiet for pause_ms after a word that can be the last one, or for
    long_pause_ms."""

    name = "text+energy"
    Options = LongPauseOptions

    def silent_frames(self) -> int:
        """Only a long pause ends a sentence whatever its text."""
        quiet = self._quiet_frames()
        return quiet if quiet >= self.options.long_pause_ms // FRAME_MS else 0

    @property
    def pausing(self) -> bool:
        return self._quiet_frames() >= self.options.pause_ms // FRAME_MS
