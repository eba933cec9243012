"""Threads on one optimised bundle, each with a session of its own, hear what they hear alone, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.optimize import optimize, prepare
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import speechlike, tiny_bundle

# (segment in ms, push in ms) of each thread
STREAMS = [(320, 320), (160, 40), (640, 100), (320, 40), (160, 320), (640, 320)]
SECONDS = 2.4


@pytest.fixture(scope="module")
def bundle():
    return optimize(tiny_bundle())


def translate(bundle, index: int) -> list:
    """Everything that a session says, as values that can be compared bit by bit."""
    chunk_ms, push_ms = STREAMS[index]
    session = TranslationSession(bundle, SessionOptions(chunk_ms=chunk_ms, max_tokens=6))
    samples, step, events = speechlike(SECONDS, seed=index), push_ms * 16, []
    for start in range(0, len(samples), step):
        events += session.push(samples[start : start + step], 16000)
    events += session.finish()
    return [
        (event.units, event.samples.tobytes(), event.source_ms) if isinstance(event, Speech) else event
        for event in events
    ]


def at_once(work, jobs: list) -> list:
    """work(job) of all jobs, each in a thread, begun together."""
    begin = threading.Barrier(len(jobs))

    def wait_and_work(job):
        begin.wait()
        return work(job)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(wait_and_work, jobs))


def test_threads_with_other_segments_and_pushes_hear_what_they_hear_alone(bundle):
    alone = [translate(bundle, index) for index in range(len(STREAMS))]
    assert len({str(events) for events in alone}) == len(STREAMS)
    for _ in range(3):
        assert at_once(lambda index: translate(bundle, index), range(len(STREAMS))) == alone
    assert [translate(bundle, index) for index in range(len(STREAMS))] == alone, "nothing wrong was left behind"


def test_preparing_beside_running_sessions_changes_none_of_them():
    bundle = optimize(tiny_bundle(seed=1))
    alone = translate(bundle, 2)

    def work(job):
        if job:
            prepare(bundle, SessionOptions(chunk_ms=640), push_ms=40 * job)
            return alone
        return translate(bundle, 2)

    for events in at_once(work, range(3)):
        assert_close(events, alone)


def assert_close(events: list, wanted: list):
    """A step that is recorded in between may round otherwise."""
    assert len(events) == len(wanted)
    for one, other in zip(events, wanted, strict=True):
        if isinstance(one, tuple):
            assert one[0] == other[0] and one[2] == other[2]
            samples = (np.frombuffer(each[1], dtype=np.float32) for each in (one, other))
            np.testing.assert_allclose(*samples, atol=1e-4)
        else:
            assert one == other
