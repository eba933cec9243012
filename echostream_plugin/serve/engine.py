"""The thread that owns the model: it hears all speakers in one batch and hands their events back.

Nothing of the model runs on the event loop. A speaker's audio waits in its queue until `push_ms` of it are there; then
all speakers that have so much are pushed together (`inference.batch.BatchedSession`).
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.session import SessionOptions
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.metrics import Metrics

LOG = logging.getLogger("echostream.serve")
MOST_AT_ONCE_S = 1.0  # audio of one speaker in one push: one that brings much does not hold up the others
WINDOW_S = 10.0  # over which load and real-time factor are taken


class Refused(Exception):
    """A speaker whom the server does not take now; `reason` is one word for the metrics."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass
class Speaker:
    """One speaker at the engine.

    deliver(events, heard_s): called in the engine's thread with what a push led to and the seconds of audio worked off
    so far; failed(error): called there when the session ends in an error."""

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
        return self.queued / self.sample_rate


class Engine:
    """Sessions of many speakers on one bundle, in a thread of its own; all methods may be called from any thread."""

    def __init__(self, bundle: Bundle, limits: Limits, metrics: Metrics):
        self.limits, self.metrics = limits, metrics
        self._batch = BatchedSession(bundle)
        self._speakers: dict[str, Speaker] = {}
        self._joining: list = []  # (speaker, snapshot or None)
        self._condition = threading.Condition()
        self._work = deque()  # (when, seconds worked, seconds of audio)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="echostream-engine", daemon=True)

    def start(self):
        self._thread.start()

    def stop(self, timeout: float = 30.0):
        """Finish what was heard of every speaker, then end the thread."""
        with self._condition:
            self._stopping = True
            for speaker in self._everybody():
                speaker.ending = True
            self._condition.notify()
        self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, speaker: Speaker, snapshot: dict | None = None):
        """A new speaker, or one that comes back with the snapshot of its session. Raises Refused."""
        with self._condition:
            if self._stopping:
                raise Refused("stopping", "the server is shutting down")
            if len(self._speakers) + len(self._joining) >= self.limits.max_sessions:
                raise Refused("full", f"the server is full ({self.limits.max_sessions} speakers); try again later")
            if snapshot is None and (behind := self._oldest()) > self.limits.max_lag:
                raise Refused("busy", f"the server is {behind:.1f} s behind its speakers; try again later")
            self._joining.append((speaker, snapshot))
            self.metrics.opened.inc()
            self._condition.notify()

    def hear(self, speaker: Speaker, samples: np.ndarray):
        """Audio of a speaker, [n] float32 or int16."""
        with self._condition:
            speaker.queue.append((samples, time.monotonic()))
            speaker.queued += len(samples)
            self._condition.notify()

    def finish(self, speaker: Speaker):
        """No more audio comes: what waits is heard, the utterance is finished, the speaker leaves."""
        with self._condition:
            speaker.ending = True
            self._condition.notify()

    def put_aside(self, speaker: Speaker, saved: Callable):
        """The speaker was lost: saved(snapshot, audio that was not heard yet) is called in the engine's thread, and the
        place is free; snapshot is None where there was no session (any more)."""
        with self._condition:
            speaker.saved = saved
            self._condition.notify()

    def _everybody(self) -> list:
        return [*self._speakers.values(), *(speaker for speaker, _ in self._joining)]

    def _oldest(self) -> float:
        """For how long the oldest piece of audio that could be heard has waited, in seconds."""
        ready = [s.queue[0][1] for s in self._speakers.values() if s.queue and self._is_ready(s)]
        return time.monotonic() - min(ready) if ready else 0.0

    def _is_ready(self, speaker: Speaker) -> bool:
        return speaker.ending or speaker.queued_s * 1000 >= self.limits.push_ms

    # ---------------------------------------------------------------------------------------------- in the thread

    def _run(self):
        while True:
            with self._condition:
                while not self._stopping and not self._has_work():
                    self._condition.wait()
                    self._measure()
                if self._stopping and not self._everybody():
                    return
                joining, self._joining = self._joining, []
            try:
                for speaker, snapshot in joining:
                    self._open(speaker, snapshot)
                self._put_aside_lost()
                self._push_ready()
                self._finish_ending()
            except Exception:  # the thread serves everybody: it must not end by anything that one of them brings
                LOG.warning("the engine met an error", exc_info=True)
            self._measure()

    def _has_work(self) -> bool:
        speakers = self._speakers.values()
        return bool(self._joining) or any(s.saved or s.ending or (s.queue and self._is_ready(s)) for s in speakers)

    def _open(self, speaker: Speaker, snapshot: dict | None):
        self._speakers[speaker.key] = speaker
        try:
            session = self._batch.join(speaker.key, speaker.options)
            if snapshot is not None:
                session.restore(snapshot)
        except Exception as error:
            self._end(speaker, error)

    def _put_aside_lost(self):
        for speaker in [s for s in self._speakers.values() if s.saved]:
            snapshot = self._batch.sessions[speaker.key].snapshot()
            with self._condition:
                waiting = [samples for samples, _ in speaker.queue]
                self._forget(speaker)
            speaker.saved(snapshot, waiting)

    def _push_ready(self):
        pieces, rates, arrivals = {}, {}, {}
        with self._condition:
            for speaker in self._speakers.values():
                if speaker.queue and self._is_ready(speaker):
                    pieces[speaker.key], arrivals[speaker.key] = self._take(speaker)
                    rates[speaker.key] = speaker.sample_rate
        if not pieces:
            return
        began = time.monotonic()
        replies = self._batch.push(pieces, rates)
        now = time.monotonic()
        audio = sum(len(piece) / rates[key] for key, piece in pieces.items())
        self._work.append((now, now - began, audio))
        self.metrics.audio.inc(audio)
        for key, reply in replies.items():
            speaker = self._speakers[key]
            self.metrics.lag.observe(now - arrivals[key])
            speaker.heard += len(pieces[key])
            self._answer(speaker, reply)

    def _take(self, speaker: Speaker) -> tuple[np.ndarray, float]:
        """The oldest audio of a speaker, at most a second, and when its newest sample arrived."""
        most, taken, arrival = int(MOST_AT_ONCE_S * speaker.sample_rate), [], 0.0
        while speaker.queue and most > 0:
            samples, arrival = speaker.queue.popleft()
            if len(samples) > most:
                speaker.queue.appendleft((samples[most:], arrival))
                samples = samples[:most]
            taken.append(samples)
            most -= len(samples)
        piece = np.concatenate(taken)
        speaker.queued -= len(piece)
        return piece, arrival

    def _finish_ending(self):
        with self._condition:
            ending = [s for s in self._speakers.values() if s.ending and not s.queue]
        if not ending:
            return
        replies = self._batch.finish([speaker.key for speaker in ending])
        for speaker in ending:
            if self._answer(speaker, replies[speaker.key]):
                self._end(speaker, None)

    def _answer(self, speaker: Speaker, reply) -> bool:
        """Hand a reply on; False where the session ended in an error."""
        if reply.error is not None:
            self._end(speaker, reply.error)
            return False
        speaker.deliver(reply.events, speaker.heard / speaker.sample_rate)
        return True

    def _end(self, speaker: Speaker, error: Exception | None):
        with self._condition:
            self._forget(speaker)
        if error is not None:
            self.metrics.errors.labels(type(error).__name__).inc()
            level = logging.INFO if isinstance(error, InputError | SessionError) else logging.WARNING
            LOG.log(level, "session %s: %s", speaker.key, error)
            speaker.failed(error)

    def _forget(self, speaker: Speaker):
        self._speakers.pop(speaker.key, None)
        if speaker.key in self._batch.sessions:
            self._batch.leave(speaker.key)
        speaker.queue.clear()
        speaker.queued = 0

    def _measure(self):
        now, metrics = time.monotonic(), self.metrics
        while self._work and self._work[0][0] < now - WINDOW_S:
            self._work.popleft()
        worked, audio = (sum(entry[i] for entry in self._work) for i in (1, 2))
        metrics.load.set(min(1.0, worked / WINDOW_S))
        metrics.real_time_factor.set(worked / audio if audio else 0.0)
        metrics.sessions.set(len(self._speakers))
        metrics.queued.set(sum(speaker.queued_s for speaker in list(self._speakers.values())))
