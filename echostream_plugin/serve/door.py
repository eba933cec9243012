"""The listening side: how connections come in, over TLS or not, and how many of them there may be."""

import asyncio
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

LOG = logging.getLogger("echostream.serve.http")

HEADER_S = 15  # for a request's header and between two requests: half-open connections are closed
HANDSHAKE_S = 15  # for TLS
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Door:
    """An application at a bound socket; `open` it and `close` it on the same event loop.

    connections: open ones; one more is closed at once, before anything of it is read."""

    def __init__(self, app: web.Application, listen: socket.socket, tls=None, connections: int = 1000):
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=HEADER_S, shutdown_timeout=30, logger=LOG)
        self._listen, self._tls, self._most = listen, tls, connections
        self._server = None

    async def open(self):
        """Start the application, then listen."""
        await self._runner.setup()
        handshake = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S} if self._tls else {}
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._listen, backlog=512, **handshake)

    async def close(self):
        """Listen no more, let the application finish, close what is open."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.Protocol:
        return Refusing() if len(self._runner.server.connections) >= self._most else self._runner.server()


def is_ours(record: logging.LogRecord) -> bool:
    """Does a line of the log speak of this program? A request that is no HTTP is answered, and no error of ours."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


LOG.addFilter(is_ours)


class Refusing(asyncio.Protocol):
    """What meets a connection that is one too many."""

    def connection_made(self, transport):
        transport.write(BUSY)
        transport.close()


def listening_socket(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError where the address cannot be had."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listen = socket.socket(family, socket.SOCK_STREAM)
    try:
        listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listen.bind((host, port))
    except OSError:
        listen.close()
        raise
    return listen


def raise_file_limit(connections: int):
    """Let this process hold so many connections, as far as the system allows."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 200 if hard == resource.RLIM_INFINITY else min(hard, connections + 200)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
