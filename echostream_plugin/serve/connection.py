"""One speaker's connection: messages in, replies out, and what happens when either side is too fast, slow or gone."""

import asyncio
import json
import logging
import secrets
import time
from collections import deque

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from echostream_plugin.inference.session import SessionOptions
from echostream_plugin.serve.engine import Engine, Refused, Speaker
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.protocol import ProtocolError, Settings, read_audio, read_message, writer_of

LOG = logging.getLogger("echostream.serve")
KEPT_MESSAGES = 2000  # of a session, which a client that comes back may have missed


class Session:
    """A speaker's session across connections: its place in the engine, its replies, and the way back to it."""

    def __init__(self, engine: Engine, settings: Settings, options: SessionOptions, loop):
        self.key, self.engine, self.settings, self.options = secrets.token_urlsafe(12), engine, settings, options
        self.writer = writer_of(settings)
        self.outbox = asyncio.Queue()
        self.unread = 0  # bytes in the outbox
        self.kept = deque(maxlen=KEPT_MESSAGES)  # (number of the last event in it, message)
        self.pushed = 0  # samples that arrived
        self.began = time.monotonic()
        self.detached_at = None
        self.snapshot = None
        self.over = False
        self._loop = loop
        self.speaker = self._new_speaker()

    def _new_speaker(self) -> Speaker:
        return Speaker(self.key, self.settings.sample_rate, self.options, self._from_engine, self._failed_in_engine)

    @property
    def length_s(self) -> float:
        return time.monotonic() - self.began

    def open(self):
        """Take a place in the engine. Raises Refused."""
        self.engine.join(self.speaker, self.snapshot)
        self.snapshot = None

    def hear(self, samples: np.ndarray):
        self.pushed += len(samples)
        self.engine.hear(self.speaker, samples)

    def post(self, message):
        """A reply for the client."""
        self.kept.append((getattr(self.writer, "number", 0), message))
        self.unread += len(message)
        self.outbox.put_nowait(message)

    def detach(self, done):
        """The connection is gone: the engine's place is given up for a snapshot; done() is called on the loop."""
        self.detached_at = time.monotonic()

        def saved(snapshot, waiting):
            self._loop.call_soon_threadsafe(self._keep, snapshot, waiting, done)

        self.engine.put_aside(self.speaker, saved)

    def _keep(self, snapshot, waiting, done):
        self.snapshot = snapshot
        self.pushed -= sum(map(len, waiting))  # the client sends again what was not heard
        heard = self.speaker.heard
        self.speaker = self._new_speaker()
        self.speaker.heard = heard
        done()

    def missed(self, received: int) -> list:
        """Messages after event number `received`."""
        return [message for number, message in self.kept if number > received]

    def _from_engine(self, events: list, heard_s: float):
        finished = any(type(event).__name__ == "Finished" for event in events)
        self._loop.call_soon_threadsafe(self._deliver, events, heard_s, finished)

    def _deliver(self, events, heard_s, finished):
        for message in self.writer.messages(events, heard_s):
            self.post(message)
        if finished:
            for message in self.writer.closing():
                self.post(message)
            self.close()

    def _failed_in_engine(self, error: Exception):
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: Exception):
        self.post(json.dumps({"kind": "error", "error": str(error)[:300]}))
        self.close()

    def close(self):
        """Nothing follows what is in the outbox."""
        self.over = True
        self.outbox.put_nowait(None)


class Connection:
    """One websocket from its opening to its end."""

    def __init__(self, server, socket: web.WebSocketResponse, token: str):
        self.server, self.socket, self._token = server, socket, token
        self.limits: Limits = server.limits
        self.settings = Settings()
        self.session: Session | None = None
        self._ending = False
        self._sender = None

    async def run(self):
        """Serve until one side is done."""
        try:
            await self._receive()
        except Refused as refusal:
            self.server.metrics.refused.labels(refusal.reason).inc()
            await self._say_and_close(str(refusal), WSCloseCode.TRY_AGAIN_LATER)
        except ProtocolError as error:
            await self._say_and_close(str(error), WSCloseCode.UNSUPPORTED_DATA)
        except ConnectionError:
            pass
        finally:
            await self._leave()

    async def _receive(self):
        while not self.socket.closed:
            try:
                message = await asyncio.wait_for(self.socket.receive(), self.limits.idle)
            except TimeoutError:
                if self._ending:
                    continue
                raise Refused("idle", f"nothing was heard for {self.limits.idle:g} s: the session is over") from None
            if message.type == WSMsgType.TEXT:
                await self._text(message.data)
            elif message.type == WSMsgType.BINARY:
                await self._audio(message.data)
            elif message.type == WSMsgType.ERROR:
                return
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return

    async def _text(self, text: str):
        """A settings message; one that cannot be used is answered and changes nothing, as in simulstream."""
        try:
            message = read_message(text)
            settings = self.settings.changed(message)
            if self.session is not None and settings != self.settings:
                raise ProtocolError("settings come before the first audio; begin a new session to change them")
            self._check_languages(settings)
        except ProtocolError as error:
            await self.socket.send_str(json.dumps({"kind": "error", "error": str(error)}))
            return
        self.settings = settings
        if settings.resume and self.session is None:
            await self._resume()
        elif settings.protocol == "events" and self.session is None and "end_of_stream" not in message:
            self._begin()
        if message.get("end_of_stream"):
            self._end_of_stream()

    def _check_languages(self, settings: Settings):
        for side in ("source", "target"):
            asked, known = getattr(settings, f"{side}_lang"), self.server.languages[side]
            if asked and known and asked.lower()[:2] != known[:2]:
                raise ProtocolError(f"{side}_lang '{asked[:20]}': this server's model has {side} language {known}")

    def _begin(self):
        if not self.server.token_is_right(self.settings.token or self._token):
            raise Refused("token", "a token is needed: give it as 'token', or as ?token= of the address")
        options = self.server.options_of(self.settings)
        session = Session(self.server.engine, self.settings, options, asyncio.get_running_loop())
        session.open()
        self._attach(session)
        for message in session.writer.opening(session.key):
            session.post(message)

    def _attach(self, session: Session):
        self.session, session.detached_at = session, None
        self.server.sessions[session.key] = session
        self._sender = asyncio.create_task(self._send())

    async def _resume(self):
        session = self.server.sessions.get(self.settings.resume)
        if session is None or session.detached_at is None or session.snapshot is None:
            raise Refused("resume", "no session waits under this key; begin a new one")
        if session.length_s > 3600 * self.limits.session_hours:
            raise Refused("long", "the session has reached the server's longest")
        session.open()
        missed, session.outbox, session.unread = session.missed(self.settings.received), asyncio.Queue(), 0
        self.settings = session.settings
        session.outbox.put_nowait(json.dumps({"kind": "resumed", "key": session.key, "samples": session.pushed}))
        for message in missed:
            session.unread += len(message)
            session.outbox.put_nowait(message)
        self._attach(session)

    async def _audio(self, content: bytes):
        if self._ending:
            raise ProtocolError("audio after end_of_stream: begin a new session")
        if self.session is None:
            self._begin()
        session = self.session
        session.hear(read_audio(content, self.settings.format))
        if session.length_s > 3600 * self.limits.session_hours:
            self._end_of_stream()
            session.post(json.dumps({"kind": "note", "note": "the session has reached the server's longest"}))
        if session.speaker.queued_s > self.limits.backlog:
            session.post(json.dumps({"kind": "backlog", "seconds": round(session.speaker.queued_s, 1)}))
            while session.speaker.queued_s > self.limits.backlog / 2 and not session.over:
                await asyncio.sleep(0.02)  # the socket is not read: the client has to wait, nothing is lost

    def _end_of_stream(self):
        if self.session is None:
            self._begin()
        if not self._ending:
            self._ending = True
            self.session.engine.finish(self.session.speaker)

    async def _send(self):
        """Replies as they come; a client that does not read them is let go."""
        session = self.session
        while (message := await session.outbox.get()) is not None:
            session.unread -= len(message)
            send = self.socket.send_bytes if isinstance(message, bytes) else self.socket.send_str
            try:
                await asyncio.wait_for(send(message), self.limits.idle)
            except (TimeoutError, ConnectionError):
                break
            if session.unread > self.limits.outbox_mb * 2**20:
                LOG.info("session %s: the client reads too slowly", session.key)
                break
        await self.socket.close(code=WSCloseCode.OK if session.over else WSCloseCode.GOING_AWAY)

    async def _say_and_close(self, text: str, code: int):
        try:
            await self.socket.send_str(json.dumps({"kind": "error", "error": text}))
            await self.socket.close(code=code, message=text.encode()[:120])
        except (ConnectionError, RuntimeError):
            pass

    async def _leave(self):
        """The connection is over: the session too, unless it was lost in the middle and may be resumed."""
        session = self.session
        if session is None:
            return
        if self._sender is not None:
            if session.over:
                await asyncio.wait([self._sender], timeout=5)
            self._sender.cancel()
        if session.over or self._ending:
            self.server.sessions.pop(session.key, None)
            return
        resumable = self.limits.resume and self.settings.protocol == "events"
        session.detach(lambda: self.server.keep_for_a_while(session) if resumable else None)
        if not resumable:
            self.server.sessions.pop(session.key, None)
