"""Servers with a scripted model, in which nothing may be left."""

import asyncio
import logging

import pytest

from tests.serve.running import ScriptedBatch, running
from tests.serve.stranger import SCRIPT, until
from tests.tiny_bundle import tiny_bundle


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


@pytest.fixture(scope="module")
def read_only(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret")
    (folder / "samples").mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "samples" / "a.wav").write_bytes(b"RIFF")
    (folder / "samples" / "out.json").symlink_to(folder / "config.json")
    with running(bundle, folder, batch=ScriptedBatch()) as server:
        yield server
