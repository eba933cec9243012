"""Broken frames, floods and clients that read nothing end alone, and change nothing for a good speaker."""

import asyncio
import json
import struct
import zlib

import aiohttp
import pytest

from echostream_plugin.inference.events import TargetText
from echostream_plugin.serve import door as door_module
from echostream_plugin.serve.speaker import MOST_PIECES
from tests.serve.running import ScriptedBatch, gather_replies, pcm, running, texts, translate
from tests.serve.stranger import HELLO, RATE, SAMPLES, frame, handshake, is_well, raw, until
from tests.tiny_bundle import speechlike


@pytest.mark.parametrize(
    "frames",
    [
        frame(b"x" * 100, masked=False),  # a client must mask
        frame(b"x", opcode=5),  # no such opcode
        frame(b"{}", reserved=7),
        frame(zlib.compress(b"\0" * 10_000_000)[2:-4][:60000], reserved=4),  # compressed, which was not agreed on
        frame(b"\xff\xfe"),  # text that is no UTF-8
        frame(b"go on", opcode=0),  # the rest of nothing
        frame(b"a" * 200, opcode=9),  # a ping that is too long
        HELLO + frame(b"\0\0", opcode=2, final=False) + HELLO,  # a new message inside another
        HELLO + b"\x82\xff" + struct.pack(">Q", 2**62) + b"\0\0\0\0",  # a frame of four exabytes
        HELLO + b"\x82\xfe\xff",  # half a header
        HELLO + frame(b"\x03", opcode=8),  # half a closing code
        HELLO + frame(b"\x00\x01", opcode=8),  # a closing code that there is not
    ],
)
def test_broken_frames_end_their_connection_alone(serve, frames):
    server = serve()

    async def send():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake() + frames)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()

    asyncio.run(send())
    assert is_well(server)


def test_a_message_in_many_fragments_is_one_and_pings_between_them_are_answered(serve):
    server = serve()
    text = b'{"protocol": "events"}'
    parts = [frame(text[:3], final=False), frame(b"ping", 9), *(frame(bytes([c]), 0, final=False) for c in text[3:-1])]

    async def send():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            handshake() + b"".join(parts) + frame(text[-1:], 0) + frame(b'{"end_of_stream": true}') + frame(b"", 8)
        )
        return await asyncio.wait_for(reader.read(), 10)

    answer = asyncio.run(send())
    assert b"\x8a\x04ping" in answer and b'"kind": "session"' in answer


def test_fragments_without_end_and_floods_of_pings_and_text_stay_within_the_limits(serve):
    server = serve(message_kb=64, idle=2.0)

    async def send(content, times):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        reading = asyncio.create_task(reader.read())
        writer.write(handshake() + HELLO)
        try:
            for _ in range(times):
                writer.write(content)
                await writer.drain()
        except ConnectionError:
            pass
        writer.transport.abort()
        await asyncio.gather(reading, return_exceptions=True)

    async def all_of_them():
        endless = frame(b"\0" * 60000, opcode=0, final=False)
        floods = [(endless, 40), (frame(b"p", 9) * 100, 50), (frame(b"{") * 100, 20), (frame(b"", 2) * 100, 50)]
        good = translate(server.ws, SAMPLES)
        return (await asyncio.gather(good, *(send(*flood) for flood in floods)))[0]

    assert texts(asyncio.run(all_of_them()))[-1] == "one three"


def test_no_compression_is_agreed_on(serve):
    """A small message that unpacks to a large one cannot be sent."""
    server = serve()
    answer = asyncio.run(
        raw(server, handshake(more="Sec-WebSocket-Extensions: permessage-deflate\r\n") + frame(b"", 8))
    )
    assert b"101 Switching" in answer and b"deflate" not in answer.split(b"\r\n\r\n")[0].lower()


def test_half_open_connections_are_closed_and_do_not_keep_others_out(serve, monkeypatch):
    monkeypatch.setattr(door_module, "HEADER_S", 1)
    server = serve(connections=60)

    async def flood():
        kept = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        for number, (_, writer) in enumerate(kept):
            writer.write((b"", b"GET", b"GET / HTTP/1.1\r\nHost: a\r\nX: ")[number % 3])

        async def dribble():
            while True:
                for _, writer in kept[2::3]:
                    writer.write(b"a")
                await asyncio.sleep(0.1)

        dribbling = asyncio.create_task(dribble())
        ends = await asyncio.gather(
            *(asyncio.wait_for(reader.read(), 20) for reader, _ in kept), return_exceptions=True
        )
        dribbling.cancel()
        for _, writer in kept:
            writer.close()
        return ends

    ends = asyncio.run(flood())
    assert not [end for end in ends if isinstance(end, TimeoutError)]
    refused = [end for end in ends if isinstance(end, ConnectionError) or b"503" in end]
    assert refused  # of 200 only 60 may be open
    assert is_well(server)


def test_a_client_that_reads_nothing_is_told_and_let_go(serve):
    """Megabytes of replies that it never takes; a good speaker beside it is heard."""
    long = {n: [TargetText("a" * 200_000, "a" * 200_000, 1.0)] for n in range(1, 400)}
    server = serve(batch=ScriptedBatch(long), outbox_mb=0.5, idle=1.0)

    async def silent():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(handshake() + HELLO)
        try:
            for _ in range(400):
                writer.write(frame(b"\0\0" * 1600, opcode=2))
                await writer.drain()
                await asyncio.sleep(0.005)
        except ConnectionError:
            pass
        await until(lambda: not server.server._sockets)
        writer.transport.abort()

    asyncio.run(silent())


def test_audio_in_tiny_pieces_waits_within_limits(serve):
    """One sample a message, more of them than may wait in less than a push, and none of them is lost."""
    server = serve(push_ms=2000)
    engine, waiting = server.server.engine, []
    hear = engine.hear
    engine.hear = lambda speaker, samples: (hear(speaker, samples), waiting.append(len(speaker.queue)))

    async def send():
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
            await socket.send_json({"protocol": "events", "sample_rate": 4000})
            for _ in range(9000):
                await socket.send_bytes(b"\0\0")
            await socket.send_json({"end_of_stream": True})
            return await gather_replies(socket)

    replies = asyncio.run(send())
    assert [reply["seconds"] for reply in replies if reply["kind"] == "heard"][-1] == 9000 / 4000
    assert max(waiting) <= MOST_PIECES + 1


def test_memory_returns_after_hundreds_of_broken_clients(serve):
    """200 in a row and 20 at once, in every state; afterwards no object of theirs is left (the fixture looks)."""
    server = serve(kept=8)
    states = [b"", HELLO, HELLO + frame(b"\0\0" * 4000, 2), frame(b"\0"), HELLO + frame(b'{"end_of_stream": true}')]
    states += [
        HELLO + frame(b"\0" * 999, 2),
        frame(b'{"resume": "x"}'),
        frame(b"[" * 5000),
        frame(json.dumps({"a": 1}).encode()),
    ]

    async def one(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake() + states[number % len(states)])
        if number % 2:
            await reader.readline()
        writer.transport.abort()

    async def everybody():
        good = asyncio.create_task(translate(server.ws, SAMPLES))
        for number in range(200):
            await one(number)
        await asyncio.gather(*(one(number) for number in range(20)))
        await until(lambda: not server.server._sockets)
        return await good

    assert texts(asyncio.run(everybody()))[-1] == "one three"


def test_a_good_speaker_of_a_real_model_among_floods(bundle, tmp_path):
    """The words are those of a speaker alone, whatever comes beside."""
    samples = speechlike(2.0, RATE, seed=21)
    with running(bundle, tmp_path, resume=0.2) as server:
        alone = texts(asyncio.run(translate(server.ws, samples)))[-1]

        async def flood():
            async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
                await socket.send_json({"protocol": "events"})
                for _ in range(30):
                    await socket.send_bytes(pcm(speechlike(1.0, RATE, seed=1)))

        async def both():
            return (await asyncio.gather(translate(server.ws, samples), flood(), flood()))[0]

        assert texts(asyncio.run(both()))[-1] == alone
