"""A speaker as the engine sees one: audio that waits, and whom to tell."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from echostream_plugin.inference.options import SessionOptions

MOST_PIECES = 4000  # that may wait, however short they are


class Refused(Exception):
    """A speaker whom the server does not take now; `reason` is one word for the metrics."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(eq=False)
class Speaker:
    """One speaker at the engine.

    deliver(events, heard_s): called in the engine's thread with what a push led to and the seconds of audio processed
    so far, and while it is processed with what is there already, then without the seconds (None); failed(error):
    called there when the session ends in an error."""

    key: str
    sample_rate: int
    options: SessionOptions
    deliver: Callable
    failed: Callable
    queue: deque = field(default_factory=deque)  # (samples, arrival time)
    queued: int = 0  # samples
    heard: int = 0  # samples
    ending: bool = False
    saved: Callable | None = None  # called with the snapshot when the speaker is put aside

    @property
    def queued_s(self) -> float:
        """Seconds of audio that wait for the model."""
        return self.queued / self.sample_rate

    def is_behind(self, seconds: float) -> bool:
        """Does more than this wait for the model, or is it cut into more pieces than memory should be spent on?"""
        return self.queued_s > seconds or len(self.queue) > MOST_PIECES
