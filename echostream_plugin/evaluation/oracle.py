"""An end-pointer that is told where to end sentences: what the best one could do for a translation."""

from contextlib import contextmanager

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.endpointing import ENDPOINTERS, EndPointer

ORACLE = "oracle"


@contextmanager
def oracle_ends(ends_ms):
    """Inside, `endpointer='oracle'` ends the sentences of a stream at these places, ms of its source, and nowhere else.

    Not for sessions of several streams at once."""
    frames = sorted({-(-round(end_ms) // FRAME_MS) for end_ms in ends_ms})
    ENDPOINTERS[ORACLE] = type("Oracle", (OracleEndPointer,), {"ends": frames})
    try:
        yield
    finally:
        del ENDPOINTERS[ORACLE]


class OracleEndPointer(EndPointer):
    """The true ends of sentences, each as soon as it was heard."""

    name = ORACLE
    ends: list = []  # encoder frames of the stream before which a sentence ends

    def silent_frames(self) -> int:
        return 0

    def _pause_ends(self, frames: int) -> list:
        now = self.listener.frames
        return [end - now for end in self.ends if now < end < now + frames]

    def _is_over(self) -> bool:
        over = any(self.opened_frame < end <= self.listener.frames for end in self.ends)
        return over or (not self.spoken and self.pauses.quiet_frames > 0)
