"""The thread that owns the model: it hears all speakers in one batch and hands their events back.

Nothing of the model runs on the event loop. A speaker's audio waits in its queue until `push_ms` of it are there; then
all speakers that have so much are pushed together (`inference.batch.BatchedSession`). How many speakers there is room
for is a number (`--max-sessions`) or what `capacity` measures.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.serve.capacity import Capacity, calibrate, speech_of
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.metrics import Metrics
from echostream_plugin.serve.speaker import MOST_PIECES, Refused, Speaker

LOG = logging.getLogger("echostream.serve")
MOST_AT_ONCE_S = 1.0  # audio of one speaker in one push: one that brings much does not hold up the others
LEAST_AT_ONCE_S = 0.32  # the same where many do
WINDOW_S = 10.0  # over which load and real-time factor are taken


class Engine:
    """Sessions of many speakers on one bundle, in a thread of its own; all methods may be called from any thread.

    options: of the sessions by which the capacity is measured; folder: of the bundle, for its recordings."""

    def __init__(
        self, bundle: Bundle, limits: Limits, metrics: Metrics, options: SessionOptions | None = None, folder="."
    ):
        self.limits, self.metrics = limits, metrics
        self.capacity = Capacity(limits.push_ms / 1000)
        self.ready = threading.Event()  # the capacity is known
        self._options, self._folder = options or bundle_options(bundle), folder
        self._batch = BatchedSession(bundle, told=self._tell)
        self._speakers: dict[str, Speaker] = {}
        self._joining: list = []  # (speaker, snapshot or None)
        self._condition = threading.Condition()
        self._work = deque()  # (when, seconds worked, seconds of audio)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="echostream-engine", daemon=True)

    def start(self):
        """Begin to work, in a thread of its own."""
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
        """Is the thread at work?"""
        return self._thread.is_alive()

    @property
    def room(self) -> int:
        """How many speakers are taken at a time."""
        return self.limits.max_sessions or self.capacity.speakers

    def _has_room(self, resumed: bool) -> bool:
        count = len(self._everybody())
        if self.limits.max_sessions is not None:
            return count < self.limits.max_sessions
        return self.capacity.has_room(count, resumed)

    def join(self, speaker: Speaker, snapshot: dict | None = None):
        """A new speaker, or one that comes back with the snapshot of its session. Raises Refused."""
        with self._condition:
            if self._stopping:
                raise Refused("stopping", "the server is shutting down")
            if not self._has_room(snapshot is not None):
                count = len(self._everybody())
                raise Refused("full", f"the server is full ({count} speaker{'s' * (count > 1)}); try again later")
            if snapshot is None and (behind := self._oldest()) > self.limits.max_lag:
                raise Refused("busy", f"the server is {behind:.1f} s behind its speakers; try again later")
            self._joining.append((speaker, snapshot))
            self.metrics.opened.inc()
            self._condition.notify()

    def hear(self, speaker: Speaker, samples: np.ndarray):
        """Audio of a speaker, [n] float32 or int16; what comes after its end is not heard."""
        with self._condition:
            if speaker.ending or not len(samples):
                return
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
        place is free; snapshot is None where there was no session (any more), and saved may be called here."""
        with self._condition:
            if speaker in self._everybody():
                speaker.saved = saved
                self._condition.notify()
                return
        saved(None, [])

    def _everybody(self) -> list:
        return [*self._speakers.values(), *(speaker for speaker, _ in self._joining)]

    def _oldest(self) -> float:
        """For how long the oldest piece of audio that could be heard has waited, in seconds."""
        ready = [s.queue[0][1] for s in self._speakers.values() if s.queue and self._is_ready(s)]
        return time.monotonic() - min(ready) if ready else 0.0

    def _is_ready(self, speaker: Speaker) -> bool:
        enough = speaker.queued_s * 1000 >= self.limits.push_ms or len(speaker.queue) > MOST_PIECES
        return speaker.ending or enough

    # ---------------------------------------------------------------------------------------------- in the thread

    def _run(self):
        self._calibrate()
        while True:
            with self._condition:
                while not self._stopping and not self._has_work():
                    self._condition.wait()
                    self._measure()
                if self._stopping and not self._everybody():
                    return
            try:
                self._open_joining()
                self._put_aside_lost()
                self._push_ready()
                self._finish_ending()
            except Exception as error:  # of no speaker in particular: the thread goes on, for those who come next
                LOG.warning("the engine met an error and lets its speakers go", exc_info=True)
                for speaker in list(self._speakers.values()):
                    self._end(speaker, error)
            self._measure()

    def _calibrate(self):
        """Measure what a speaker costs, unless their number was given."""
        try:
            if self.limits.max_sessions is None:
                speech, rate = speech_of(self._folder)
                calibrate(self.capacity, self._batch, self._options, speech, rate)
                if self.capacity.load(1) > 1:
                    LOG.warning("this machine takes %.1f times as long as a speaker speaks, now", self.capacity.load(1))
                LOG.info("room for %d speakers at once (--max-sessions sets another number)", self.room)
        except Exception:
            LOG.warning("the capacity could not be measured: the first speakers show it", exc_info=True)
        finally:
            self._measure()
            self.ready.set()

    def _has_work(self) -> bool:
        speakers = self._speakers.values()
        return bool(self._joining) or any(s.saved or s.ending or (s.queue and self._is_ready(s)) for s in speakers)

    def _open_joining(self):
        with self._condition:  # a speaker is never out of sight of those who would put it aside
            joining, self._joining = self._joining, []
            self._speakers.update({speaker.key: speaker for speaker, _ in joining})
        for speaker, snapshot in joining:
            try:
                session = self._batch.join(speaker.key, speaker.options)
                if snapshot is not None:
                    session.restore(snapshot)
            except Exception as error:
                self._end(speaker, error)

    def _put_aside_lost(self):
        for speaker in [s for s in self._speakers.values() if s.saved]:
            try:
                snapshot = self._batch.sessions[speaker.key].snapshot()
            except Exception as error:
                self._end(speaker, error)
                continue
            with self._condition:
                waiting = [samples for samples, _ in speaker.queue]
                saved, speaker.saved = speaker.saved, None
                self._forget(speaker)
            saved(snapshot, waiting)

    def _push_ready(self):
        pieces, rates, arrivals = {}, {}, {}
        with self._condition:
            ready = [speaker for speaker in self._speakers.values() if speaker.queue and self._is_ready(speaker)]
            for speaker in ready:
                most_s = max(MOST_AT_ONCE_S / len(ready), LEAST_AT_ONCE_S, 2 * self.limits.push_ms / 1000)
                pieces[speaker.key], arrivals[speaker.key] = self._take(speaker, min(most_s, MOST_AT_ONCE_S))
                rates[speaker.key] = speaker.sample_rate
        if not pieces:
            return
        began = time.monotonic()
        replies = self._batch.push(pieces, rates)
        now = time.monotonic()
        audio = sum(len(piece) / rates[key] for key, piece in pieces.items())
        self._worked(began, audio)
        for key, reply in replies.items():
            speaker = self._speakers[key]
            self.metrics.lag.observe(now - arrivals[key])
            speaker.heard += len(pieces[key])
            self._answer(speaker, reply)

    def _worked(self, began: float, audio_s: float):
        """The model has worked since `began`, on so much audio of all speakers."""
        now = time.monotonic()
        self._work.append((now, now - began, audio_s))
        self.capacity.saw(audio_s, now - began)
        self.metrics.audio.inc(audio_s)

    def _take(self, speaker: Speaker, most_s: float) -> tuple[np.ndarray, float]:
        """The oldest audio of a speaker, so many seconds at most, and when its newest sample arrived."""
        most, taken, arrival = max(1, int(most_s * speaker.sample_rate)), [], 0.0
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
        began = time.monotonic()
        replies = self._batch.finish([speaker.key for speaker in ending])
        self._worked(began, 0.0)
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

    def _tell(self, key, events: list):
        """Events of a speaker come before its push is processed."""
        if key in self._speakers:  # nobody hears a calibration
            self._speakers[key].deliver(events, None)

    def _end(self, speaker: Speaker, error: Exception | None):
        with self._condition:
            self._forget(speaker)
        if error is not None:
            self.metrics.errors.labels(type(error).__name__).inc()
            level = logging.INFO if isinstance(error, InputError | SessionError) else logging.WARNING
            LOG.log(level, "session %s…: %s", speaker.key[:4], error)
            speaker.failed(error)
        if speaker.saved:  # it was lost and has ended before it could be put aside
            speaker.saved(None, [])

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
        metrics.room.set(self.room)
        metrics.queued.set(sum(speaker.queued_s for speaker in list(self._speakers.values())))
