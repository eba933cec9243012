"""Sessions in a batch: the same results as alone, whoever joins, leaves or sends rubbish."""

import dataclasses
import functools
import gc
import weakref

import numpy as np
import pytest

from echostream_plugin.inference import batch as batching
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, SourceText, Speech, TargetText
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import speechlike, tiny_bundle

CHUNK = 5120  # 320 ms
OPTIONS = SessionOptions(max_tokens=8)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def alone(bundle, samples, push_samples=CHUNK, rate=16000):
    session, events = TranslationSession(bundle, OPTIONS), []
    for start in range(0, len(samples), push_samples):
        events += session.push(samples[start : start + push_samples], rate)
    return events + session.finish()


def assert_same(one, other):
    assert [type(event) for event in one] == [type(event) for event in other]
    for a, b in zip(one, other, strict=True):
        assert a.source_ms == b.source_ms
        if isinstance(a, SourceText | TargetText):
            assert a == b
        if isinstance(a, Speech):
            assert a.units == b.units
            np.testing.assert_allclose(a.samples, b.samples, atol=1e-4)


def events_of(replies):
    assert all(reply.error is None for reply in replies.values())
    return {key: reply.events for key, reply in replies.items()}


def test_sessions_that_join_and_leave_say_what_they_say_alone(bundle):
    utterances = {i: speechlike(1.2 + 0.32 * i, seed=40 + i) for i in range(5)}
    joins = {0: 0, 1: 0, 2: 1, 3: 3, 4: 3}  # the round in which a session joins
    batch, said, position = BatchedSession(bundle, OPTIONS), {i: [] for i in utterances}, dict.fromkeys(utterances, 0)
    for turn in range(12):
        for key in (key for key, start in joins.items() if start == turn):
            batch.join(key)
        pieces = {key: utterances[key][position[key] : position[key] + CHUNK] for key in batch.sessions}
        for key, events in events_of(batch.push(pieces, 16000)).items():
            said[key] += events
            position[key] += CHUNK
        over = [key for key in batch.sessions if position[key] >= len(utterances[key])]
        for key, events in events_of(batch.finish(over)).items():
            said[key] += events
            batch.leave(key)
    assert not batch.sessions
    for key, samples in utterances.items():
        assert_same(said[key], alone(bundle, samples))
    assert any(isinstance(event, Speech) for event in said[0])
    assert batch.batches < 0.7 * batch.calls


def test_pieces_of_different_sizes_and_rates(bundle):
    cases = {"a": (3001, 16000), "b": (CHUNK, 16000), "c": (14000, 48000), "d": (700, 8000)}
    utterances = {key: speechlike(1.0, rate, seed=3) for key, (_, rate) in cases.items()}
    batch, said = BatchedSession(bundle, OPTIONS), {key: [] for key in cases}
    for key in cases:
        batch.join(key)
    for turn in range(12):
        pieces = {key: utterances[key][turn * size : (turn + 1) * size] for key, (size, _) in cases.items()}
        pieces = {key: piece for key, piece in pieces.items() if len(piece)}
        replies = batch.push(pieces, {key: rate for key, (_, rate) in cases.items()})
        for key, events in events_of(replies).items():
            said[key] += events
    for key, events in events_of(batch.finish()).items():
        assert_same(said[key] + events, alone(bundle, utterances[key], *cases[key]))


def test_what_one_sends_harms_no_other(bundle):
    samples = speechlike(1.6, seed=5)
    batch, said = BatchedSession(bundle, OPTIONS), []
    for key in ("good", "bad", "done"):
        batch.join(key)
    batch.finish(["done"])
    rubbish = [np.full(9, np.nan), "noise", np.zeros((2, 500)), np.full(4, 1e20), np.zeros(CHUNK)]
    for turn, junk in enumerate(rubbish):
        pieces = {"bad": junk, "good": samples[turn * CHUNK : (turn + 1) * CHUNK], "done": samples[:CHUNK]}
        replies = batch.push(pieces, {"good": 16000, "done": 16000, "bad": 16000 if turn < 4 else 0})
        assert isinstance(replies["bad"].error, InputError) and isinstance(replies["done"].error, SessionError)
        said += replies["good"].events
    said += batch.finish(["good"])["good"].events
    assert_same(said, alone(bundle, samples))
    fresh = speechlike(0.9, seed=6)  # the refused pieces changed nothing
    events = batch.push({"bad": fresh}, 16000)["bad"].events + batch.finish(["bad"])["bad"].events
    assert_same(events, alone(bundle, fresh, len(fresh)))


def test_a_failing_call_fails_its_own_session_only(bundle, monkeypatch):
    samples = speechlike(0.64, seed=8)
    limit = float(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std).max()) + 0.5
    step = type(bundle.model.encoder).step

    def fragile(self, features, state):
        if features.max() > limit:
            raise RuntimeError("out of memory")
        return step(self, features, state)

    monkeypatch.setattr(type(bundle.model.encoder), "step", fragile)
    batch = BatchedSession(bundle, OPTIONS)
    batch.join("good")
    batch.join("bad")
    replies = batch.push({"good": samples, "bad": samples * 50}, 16000)
    assert "out of memory" in str(replies["bad"].error)
    events = replies["good"].events + batch.finish(["good"])["good"].events
    assert_same(events, alone(bundle, samples, len(samples)))


def failing(session, where, error, turns=1):
    """From the turn on that is given, a part of this session raises."""
    *owners, name = where.split(".")
    owner = functools.reduce(getattr, owners, session)
    part = getattr(owner, name)
    calls = []

    def fail(*args):
        calls.append(where)
        if len(calls) > turns:
            raise error
        return part(*args)

    setattr(owner, name, fail)


@pytest.mark.parametrize("where", ["_accept_rate", "_stream._take_in", "_stream._decide", "_stream.endpointer.end"])
@pytest.mark.parametrize("error", [MemoryError("no room"), KeyError("a bug")])
def test_whatever_one_session_raises_ends_it_and_no_other(bundle, where, error):
    utterances = {key: speechlike(1.6, seed=30 + key) for key in range(3)}
    batch, said, errors = BatchedSession(bundle, OPTIONS), {key: [] for key in utterances}, []
    for key in utterances:
        batch.join(key)
    failing(batch.sessions[1], where, error)
    for start in range(0, len(utterances[0]), CHUNK):
        replies = batch.push({key: samples[start : start + CHUNK] for key, samples in utterances.items()}, 16000)
        errors.append(replies[1].error)
        for key in (0, 2):
            assert replies[key].error is None
            said[key] += replies[key].events
    first = next(index for index, found in enumerate(errors) if found)
    assert errors[first] is error
    for found in errors[first + 1 :] + [batch.finish([1])[1].error]:
        assert isinstance(found, SessionError) and "ended by" in str(found) and "leave(1)" in str(found)
    for key in (0, 2):
        assert_same(said[key] + batch.finish([key])[key].events, alone(bundle, utterances[key]))
    batch.leave(1)
    batch.join(1)
    assert batch.push({1: utterances[0][:CHUNK]}, 16000)[1].error is None


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("odd")])
def test_a_batch_that_fails_is_asked_one_by_one(bundle, monkeypatch, error):
    utterances = {key: speechlike(0.96, seed=50 + key) for key in range(3)}
    run, culprit = batching.run_together, []

    def fragile(calls):
        if any(call.state is culprit[0].sessions[1]._stream.listener._state for call in calls):
            raise error
        return run(calls)

    monkeypatch.setattr(batching, "run_together", fragile)
    batch, said = BatchedSession(bundle, OPTIONS), {key: [] for key in utterances}
    culprit.append(batch)
    for key in utterances:
        batch.join(key)
    for start in range(0, len(utterances[0]), CHUNK):
        replies = batch.push({key: samples[start : start + CHUNK] for key, samples in utterances.items()}, 16000)
        for key, events in events_of(replies).items():
            said[key] += events
    for key, events in events_of(batch.finish()).items():
        assert_same(said[key] + events, alone(bundle, utterances[key]))


def test_sessions_take_the_options_of_the_bundle(bundle):
    suited = dataclasses.replace(bundle, session={"lagging_k1": 2})
    batch = BatchedSession(suited)
    assert batch.join("a").options == SessionOptions(lagging_k1=2)
    assert batch.join("b", OPTIONS).options == OPTIONS


def test_keys_are_checked(bundle):
    batch = BatchedSession(bundle, OPTIONS)
    batch.join("a")
    with pytest.raises(SessionError, match="already"):
        batch.join("a")
    for call in (lambda: batch.push({"b": []}, 16000), lambda: batch.finish(["b"]), lambda: batch.leave("b")):
        with pytest.raises(SessionError, match="no session 'b'"):
            call()
    assert batch.finish() and batch.finish()["a"].events == [] and batch.push({}, 16000) == {}


def test_fifty_sessions_come_and_go_and_leave_no_memory(bundle):
    batch, samples = BatchedSession(bundle, SessionOptions(max_tokens=2, speech=False)), speechlike(0.64, seed=9)
    for key in range(50):
        batch.join(key)
    for start in (0, CHUNK):
        replies = batch.push({key: samples[start : start + CHUNK] for key in range(50)}, 16000)
    assert len({tuple(reply.events) for reply in replies.values()}) == 1
    state = batch.sessions[0]._stream.listener._state
    assert state.emformer.left_context.untyped_storage().nbytes() == state.emformer.left_context.nbytes
    assert all(isinstance(reply.events[-1], Finished) for reply in batch.finish().values())
    left = [weakref.ref(batch.leave(key)) for key in range(50)]
    gc.collect()
    assert not any(reference() for reference in left)
