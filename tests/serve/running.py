"""A server in a thread of the test, and clients for it."""

import asyncio
import contextlib
import json
import threading

import aiohttp
import numpy as np

from echostream_plugin.inference.batch import Reply
from echostream_plugin.inference.events import Finished
from echostream_plugin.serve.app import Server
from echostream_plugin.serve.door import Door, listening_socket
from echostream_plugin.serve.limits import Limits


class Running:
    """The server of a bundle at a free port of this machine."""

    def __init__(self, bundle, folder, tls=None, batch=None, **options):
        """batch: what takes the place of the model, such as a `ScriptedBatch`."""
        self.server, self._tls = Server(bundle, folder, **options), tls
        if batch is not None:
            self.server.engine._batch = batch
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._up.wait(60)

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        listen = listening_socket("127.0.0.1", 0)
        self.port = listen.getsockname()[1]
        self._door = Door(self.server.app(), listen, self._tls, self.server.limits.connections)
        self._loop.run_until_complete(self._door.open())
        self._up.set()
        self._loop.run_forever()

    def stop(self):
        """As Ctrl-C does."""
        asyncio.run_coroutine_threadsafe(self._door.close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self, forget=False):
        """All connections break without a word, as when a cable is pulled; forget: and the server was started anew."""
        done = threading.Event()

        def abort():
            for connection in list(self._door._runner.server.connections):
                connection.transport.abort()
            if forget:
                self.server.sessions.clear()
            done.set()

        self._loop.call_soon_threadsafe(abort)
        assert done.wait(10)

    @property
    def http(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self):
        return f"ws://127.0.0.1:{self.port}/ws"


@contextlib.contextmanager
def running(bundle, folder, options=None, origins=(), token="", tls=None, batch=None, **limits):
    """A server that is stopped at the end; limits: changes of `Limits`."""
    limits = Limits(**{"push_ms": 80, "max_sessions": 8, **limits})
    server = Running(bundle, folder, tls, batch, limits=limits, options=options, origins=origins, token=token)
    try:
        yield server
    finally:
        server.stop()


def pcm(samples):
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def gather_replies(socket, until=("end", "error"), limit=60):
    """All messages up to the last one of a session: dicts and bytes."""
    replies = []
    while True:
        message = await socket.receive(timeout=limit)
        if message.type == aiohttp.WSMsgType.BINARY:
            replies.append(message.data)
            continue
        if message.type != aiohttp.WSMsgType.TEXT:
            return replies
        replies.append(json.loads(message.data))
        if replies[-1].get("kind") in until or "end_of_processing" in replies[-1]:
            return replies


async def translate(url, samples, settings=None, headers=None, step=0.2, lockstep=True):
    """One session at 16 kHz from beginning to end; returns its replies. lockstep: each piece of `step` seconds is heard
    before the next one is sent, so that a piece is a push (what is decided depends on the pushes)."""
    replies = []
    async with aiohttp.ClientSession() as client, client.ws_connect(url, headers=headers, max_msg_size=0) as socket:
        await socket.send_json({"protocol": "events", **(settings or {})})
        size = int(step * 16000)
        for start in range(0, len(samples), size):
            await socket.send_bytes(pcm(samples[start : start + size]))
            if lockstep and len(samples) - start >= size:
                replies += await gather_replies(socket, until=("heard", "error"))
                if socket.closed or (isinstance(replies[-1], dict) and replies[-1].get("kind") == "error"):
                    return replies
        await socket.send_json({"end_of_stream": True})
        return replies + await gather_replies(socket)


def texts(replies, kind="target_text"):
    return [reply["text"] for reply in replies if isinstance(reply, dict) and reply.get("kind") == kind]


def kinds(replies):
    return [reply.get("kind") for reply in replies if isinstance(reply, dict)]


class ScriptedSession:
    """What a `ScriptedBatch` holds: how often it was pushed."""

    def __init__(self):
        self.pushes = 0

    def snapshot(self):
        return {"pushes": self.pushes}

    def restore(self, snapshot):
        self.pushes = snapshot["pushes"]


class ScriptedBatch:
    """In the place of `BatchedSession`: every session says script[n] at its n-th push, and `last` at its end."""

    def __init__(self, script=None, last=()):
        self.script, self.last, self.sessions = script or {}, list(last), {}

    def join(self, key, options):
        self.sessions[key] = ScriptedSession()
        return self.sessions[key]

    def leave(self, key):
        return self.sessions.pop(key)

    def push(self, pieces, rates):
        replies = {}
        for key in pieces:
            self.sessions[key].pushes += 1
            replies[key] = Reply(list(self.script.get(self.sessions[key].pushes, ())))
        return replies

    def finish(self, keys):
        return {key: Reply([*self.last, Finished(0.0)]) for key in keys}
