"""The server says what a session says, whatever other clients do."""

import asyncio
import contextlib
import json
import logging
import time

import aiohttp
import numpy as np
import pytest

from echostream_plugin.inference.events import Speech, TargetText
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.serve.limits import Limits
from tests.serve.running import Running, gather_replies, kinds, pcm, running, texts, translate
from tests.tiny_bundle import speechlike, tiny_bundle

RATE = 16000


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    with running(bundle, tmp_path_factory.mktemp("bundle"), max_sessions=4) as server:
        yield server


def alone(bundle, samples, step=0.2, **options):
    """The events of a session that gets the pieces that `translate` sends, as int16."""
    session, size = TranslationSession(bundle, bundle_options(bundle, **options)), int(step * RATE)
    whole = np.frombuffer(pcm(samples), "<i2").astype(np.int16)
    events = []
    for start in range(0, len(whole), size):
        events += session.push(whole[start : start + size], RATE)
    return events + session.finish()


def units_of(replies):
    speech = [reply for reply in replies if isinstance(reply, dict) and reply.get("kind") == "speech"]
    return [unit for reply in speech for unit in reply["units"]]


def last_text(events):
    return [event.text for event in events if isinstance(event, TargetText)][-1]


def test_the_words_and_the_voice_are_those_of_a_session_alone(server, bundle):
    samples = speechlike(2.4, RATE, seed=3)
    events = alone(bundle, samples)
    replies = asyncio.run(translate(server.ws, samples, settings={"audio_out": True}))
    assert texts(replies)[-1] == last_text(events)
    units = [
        unit
        for reply in replies
        if isinstance(reply, dict) and reply.get("kind") == "speech"
        for unit in reply["units"]
    ]
    assert units == [unit for event in events if isinstance(event, Speech) for unit in event.units]
    voice = np.frombuffer(b"".join(reply for reply in replies if isinstance(reply, bytes)), "<i2") / 32767
    wanted = np.concatenate([event.samples for event in events if isinstance(event, Speech)])
    assert len(voice) == len(wanted) and np.abs(voice - np.clip(wanted, -1, 1)).max() < 1e-3
    numbers = [reply["n"] for reply in replies if isinstance(reply, dict) and "n" in reply]
    assert numbers == list(range(1, len(numbers) + 1)) and kinds(replies)[-1] == "end"


def test_float_audio_and_other_rates_are_taken(server, bundle):
    samples = speechlike(1.5, 44100, seed=4)

    async def run():
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
            await socket.send_json({"protocol": "events", "sample_rate": 44100, "format": "float32"})
            await socket.send_bytes(samples.astype("<f4").tobytes())
            await socket.send_json({"end_of_stream": True})
            return await gather_replies(socket)

    session = TranslationSession(bundle)
    events = session.push(samples, 44100) + session.finish()
    assert texts(asyncio.run(run()))[-1] == last_text(events)


def test_the_text_protocol_of_simulstream_at_either_address(server, bundle):
    samples = speechlike(2.0, RATE, seed=5)
    events = alone(bundle, samples, speech=False)

    async def run(url):
        async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
            await socket.send_str(json.dumps({"sample_rate": RATE, "metrics_metadata": {"wav_name": "a.wav"}}))
            replies = []
            for start in range(0, len(samples), 3200):
                await socket.send_bytes(pcm(samples[start : start + 3200]))
                replies.append(await socket.receive_json(timeout=30))
            await socket.send_str("this is no json, and simulstream ignores it")
            await socket.send_str(json.dumps({"end_of_stream": True}))
            return replies + await gather_replies(socket, until=())

    for url in (server.ws, server.http.replace("http", "ws") + "/"):
        replies = asyncio.run(run(url))
        assert "".join(reply.get("new", "") for reply in replies) == last_text(events)
        assert {"end_of_processing": True} == replies[-1] and "error" in str(replies)


def test_speakers_at_once_get_what_they_would_get_alone(server, bundle):
    speakers = [speechlike(1.0 + 0.4 * seed, RATE, seed=seed) for seed in range(4)]

    async def everybody():
        return await asyncio.gather(*(translate(server.ws, samples) for samples in speakers))

    for samples, replies in zip(speakers, asyncio.run(everybody()), strict=True):
        assert texts(replies)[-1] == last_text(alone(bundle, samples, speech=False))


def test_a_full_server_refuses_with_a_message_and_has_room_again(server):
    async def run():
        async with aiohttp.ClientSession() as client:
            held = [await client.ws_connect(server.ws) for _ in range(4)]
            for socket in held:
                await socket.send_json({"protocol": "events"})
                assert (await socket.receive_json(timeout=30))["kind"] == "session"
            refused = await client.ws_connect(server.ws)
            await refused.send_json({"protocol": "events"})
            answer = await refused.receive_json(timeout=30)
            code = (await refused.receive(timeout=30)).data
            for socket in held:
                await socket.send_json({"end_of_stream": True})
                await gather_replies(socket)
                await socket.close()
            return answer, code

    answer, code = asyncio.run(run())
    assert "full (4 speakers)" in answer["error"] and code == 1013
    assert kinds(asyncio.run(translate(server.ws, speechlike(0.5, RATE))))[-1] == "end"


@pytest.mark.parametrize(
    "messages, why",
    [
        ([b"xyz"], "no whole number of int16"),
        (['{"sample_rate": 1}', b"xy"], "sample_rate 1"),
        (["[" * 50000], "json object"),
        (['{"protocol": "events"}', np.full(8, np.nan, "<f4").tobytes()], None),
        (
            ['{"protocol": "events", "format": "float32"}', np.full(800, np.nan, "<f4").tobytes() * 4],
            "not a finite number",
        ),
        (['{"protocol": "events", "resume": "nobody"}'], "no session waits"),
        (['{"source_lang": 5}'], "source_lang: expected str"),
        (['{"end_of_stream": true}', b"xy"], None),
        ([b"x" * (3 << 20)], None),
        (['{"protocol": "events"}', '{"sample_rate": 8000}', b"xyx"], "settings come before the first audio"),
        ([b"\x00\x00" * 5, '{"format": "float32"}'], "settings come before the first audio"),
    ],
)
def test_broken_clients_are_answered_and_change_nothing_for_the_good_one(server, bundle, messages, why, caplog):
    samples = speechlike(2.0, RATE, seed=9)

    async def broken():
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws, max_msg_size=0) as socket:
            with contextlib.suppress(ConnectionError):  # the server may hang up before it has read all of it
                for message in messages:
                    await (socket.send_bytes if isinstance(message, bytes) else socket.send_str)(message)
            found = []
            for _ in range(4):
                try:
                    message = await socket.receive(timeout=1.5)
                except TimeoutError:
                    break
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                found.append(message.data)
            return " ".join(found)

    async def run():
        return await asyncio.gather(translate(server.ws, samples), broken())

    with caplog.at_level(logging.ERROR):
        replies, answer = asyncio.run(run())
    assert texts(replies)[-1] == last_text(alone(bundle, samples, speech=False))
    assert why is None or why in answer
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_clients_that_vanish_in_every_state_leave_no_session_behind(bundle, tmp_path):
    async def vanish(url, stage):
        async with aiohttp.ClientSession() as client:
            socket = await client.ws_connect(url)
            if stage > 0:
                await socket.send_json({"protocol": ("events", "text")[stage % 2], "audio_out": stage > 4})
            if stage > 1:
                await socket.send_bytes(pcm(speechlike(0.7, RATE, seed=stage)))
            if stage > 3:
                await socket.send_json({"end_of_stream": True})
            if stage % 3:
                await asyncio.sleep(0.05)
            connection = socket._response.connection
            if connection is not None and connection.transport is not None:  # else it was over before
                connection.transport.abort()

    with running(bundle, tmp_path, resume=0.2) as server:
        for stage in range(8):
            asyncio.run(vanish(server.ws, stage))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (server.server.sessions or server.server.engine._speakers):
            time.sleep(0.05)
        assert not server.server.sessions and not server.server.engine._speakers
        assert not server.server.engine._batch.sessions
        assert kinds(asyncio.run(translate(server.ws, speechlike(0.5, RATE))))[-1] == "end"


def test_a_dropped_session_is_resumed_and_nothing_is_lost(server, bundle):
    """The engine pushes at most a second at once, so both halves of 1.5 s are pushed as 1 and 0.5 s."""
    samples, half = speechlike(3.0, RATE, seed=11), 24000
    session, whole = TranslationSession(bundle), np.frombuffer(pcm(samples), "<i2").astype(np.int16)
    events = []
    for piece in np.split(whole, (RATE, half, half + RATE)):
        events += session.push(piece, RATE)
    events += session.finish()

    async def until_heard(socket, seconds):
        replies = []
        while not replies or replies[-1] != {**replies[-1], "kind": "heard", "seconds": seconds}:
            message = await socket.receive(timeout=30)
            if message.type == aiohttp.WSMsgType.TEXT:
                replies.append(json.loads(message.data))
        return replies

    async def run():
        async with aiohttp.ClientSession() as client:
            socket = await client.ws_connect(server.ws)
            await socket.send_json({"protocol": "events", "audio_out": True})
            key = (await socket.receive_json(timeout=30))["key"]
            await socket.send_bytes(pcm(samples[:half]))
            before = await until_heard(socket, 1.5)
            socket._response.connection.transport.abort()
            for _ in range(400):
                await asyncio.sleep(0.02)
                waiting = server.server.sessions.get(key)
                if waiting is not None and waiting.snapshot is not None:
                    break
            kept = before[: len(before) // 2]  # the client had not got the others
            received = kept[-1]["n"] if kept else 0
            again = await client.ws_connect(server.ws)
            await again.send_json({"protocol": "events", "resume": key, "received": received})
            begun = await again.receive_json(timeout=30)
            assert begun == {"kind": "resumed", "key": key, "samples": half}
            await again.send_bytes(pcm(samples[half:]))
            await again.send_json({"end_of_stream": True})
            return kept + await gather_replies(again)

    replies = asyncio.run(run())
    assert texts(replies)[-1] == last_text(events)
    numbers = [reply["n"] for reply in replies if isinstance(reply, dict) and "n" in reply]
    assert numbers == list(range(1, len(numbers) + 1))
    assert units_of(replies) == [unit for event in events if isinstance(event, Speech) for unit in event.units]


def test_a_client_that_is_too_fast_is_told_and_loses_nothing(bundle, tmp_path):
    samples = speechlike(6.0, RATE, seed=12)
    offline = bundle_options(bundle, chunk_ms=0)  # what is decided does not depend on the pushes
    with running(bundle, tmp_path, options=offline, backlog=0.5) as server:
        replies = asyncio.run(translate(server.ws, samples, step=0.5, lockstep=False))
    assert "backlog" in kinds(replies)
    assert texts(replies)[-1] == last_text(alone(bundle, samples, speech=False, chunk_ms=0))


def test_idle_and_token_and_origin(bundle, tmp_path):
    with running(bundle, tmp_path, idle=0.3, token="secret", origins=("https://good.example",)) as server:

        async def idle():
            async with aiohttp.ClientSession() as client, client.ws_connect(server.ws + "?token=secret") as socket:
                await socket.send_json({"protocol": "events"})
                return await gather_replies(socket)

        assert "nothing was heard for 0.3 s" in str(asyncio.run(idle()))
        samples = speechlike(0.3, RATE)
        refused = asyncio.run(translate(server.ws, samples))
        assert "a token is needed" in str(refused) and "end" not in kinds(refused)
        assert "a token is needed" in str(asyncio.run(translate(server.ws, samples, settings={"token": "wrong"})))
        for settings, headers in (({"token": "secret"}, None), (None, {"Authorization": "Bearer secret"})):
            assert kinds(asyncio.run(translate(server.ws, samples, settings=settings, headers=headers)))[-1] == "end"
        good = {"Origin": "https://good.example", "Authorization": "Bearer secret"}
        assert kinds(asyncio.run(translate(server.ws, samples, headers=good)))[-1] == "end"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            asyncio.run(translate(server.ws, samples, headers={"Origin": "https://evil.example"}))


def test_a_shutdown_finishes_what_was_heard(bundle, tmp_path):
    samples = speechlike(2.0, RATE, seed=13)

    async def run(server):
        async with aiohttp.ClientSession() as client, client.ws_connect(server.ws) as socket:
            await socket.send_json({"protocol": "events"})
            await socket.send_bytes(pcm(samples))
            before = await gather_replies(socket, until=("heard",))  # the first second; the rest waits
            stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
            replies = before + await gather_replies(socket)
            await stopping
            return replies

    replies = asyncio.run(run(Running(bundle, tmp_path, limits=Limits(push_ms=80))))
    assert texts(replies)[-1] == last_text(alone(bundle, samples, step=1.0, speech=False))
    assert kinds(replies)[-1] == "end"


def test_pages_health_and_metrics(server):
    async def get(path):
        async with aiohttp.ClientSession() as client, client.get(server.http + path) as response:
            return response.status, await response.text(), response.headers

    status, page, headers = asyncio.run(get("/"))
    assert status == 200 and "Start microphone" in page and "default-src 'self'" in headers["Content-Security-Policy"]
    for path in ("app.js", "audio.js", "connection.js", "style.css", "timeline.js", "transcript.js", "worklets.js"):
        status, text, _ = asyncio.run(get(f"/static/{path}"))
        assert status == 200 and "//cdn" not in text and "https://" not in text
    status, health, _ = asyncio.run(get("/health"))
    assert status == 200 and json.loads(health)["status"] == "ok" and json.loads(health)["room"] == 4
    _, metrics, _ = asyncio.run(get("/metrics"))
    assert "echostream_sessions_opened_total" in metrics and "echostream_lag_seconds_bucket" in metrics
    status, info, _ = asyncio.run(get("/info"))
    assert json.loads(info)["speaks"] is True and json.loads(info)["token"] is False
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/samples/../config.json", "/nothing"):
        assert asyncio.run(get(path))[0] in (403, 404)
