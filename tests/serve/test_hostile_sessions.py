"""Sessions that break off: they are taken up once, kept within limits, and errors inside stay inside."""

import asyncio
import contextlib

import aiohttp
import numpy as np
import pytest

from echostream_plugin.inference.batch import Reply
from echostream_plugin.serve.protocol import Settings
from echostream_plugin.serve.session import KEPT_BYTES, Session
from echostream_plugin.serve.speaker import Refused
from tests.serve.running import ScriptedBatch, gather_replies, kinds, pcm, texts, translate
from tests.serve.stranger import SAMPLES, SCRIPT, begun, hear, is_well, until


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


def test_what_was_sent_and_not_confirmed_can_be_asked_for_again(serve):
    """The line broke while the last replies were on their way: the server wrote them, and the client has none."""
    server = serve(resume=20.0)

    async def run():
        async with aiohttp.ClientSession() as client:
            old, hello = await begun(client, server)
            await hear(old, 3)
            connection = server.server.sessions[hello["key"]].connection
            await old.send_json({"end_of_stream": True})
            await until(lambda: connection.socket.closed)  # everything was written
            if (transport := old._response.connection.transport) is not None:
                transport.abort()
            new, resumed = await begun(client, server, resume=hello["key"])
            return resumed, await gather_replies(new)

    resumed, replies = asyncio.run(run())
    assert resumed["kind"] == "resumed" and kinds(replies)[-1] == "end" and texts(replies)[-1] == "one three"


def test_a_client_that_got_everything_and_closes_leaves_nothing(serve):
    server = serve(resume=60.0)
    assert is_well(server)
    asyncio.run(until(lambda: not server.server.sessions and not server.server._waiting))


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
