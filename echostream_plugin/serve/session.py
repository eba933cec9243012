"""A speaker's session across connections: its place in the engine, what it said, and the way back to it."""

import asyncio
import json
import secrets
import time
from collections import deque

import numpy as np

from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.serve.engine import Engine
from echostream_plugin.serve.protocol import ProtocolError, Settings, writer_of
from echostream_plugin.serve.speaker import Refused, Speaker

KEPT_MESSAGES = 2000  # of a session, which a client that comes back may have missed
KEPT_BYTES = 4 * 2**20  # of them; two minutes of a voice that never stops
NO_SESSION = "no session waits under this key; begin a new one"
OUR_FAULT = "the session ended by an error of the server; its log says more"


class Session:
    """What a key stands for. Everything but the engine's calls happens on the event loop."""

    def __init__(self, engine: Engine, settings: Settings, options: SessionOptions, loop):
        self.key, self.engine, self.settings, self.options = secrets.token_urlsafe(12), engine, settings, options
        self.writer = writer_of(settings)
        self.connection = None  # the one that it is served by
        self.outbox = asyncio.Queue()  # (message, when it was said or None); None at the end
        self.unread = 0  # bytes in the outbox
        self.pushed = 0  # samples that arrived
        self.began = time.monotonic()
        self.detached_at = None
        self.snapshot = None
        self.aside = asyncio.Event()  # dropped, and nothing of it is going on in the engine any more
        self.taking = asyncio.Lock()  # one client at a time takes it up: the next one finds it taken, or aside
        self.ending = self.over = False
        self._kept, self._kept_bytes = deque(), 0  # (number of the last event in it, message)
        self._loop = loop
        self.speaker = self._new_speaker()

    def _new_speaker(self) -> Speaker:
        return Speaker(self.key, self.settings.sample_rate, self.options, self._from_engine, self._failed_in_engine)

    @property
    def length_s(self) -> float:
        """For how long it has lasted, in seconds."""
        return time.monotonic() - self.began

    def open(self):
        """Take a place in the engine. Raises Refused."""
        self.engine.join(self.speaker, self.snapshot)
        self.snapshot = None
        self.aside.clear()

    def hear(self, samples: np.ndarray):
        """The next audio of the speaker, [n]."""
        self.pushed += len(samples)
        self.engine.hear(self.speaker, samples)

    def finish(self):
        """No more audio comes."""
        if not self.ending:
            self.ending = True
            self.engine.finish(self.speaker)

    def post(self, message, said: float | None = None):
        """A reply for the client; said: when the session said it, by `time.monotonic`."""
        self._keep_message(message)
        self._put(message, said)

    def _put(self, message, said=None):
        self.unread += len(message)
        self.outbox.put_nowait((message, said))

    def _keep_message(self, message):
        if self.settings.protocol != "events":  # nobody comes back to it
            return
        self._kept.append((self.writer.number, message))
        self._kept_bytes += len(message)
        while len(self._kept) > KEPT_MESSAGES or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def detach(self):
        """The connection is gone: the engine's place is given up for a snapshot, or where no more audio comes the
        utterance is finished for the client that may ask for it."""
        self.detached_at, self.connection = time.monotonic(), None
        if self.ending or self.over:
            self.aside.set()
        else:
            self.leave_engine()

    def leave_engine(self):
        """The connection is lost: the engine puts the speaker aside, and the session waits for it to come back."""

        def saved(snapshot, waiting):
            self._loop.call_soon_threadsafe(self._put_aside, snapshot, waiting)

        self.engine.put_aside(self.speaker, saved)

    def _put_aside(self, snapshot, waiting):
        self.snapshot = snapshot
        self.pushed -= sum(map(len, waiting))  # the client sends again what was not heard
        heard = self.speaker.heard
        self.speaker = self._new_speaker()
        self.speaker.heard = heard
        self.aside.set()

    def take_up(self, received: int):
        """A client is back, that got events up to number `received`: fill the outbox with those that it missed.

        Raises Refused, or ProtocolError for a number that was never sent."""
        if received > self.writer.number:
            raise ProtocolError(f"received: {received} is more than the session has said ({self.writer.number} events)")
        if self._kept and self._kept[0][0] > received + 1:
            raise Refused("resume", "the client missed more than is kept; begin a new session")
        if not (self.ending or self.over):
            if self.snapshot is None:
                raise Refused("resume", NO_SESSION)
            self.open()
        self.outbox, self.unread, self.detached_at = asyncio.Queue(), 0, None
        self._put(json.dumps({"kind": "resumed", "key": self.key, "samples": self.pushed}))
        for number, message in self._kept:
            if number > received:
                self._put(message)
        if self.over:
            self.outbox.put_nowait(None)

    def _from_engine(self, events: list, heard_s: float | None):
        finished = any(isinstance(event, Finished) for event in events)
        self._loop.call_soon_threadsafe(self._deliver, events, heard_s, finished, time.monotonic())

    def _deliver(self, events, heard_s, finished, said):
        for message in self.writer.messages(events, heard_s):
            self.post(message, said)
        if finished:
            for message in self.writer.closing():
                self.post(message)
            self.close()

    def _failed_in_engine(self, error: Exception):
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception):
        """What the client did wrong is said; what went wrong here is no business of a stranger."""
        text = str(error)[:300] if isinstance(error, InputError | SessionError) else OUR_FAULT
        self.post(json.dumps({"kind": "error", "error": text}))
        self.close()

    def close(self):
        """Nothing follows what is in the outbox."""
        self.over = True
        self.outbox.put_nowait(None)
