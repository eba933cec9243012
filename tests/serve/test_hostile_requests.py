"""What a stranger may ask: other methods, paths, origins, tokens and settings are refused."""

import asyncio
import logging

import aiohttp
import pytest

from tests.serve.running import gather_replies, kinds, translate
from tests.serve.stranger import HELLO, SAMPLES, frame, handshake, raw


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
