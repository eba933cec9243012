"""What a stranger sends: bytes on a bare connection, frames of a websocket, sessions that break off."""

import asyncio
import base64
import os
import struct

import numpy as np

from echostream_plugin.inference.events import TargetText
from tests.serve.running import gather_replies, kinds, pcm, texts, translate

RATE = 16000


SCRIPT = {1: [TargetText("one", "one", 1.0)], 3: [TargetText("one three", " three", 3.0)]}


SAMPLES = np.zeros(4 * 3200, np.float32)


async def until(condition, seconds=30):
    """Wait for something that other threads do."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    assert condition()


def is_well(server):
    """A good speaker is heard as ever."""
    replies = asyncio.run(translate(server.ws, SAMPLES))
    return kinds(replies)[-1] == "end" and texts(replies)[-1] == "one three"


async def raw(server, content=b"", read=True):
    """Bytes on a bare connection; returns what came back until it was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(content)
    try:
        return await asyncio.wait_for(reader.read(), 10) if read else b""
    finally:
        writer.close()


def handshake(path="/ws", more=""):
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{more}\r\n"
    ).encode()


def frame(payload, opcode=1, final=True, masked=True, reserved=0):
    head = bytes([(0x80 if final else 0) | (reserved << 4) | opcode])
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    length = bytes([length[0] | (0x80 if masked else 0)]) + length[1:]
    return head + length + (b"\0\0\0\0" if masked else b"") + payload


HELLO = frame(b'{"protocol": "events"}')


async def begun(client, server, **settings):
    socket = await client.ws_connect(server.ws)
    await socket.send_json({"protocol": "events", **settings})
    return socket, (await socket.receive_json(timeout=20))


async def hear(socket, pieces=1, seconds=0.2):
    """Send so many pieces and wait until they were heard; returns the replies."""
    found = []
    for _ in range(pieces):
        await socket.send_bytes(pcm(np.zeros(int(seconds * RATE), np.float32)))
        found += await gather_replies(socket, until=("heard", "error"))
    return found
