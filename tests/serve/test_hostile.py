"""What a stranger may try: it is answered or closed, leaves nothing behind, and changes nothing for a good speaker."""

import asyncio
import base64
import contextlib
import json
import logging
import os
import struct
import zlib

import aiohttp
import numpy as np
import pytest

from echostream_plugin.inference.batch import Reply
from echostream_plugin.inference.events import TargetText
from echostream_plugin.serve import door as door_module
from echostream_plugin.serve.protocol import Settings
from echostream_plugin.serve.session import KEPT_BYTES, Session
from echostream_plugin.serve.speaker import MOST_PIECES, Refused
from tests.serve.running import ScriptedBatch, gather_replies, kinds, pcm, running, texts, translate
from tests.tiny_bundle import speechlike, tiny_bundle

RATE = 16000
SCRIPT = {1: [TargetText("one", "one", 1.0)], 3: [TargetText("one three", " three", 3.0)]}
SAMPLES = np.zeros(4 * 3200, np.float32)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


@pytest.fixture
def serve(bundle, tmp_path, caplog):
    """serve(...) -> a running server with a scripted model; in the end nothing is left in it, no error was logged."""
    running_now = []

    def start(**options):
        context = running(bundle, tmp_path, **{"batch": ScriptedBatch(SCRIPT), "resume": 0.3, **options})
        running_now.append((context, server := context.__enter__()))
        return server

    with caplog.at_level(logging.WARNING):
        yield start
        for context, server in running_now:
            asyncio.run(until(lambda server=server: not server.server.sessions and not server.server.engine._speakers))
            assert not server.server.engine._batch.sessions and not server.server._waiting
            context.__exit__(None, None, None)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


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


@pytest.mark.parametrize("method", ["HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/ws", "/health", "/metrics", "/info", "/static/app.js", "/nothing"])
def test_other_methods_change_nothing(read_only, method, path):
    async def ask():
        async with aiohttp.ClientSession() as client:
            async with client.request(method, read_only.http + path, data=b"x" * 1000) as response:
                return response.status, await response.text(), response.headers

    status, text, headers = asyncio.run(ask())
    heads = method == "HEAD" and path not in ("/ws", "/nothing")
    assert status == 200 if heads else status in (400, 404, 405), status
    assert "Traceback" not in text and "/echostream_plugin" not in text
    assert headers.get("X-Content-Type-Options") == "nosniff" or method == "BREW"  # that one is no HTTP


@pytest.fixture(scope="module")
def read_only(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret")
    (folder / "samples").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "samples" / "a.wav").write_bytes(b"RIFF")
    (folder / "samples" / "out.json").symlink_to(folder / "config.json")
    with running(bundle, folder, batch=ScriptedBatch()) as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd",
        "/static/....//app.py",
        "/samples/../config.json", "/samples/%2e%2e%2fconfig.json", "/samples/out.json", "/static",
        "/static/", "/samples/",
        "/static/\\..\\app.py", "/static/%00", "/static/app.js%00.html", "//etc/passwd", "/%ff%fe",
        "http://elsewhere.example/static/../app.py", "/static/" + "a" * 5000, "*", "/ws/../../../etc/passwd",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(read_only, path):
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = asyncio.run(raw(read_only, request.encode()))
    status = int(answer.split()[1])
    assert status in (400, 403, 404, 405), answer[:200]
    assert b"import " not in answer and b"root:" not in answer and b"/tmp/" not in answer


@pytest.mark.parametrize(
    "request_of",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nabcde",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 5000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,  # https at a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_broken_requests_are_refused(read_only, request_of, caplog):
    answer = asyncio.run(raw(read_only, request_of + b"\r\n\r\n"))
    assert answer.split(b" ")[1][:1] in (b"4", b"5") and b"Traceback" not in answer and b"site-packages" not in answer
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "origin, welcome",
    [
        ("null", False), ("http://127.0.0.1:1", False), ("http://evil.example", False), ("file://", False), ("", False),
        ("http://[broken", False), ("{host}", False), ("http://{host}.evil.example", False),
        ("http://evil.example/{host}", False), ("http://{host}", True), (None, True),
    ],
)  # fmt: skip
def test_pages_of_other_sites_may_not_connect(read_only, origin, welcome):
    more = "" if origin is None else f"Origin: {origin.format(host='localhost')}\r\n"
    answer = asyncio.run(raw(read_only, handshake(more=more) + frame(b"", 8)))
    assert (b" 101 " in answer[:20]) == welcome and (welcome or b" 403 " in answer[:20])


@pytest.mark.parametrize("token", ["", "secre", "secrets", "SECRET", "\ud800", "secret\0", "s" * 100_000])
def test_only_the_token_opens(serve, token):
    server = serve(token="secret")
    refused = asyncio.run(translate(server.ws, SAMPLES, settings={"token": token}))
    assert "a token is needed" in str(refused)


def test_a_token_that_is_no_text_is_no_token(serve):
    server = serve(token="secret")
    for path, more in (("/ws?token=%ff%fe", ""), ("/ws", "Authorization: Bearer s\xe9\r\n"), ("/ws?token=%00", "")):
        answer = asyncio.run(raw(server, handshake(path, more) + HELLO + frame(b"", 8)))
        assert b"a token is needed" in answer
    answer = asyncio.run(raw(server, handshake("/ws?token=secret") + frame(b'{"resume": "nobody"}') + frame(b"", 8)))
    assert b"no session waits" in answer
    answer = asyncio.run(raw(server, handshake() + frame(b'{"resume": "nobody"}') + frame(b"", 8)))
    assert b"a token is needed" in answer and b"no session" not in answer


@pytest.mark.parametrize("number", [0, 1, 2**31, 10**30, -5, "NaN", "Infinity", "1e999", '{"a": [1]}', "true", "null"])
def test_numbers_that_are_none(serve, number):
    server = serve()
    message = f'{{"protocol": "events", "sample_rate": {number}, "sample_rate": {number}}}'

    async def ask():
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
            await socket.send_str(message)
            return await socket.receive_json(timeout=20)

    answer = asyncio.run(ask())
    assert answer["kind"] == "error" and answer["error"].startswith("sample_rate")


def test_settings_may_be_said_twice_and_not_otherwise(serve):
    server = serve()

    async def ask():
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
            for settings in ({"protocol": "events"}, {"protocol": "events"}, {"protocol": "text"}):
                await socket.send_json(settings)
            await socket.send_json({"end_of_stream": True})
            return await gather_replies(socket, until=("end",))

    replies = asyncio.run(ask())
    assert kinds(replies).count("session") == 1 and kinds(replies).count("error") == 1
    assert "settings come before" in str(replies)


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


def test_a_session_can_be_taken_up_while_the_server_still_believes_in_the_old_connection(serve):
    server = serve(resume=5.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            old, hello = await begun(client, server)
            await hear(old, 2)
            new, resumed = await begun(client, server, resume=hello["key"], received=0)
            assert resumed == {"kind": "resumed", "key": hello["key"], "samples": 6400}
            missed = await gather_replies(new, until=("heard",))
            told = await gather_replies(old, until=("error",))
            await hear(new, 2)
            await new.send_json({"end_of_stream": True})
            return missed, told, await gather_replies(new)

    missed, told, last = asyncio.run(run())
    assert missed[0]["n"] == 1 and "taken up by another connection" in told[-1]["error"] and last[-1]["kind"] == "end"


def test_two_who_take_up_one_session_at_once_are_one_and_a_refusal(serve):
    server = serve(resume=5.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            old, hello = await begun(client, server)
            await hear(old, 1)
            both = await asyncio.gather(*(begun(client, server, resume=hello["key"]) for _ in range(2)))
            kept = [socket for socket, answer in both if answer["kind"] == "resumed"]
            for socket in kept:
                with contextlib.suppress(ConnectionError):  # the second may have taken it from the first
                    await socket.send_json({"end_of_stream": True})
            ends = [await gather_replies(socket) for socket in kept]
            return [answer["kind"] for _, answer in both], [end[-1]["kind"] for end in ends if end]

    answers, ends = asyncio.run(run())
    assert "resumed" in answers and ends.count("end") == 1


@pytest.mark.parametrize("received, why", [(99, "received: 99 is more than the session has said (")])
def test_what_was_never_said_cannot_have_been_received(serve, received, why):
    server = serve(resume=1.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            old, hello = await begun(client, server)
            await hear(old, 1)
            old._response.connection.transport.abort()
            _, answer = await begun(client, server, resume=hello["key"], received=received)
            again, resumed = await begun(client, server, resume=hello["key"])  # and the session is not lost by it
            await again.send_json({"end_of_stream": True})
            await gather_replies(again)
            return answer, resumed

    answer, resumed = asyncio.run(run())
    assert answer["kind"] == "error" and why in answer["error"] and resumed["kind"] == "resumed"


def test_the_end_of_a_session_survives_a_broken_connection(serve):
    """end_of_stream was sent, and the line broke before the answer: the client still gets it."""
    server = serve(resume=5.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            old, hello = await begun(client, server)
            await hear(old, 3)
            await old.send_json({"end_of_stream": True})
            old._response.connection.transport.abort()
            await until(lambda: server.server.sessions[hello["key"]].over)
            new, resumed = await begun(client, server, resume=hello["key"])
            await new.send_json({"end_of_stream": True})  # a client says it again
            return resumed, await gather_replies(new)

    resumed, replies = asyncio.run(run())
    assert resumed["samples"] == 9600 and kinds(replies)[-2:] == ["heard", "end"] and texts(replies)[-1] == "one three"


def test_a_client_that_says_goodbye_leaves_nothing(serve):
    server = serve(resume=60.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            socket, _ = await begun(client, server)
            await hear(socket, 1)
            await socket.close()
        await until(lambda: not server.server.sessions and not server.server.engine._batch.sessions)

    asyncio.run(run())


def test_dropped_sessions_are_few(serve):
    server = serve(kept=3, max_sessions=64, resume=2.0)
    keep, waiting = server.server.keep, []
    server.server.keep = lambda session: (keep(session), waiting.append(len(server.server._waiting)))

    async def run():
        async with aiohttp.ClientSession() as client:
            sockets = [(await begun(client, server))[0] for _ in range(10)]
            for socket in sockets:
                await hear(socket, 1)
                socket._response.connection.transport.abort()
            await until(lambda: len(waiting) == 10)

    asyncio.run(run())
    assert max(waiting) == 3


def test_what_goes_wrong_inside_is_not_told_to_strangers(serve, caplog):
    class Broken(ScriptedBatch):
        def push(self, pieces, rates):
            return {key: Reply(error=RuntimeError("/root/secret/model.safetensors: bad")) for key in pieces}

    server = serve(batch=Broken())
    replies = asyncio.run(translate(server.ws, SAMPLES))
    assert "error of the server" in replies[-1]["error"] and "/root" not in str(replies)
    assert "/root/secret" in caplog.text


def test_an_engine_that_fails_lets_its_speakers_go_and_goes_on(serve, caplog):
    class Failing(ScriptedBatch):
        failed = False

        def push(self, pieces, rates):
            if not self.failed:
                self.failed = True
                raise RuntimeError("once")
            return super().push(pieces, rates)

    server = serve(batch=Failing(SCRIPT))
    assert "error of the server" in str(asyncio.run(translate(server.ws, SAMPLES)))
    assert is_well(server)
    assert "lets its speakers go" in caplog.text
    caplog.clear()


def test_audio_after_the_longest_session_is_ignored_and_the_end_is_said(serve):
    server = serve(session_hours=1e-9)

    async def run():
        async with aiohttp.ClientSession() as client:
            socket, _ = await begun(client, server)
            with contextlib.suppress(ConnectionResetError):  # the server may have closed already
                for _ in range(20):
                    await socket.send_bytes(pcm(np.zeros(3200, np.float32)))
            return await gather_replies(socket, until=("end",))

    replies = asyncio.run(run())
    assert "note" in kinds(replies) and kinds(replies)[-1] == "end" and "error" not in kinds(replies)


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


@pytest.mark.parametrize("protocol, kept", [("events", True), ("text", False)])
def test_what_is_kept_for_a_client_that_comes_back_is_bounded_and_its_loss_is_said(protocol, kept):
    session = Session(None, Settings(protocol=protocol), None, None)
    session.ending = True
    for number in range(300):
        session.writer.number = number + 1
        session.post("x" * 50_000)
        session.outbox.get_nowait()
    assert session._kept_bytes == sum(len(message) for _, message in session._kept) <= KEPT_BYTES
    assert bool(session._kept) == kept
    if kept:
        with pytest.raises(Refused, match="missed more than is kept"):
            session.take_up(received=100)
        session.take_up(received=290)
        assert session.outbox.qsize() == 11  # `resumed` and ten that it missed
