"""The server: websocket, page, health and metrics (aiohttp). `echostream serve` starts it."""

import asyncio
import hmac
import json
import logging
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, web

from echostream_plugin import __version__
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.languages import SIDES, language_of
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.serve.connection import Connection
from echostream_plugin.serve.engine import Engine
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.metrics import Metrics
from echostream_plugin.serve.protocol import Settings
from echostream_plugin.serve.session import Session

LOG = logging.getLogger("echostream.serve")
STATIC = Path(str(files("echostream_plugin.serve"))) / "static"
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; img-src "
    "'self' data: blob:; style-src 'self'; script-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Server:
    """One bundle, served. `app()` is the aiohttp application.

    options: of the sessions, where a client does not choose; origins: further pages that may connect (a page of the
    server itself always may); token: what clients must show, '' for none."""

    def __init__(
        self,
        bundle: Bundle,
        folder,
        limits: Limits | None = None,
        options: SessionOptions | None = None,
        origins: tuple = (),
        token: str = "",
    ):
        self.bundle, self.folder = bundle, Path(folder)
        self.limits, self.options = limits or Limits(), options or bundle_options(bundle)
        self.origins, self._token = tuple(origins), token
        self.metrics = Metrics()
        self.engine = Engine(bundle, self.limits, self.metrics, self.options, self.folder)
        self.sessions: dict[str, Session] = {}  # by key, also those that wait for their speaker
        self._waiting: dict[str, Session] = {}  # the latter, the oldest first
        self.languages = {side: language_of(bundle.card, side) for side in SIDES}
        self._sockets = set()

    def app(self) -> web.Application:
        """The application with all routes."""
        app = web.Application(middlewares=[_secure])
        app.router.add_get("/", self._page)
        app.router.add_get("/ws", self._socket, allow_head=False)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/info", self._info)
        app.router.add_static("/static", STATIC)
        if (self.folder / "samples").is_dir():
            app.router.add_static("/samples", self.folder / "samples")
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._shut_down)
        return app

    def options_of(self, settings: Settings) -> SessionOptions:
        """A session's options: without a voice where the client does not want to hear it."""
        speaks = settings.audio_out and self.bundle.vocoder is not None
        return self.options if speaks == self.options.speech else replace(self.options, speech=speaks)

    def token_is_right(self, token: str) -> bool:
        """Compared in constant time; any text may be given, also one that is no Unicode."""
        given, wanted = (text.encode("utf-8", "surrogatepass") for text in (token, self._token))
        return not self._token or hmac.compare_digest(given, wanted)

    def attached(self, session: Session):
        """A connection serves this session now."""
        self.sessions[session.key] = session
        self._waiting.pop(session.key, None)
        self.metrics.detached.set(len(self._waiting))

    def keep(self, session: Session):
        """Hold a dropped session until its speaker comes back, `limits.resume` is over, or too many others wait."""
        self._waiting[session.key] = session
        if len(self._waiting) > self.limits.kept:
            self.forget(next(iter(self._waiting.values())))
        self.metrics.detached.set(len(self._waiting))
        since = session.detached_at

        def drop():
            if session.detached_at == since:
                self.forget(session)

        asyncio.get_running_loop().call_later(self.limits.resume, drop)

    def forget(self, session: Session):
        """Nobody comes back to this session."""
        self.sessions.pop(session.key, None)
        self._waiting.pop(session.key, None)
        self.metrics.detached.set(len(self._waiting))
        if not session.over:
            session.leave_engine()

    async def _start(self, app):
        self.engine.start()
        await asyncio.get_running_loop().run_in_executor(None, self.engine.ready.wait)

    async def _shut_down(self, app):
        """What was heard is finished and sent, then the connections are closed."""
        await asyncio.get_running_loop().run_in_executor(None, self.engine.stop)
        await asyncio.sleep(0.1)  # the last replies go out
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server is shutting down")

    def _origin_is_right(self, request: web.Request) -> bool:
        """A page of another site may not use the microphone of a visitor with our server (no header: no browser)."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self.origins or "*" in self.origins:
            return True
        try:
            return urlsplit(origin).netloc == request.host
        except ValueError:
            return False

    async def _socket(self, request: web.Request):
        if not self._origin_is_right(request):
            self.metrics.refused.labels("origin").inc()
            raise web.HTTPForbidden(text="this page may not connect: start the server with --allow-origin\n")
        # audio does not compress, and a small message that unpacks to a large one is no use to anybody
        socket = web.WebSocketResponse(
            max_msg_size=self.limits.message_kb * 1024, heartbeat=20, compress=False, timeout=3
        )
        if not socket.can_prepare(request).ok:
            raise web.HTTPBadRequest(text="this address is a websocket's\n")
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            token = request.query.get("token", "") or bearer
            await Connection(self, socket, token, request.transport).run()
        finally:
            self._sockets.discard(socket)
        return socket

    async def _page(self, request):
        if request.headers.get("Upgrade", "").lower() == "websocket":  # simulstream's clients connect to the root
            return await self._socket(request)
        return web.FileResponse(STATIC / "index.html")

    async def _health(self, request):
        alive = self.engine.alive
        body = {"status": "ok" if alive else "down", "sessions": len(self.sessions), "room": self.engine.room}
        return web.json_response(body, status=200 if alive else 503)

    async def _metrics(self, request):
        return web.Response(body=self.metrics.text(), content_type="text/plain", charset="utf-8")

    async def _info(self, request):
        """What the page says about the model, and the recordings that it can play."""
        card = self.bundle.card or {}
        samples = self.folder / "samples" / "samples.json"
        recordings = json.loads(samples.read_text(encoding="utf-8")) if samples.is_file() else []
        return web.json_response(
            {
                "version": __version__,
                "card": card,
                "languages": self.languages,
                "speaks": self.bundle.vocoder is not None,
                "token": bool(self._token),
                "recordings": recordings,
                "push_ms": self.limits.push_ms,
            }
        )


@web.middleware
async def _secure(request, handler):
    try:
        response = await handler(request)
    except web.HTTPException as refusal:
        refusal.headers.update(SECURITY)
        raise
    except (OSError, ValueError):
        if not request.path.startswith(("/static/", "/samples/")):
            raise
        raise web.HTTPNotFound(headers=SECURITY) from None  # a name that no file system takes
    if not response.prepared:
        response.headers.update(SECURITY)
    return response
