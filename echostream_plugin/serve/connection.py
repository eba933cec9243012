"""One speaker's connection: messages in, replies out, and what happens when either side is too fast, slow or gone."""

import asyncio
import json
import logging
import time

from aiohttp import WSCloseCode, WSMsgType, web

from echostream_plugin.inference.languages import differs
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.protocol import ProtocolError, Settings, read_audio, read_message
from echostream_plugin.serve.session import NO_SESSION, Session
from echostream_plugin.serve.speaker import Refused

LOG = logging.getLogger("echostream.serve")
GOODBYE_S = 10.0  # for the last message and the close
ASIDE_S = 30.0  # that a client which comes back waits for the model to let go of its session


class Connection:
    """One websocket from its opening to its end."""

    def __init__(self, server, socket: web.WebSocketResponse, token: str, transport=None):
        self.server, self.socket, self._token, self._transport = server, socket, token, transport
        self.limits: Limits = server.limits
        self.settings = Settings()
        self.session: Session | None = None
        self._said_goodbye = False  # the client closed, or got everything
        self._too_long = False
        self._given_up = None
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
        while not self.socket.closed and not self._given_up:
            message = await self._next_message()
            if message is None:
                return await self._say_goodbye()
            if message.type == WSMsgType.TEXT:
                await self._text(message.data)
            elif message.type == WSMsgType.BINARY:
                await self._audio(message.data)
            elif message.type == WSMsgType.CLOSE:
                self._said_goodbye = True
                return
            elif message.type in (WSMsgType.ERROR, WSMsgType.CLOSING, WSMsgType.CLOSED):
                return

    async def _next_message(self):
        """What the client says next; None where nothing follows what was sent to it."""
        receiving = asyncio.ensure_future(self.socket.receive())
        waited = {receiving, self._sender} - {None}
        try:
            while not (await asyncio.wait(waited, timeout=self.limits.idle, return_when=asyncio.FIRST_COMPLETED))[0]:
                if self.session is None or not self.session.ending:
                    text = f"nothing was heard for {self.limits.idle:g} s: the session is over"
                    raise Refused("idle", text)
            return None if self._given_up or not receiving.done() else receiving.result()
        finally:
            if not receiving.done():
                receiving.cancel()
                await asyncio.wait([receiving])

    async def _say_goodbye(self):
        """Close after the last reply. Only a client that closes in turn has it: no other task may be receiving then,
        or aiohttp does not wait for the client's word."""
        if self._given_up or (code := self._sender.result()) is None:
            return
        await self.socket.close(code=code)
        over = self.session is not None and self.session.over
        self._said_goodbye = over and self.socket.close_code == WSCloseCode.OK

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
            if differs(asked, known):
                raise ProtocolError(f"{side}_lang '{asked[:20]}': this server's model has {side} language {known}")

    def _check_token(self):
        if not self.server.token_is_right(self.settings.token or self._token):
            raise Refused("token", "a token is needed: give it as 'token', or as ?token= of the address")

    def _begin(self):
        self._check_token()
        options = self.server.options_of(self.settings)
        session = Session(self.server.engine, self.settings, options, asyncio.get_running_loop())
        session.open()
        self._attach(session)
        for message in session.writer.opening(session.key):
            session.post(message)

    def _attach(self, session: Session):
        self.session, session.connection = session, self
        self.server.attached(session)
        self._sender = asyncio.create_task(self._send(session))

    async def _resume(self):
        """Take up a dropped session, also from a connection that the server still believes in."""
        self._check_token()
        session = self.server.sessions.get(self.settings.resume)
        if session is not None and session.length_s > 3600 * self.limits.session_hours:
            raise Refused("long", "the session has reached the server's longest")
        if session is None or session.settings.protocol != "events":
            raise Refused("resume", NO_SESSION)
        async with session.taking:
            await self._take_over(session)

    async def _take_over(self, session: Session):
        if session.connection is not None:
            session.connection.give_up()
        try:
            await asyncio.wait_for(session.aside.wait(), ASIDE_S)
        except asyncio.TimeoutError:
            raise Refused("busy", "the model is busy with the session; try again later") from None
        if session.key not in self.server.sessions:
            raise Refused("resume", NO_SESSION)
        session.take_up(self.settings.received)
        self.settings = session.settings
        self._attach(session)

    def give_up(self):
        """The client takes its session up by another connection."""
        session, self.session = self.session, None
        self._sender.cancel()
        session.detach()
        self.server.keep(session)
        text = "the session was taken up by another connection"
        self._given_up = asyncio.create_task(self._say_and_close(text, WSCloseCode.POLICY_VIOLATION))

    async def _audio(self, content: bytes):
        if self.session is None:
            self._begin()
        session = self.session
        samples = read_audio(content, self.settings.format)
        if self._too_long:
            return  # the client was told
        if session.ending:
            raise ProtocolError("audio after end_of_stream: begin a new session")
        session.hear(samples)
        if session.length_s > 3600 * self.limits.session_hours:
            self._too_long = True
            session.post(json.dumps({"kind": "note", "note": "the session has reached the server's longest"}))
            session.finish()
        if session.speaker.is_behind(self.limits.backlog):
            session.post(json.dumps({"kind": "backlog", "seconds": round(session.speaker.queued_s, 1)}))
            while session.speaker.is_behind(self.limits.backlog / 2) and not session.over and session is self.session:
                await asyncio.sleep(0.02)  # the socket is not read: the client has to wait, nothing is lost

    def _end_of_stream(self):
        if self.session is None:
            self._begin()
        self.session.finish()

    async def _send(self, session: Session):
        """Replies as they come; one that does not read them is disconnected. Returns the code to close with, or None
        where the connection is lost."""
        code = WSCloseCode.OK
        try:
            while (entry := await session.outbox.get()) is not None:
                message, said = entry
                session.unread -= len(message)
                send = self.socket.send_bytes if isinstance(message, bytes) else self.socket.send_str
                await asyncio.wait_for(send(message), self.limits.idle)
                if said is not None:
                    self.server.metrics.reply.observe(time.monotonic() - said)
                if session.unread > self.limits.outbox_mb * 2**20:
                    error = f"more than {self.limits.outbox_mb:g} MiB of replies were not read: the client is too slow"
                    code = WSCloseCode.TRY_AGAIN_LATER
                    self.server.metrics.refused.labels("slow").inc()
                    await self.socket.send_str(json.dumps({"kind": "error", "error": error}))
                    break
        except asyncio.TimeoutError:  # it reads nothing at all: no last word can reach it
            LOG.info("a client does not read its replies and is disconnected")
            self._transport.abort()
            return None
        except ConnectionError:
            return None
        return code

    async def _say_and_close(self, text: str, code: int):
        async def say():
            await self.socket.send_str(json.dumps({"kind": "error", "error": text}))
            await self.socket.close(code=code, message=text.encode("ascii", "replace")[:120])

        try:
            await asyncio.wait_for(say(), GOODBYE_S)
        except (asyncio.TimeoutError, ConnectionError, RuntimeError):
            if self._transport is not None:
                self._transport.abort()

    async def _leave(self):
        """The connection is over: the session too, unless it was lost in the middle and may be resumed."""
        if self._given_up:
            await asyncio.wait([self._given_up])
        if self.session is None:
            return
        if self.session.over:
            await asyncio.wait([self._sender], timeout=5)
        session, self.session = self.session, None
        if session is None:  # another connection has it
            return
        self._sender.cancel()
        session.connection = None
        if self._said_goodbye or not self.limits.resume or self.settings.protocol != "events":
            self.server.forget(session)
        else:
            session.detach()
            self.server.keep(session)
