"""What a session says can be read as it comes; whoever reads no further loses nothing."""

import threading

import numpy as np
import pytest

from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Speech, TargetText
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.translators import incremental
from echostream_plugin.inference.work import Call
from tests.tiny_bundle import speechlike, tiny_bundle

CHUNK = 5120  # 320 ms
OPTIONS = SessionOptions(max_tokens=40, pause_ms=400, longest_sentence_ms=1500)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


@pytest.fixture(scope="module")
def samples():
    return speechlike(4.0, seed=4)


def pieces(samples, size=CHUNK):
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def plain(events):
    """As values that can be compared bit by bit."""
    return [
        (event.units, event.samples.tobytes(), event.source_ms) if isinstance(event, Speech) else event
        for event in events
    ]


def at_once(bundle, samples, options=OPTIONS):
    session = TranslationSession(bundle, options)
    return plain([*(event for piece in pieces(samples) for event in session.push(piece, 16000)), *session.finish()])


def pushes_with(session, samples, kind):
    """Push until the next events hold one of that kind; returns what was said before and the reader of the rest."""
    said = []
    for number, piece in enumerate(pieces(samples)):
        reader = session.push_events(piece, 16000)
        for event in reader:
            said.append(event)
            if isinstance(event, kind):
                return said, reader, pieces(samples)[number + 1 :]
    raise AssertionError("nothing of that kind was said")


def test_the_same_events_in_the_same_order_as_at_once(bundle, samples):
    session, said = TranslationSession(bundle, OPTIONS), []
    for piece in pieces(samples):
        said += session.push_events(piece, 16000)
    said += session.finish_events()
    assert plain(said) == at_once(bundle, samples)
    assert {type(event) for event in said} >= {TargetText, Speech, Finished} and list(session.finish_events()) == []


def test_text_is_there_before_it_is_spoken(bundle, samples, monkeypatch):
    ran, run = [], Call.run
    monkeypatch.setattr(Call, "run", lambda call: ran.append(call.function.__self__) or run(call))
    session = TranslationSession(bundle, OPTIONS)
    reader = pushes_with(session, samples, TargetText)[1]
    assert bundle.model.decoder not in ran and not session.work.over
    assert isinstance(next(event for event in reader if not isinstance(event, TargetText)), Speech)
    assert ran.count(bundle.model.decoder) > 0


@pytest.mark.parametrize("kind", [TargetText, Speech])
@pytest.mark.parametrize("close", [False, True])
def test_what_was_not_read_comes_first_of_the_next_call(bundle, samples, kind, close):
    session = TranslationSession(bundle, OPTIONS)
    said, reader, left = pushes_with(session, samples, kind)
    if close:
        reader.close()
    for piece in left:
        said += session.push(piece, 16000)
    said += session.finish()
    assert list(reader) == [] and plain(said) == at_once(bundle, samples)


def test_events_that_nobody_reads_wait(bundle, samples):
    session = TranslationSession(bundle, OPTIONS)
    for piece in pieces(samples):
        session.push_events(piece, 16000)
    with pytest.raises(SessionError, match="not all read: read them before snapshot"):
        session.snapshot()
    session.finish_events()
    assert not session.finished  # it was not worked off
    assert plain(session.finish()) == at_once(bundle, samples) and session.finished
    session.snapshot()


def test_an_error_comes_with_the_call_and_changes_nothing(bundle, samples):
    session = TranslationSession(bundle, OPTIONS)
    said, _, left = pushes_with(session, samples, TargetText)
    with pytest.raises(InputError, match="not a finite number"):
        session.push_events(np.full(9, np.nan), 16000)
    with pytest.raises(InputError, match="sample rate 8000"):
        session.push_events(samples, 8000)
    for piece in left:
        said += session.push(piece, 16000)
    assert plain(said + session.finish()) == at_once(bundle, samples)
    with pytest.raises(SessionError, match="finished"):
        session.push_events(samples, 16000)


def test_a_reset_forgets_what_was_not_read(bundle, samples):
    session = TranslationSession(bundle, OPTIONS)
    reader = pushes_with(session, samples, TargetText)[1]
    session.reset()
    assert list(reader) == []
    said = [*(event for piece in pieces(samples) for event in session.push(piece, 16000)), *session.finish()]
    assert plain(said) == at_once(bundle, samples)


def test_ctrl_c_in_a_part_of_the_model_loses_nothing(bundle, samples, monkeypatch):
    run, left = Call.run, [30]

    def interrupted(call):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return run(call)

    wanted = at_once(bundle, samples)
    session, said, interruptions = TranslationSession(bundle, OPTIONS), [], 0
    monkeypatch.setattr(Call, "run", interrupted)
    for piece in pieces(samples):
        try:
            for event in session.push_events(piece, 16000):
                said.append(event)
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions == 1 and plain([*said, *session.finish()]) == wanted


def test_an_error_of_a_part_of_the_model_ends_the_push_and_not_the_session(bundle, samples, monkeypatch):
    session, run = TranslationSession(bundle, OPTIONS), Call.run
    monkeypatch.setattr(Call, "run", lambda call: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.push(samples[:CHUNK], 16000)
    monkeypatch.setattr(Call, "run", run)
    assert session.work.over and isinstance(session.finish()[-1], Finished)


def test_readers_may_be_other_threads(bundle):
    utterances = {index: speechlike(2.0, seed=20 + index) for index in range(4)}
    said = {index: [] for index in utterances}
    begin = threading.Barrier(len(utterances))

    def read(index):
        session = TranslationSession(bundle, OPTIONS)
        begin.wait()
        for piece in pieces(utterances[index]):
            reader = session.push_events(piece, 16000)
            other = threading.Thread(target=lambda reader=reader: said[index].extend(reader))
            other.start()
            other.join()
        said[index] += session.finish()

    threads = [threading.Thread(target=read, args=(index,)) for index in utterances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, samples in utterances.items():
        assert plain(said[index]) == at_once(bundle, samples)


def joined(events):
    speech = [event for event in events if isinstance(event, Speech)]
    texts = [event.text for event in events if isinstance(event, TargetText)]
    return texts[-1], [u for event in speech for u in event.units], np.concatenate([e.samples for e in speech])


def test_a_long_write_comes_in_pieces_and_is_the_same(bundle, monkeypatch):
    options, samples = SessionOptions(max_tokens=40, lagging_k1=1000), speechlike(2.0, seed=7)
    session = TranslationSession(bundle, options)
    said = session.push(samples, 16000) + session.finish()
    monkeypatch.setattr(incremental, "PIECE_TOKENS", 10_000)
    whole = session.reset() or session.push(samples, 16000) + session.finish()
    counts = [sum(isinstance(event, Speech) for event in events) for events in (whole, said)]
    assert counts[0] <= 2 and counts[1] > 8
    for event in said:  # words are complete but at the end
        if isinstance(event, TargetText) and event.text != session.target_text:
            assert session.target_text[len(event.text)] == " "
    (text, units, wave), (text_whole, units_whole, wave_whole) = joined(said), joined(whole)
    assert text == text_whole and units == units_whole
    np.testing.assert_allclose(wave, wave_whole, atol=1e-5)


def batch_of(bundle, keys, **options):
    batch = BatchedSession(bundle, OPTIONS, **options)
    for key in keys:
        batch.join(key)
    return batch


def test_replies_of_a_batch_come_as_they_are_there(bundle):
    utterances = {key: speechlike(2.0, seed=60 + key) for key in range(3)}
    wanted = batch_of(bundle, utterances)
    batch, early = batch_of(bundle, utterances), 0
    for start in range(0, 32000, CHUNK):
        parts = {key: samples[start : start + CHUNK] for key, samples in utterances.items()}
        said, over = {key: [] for key in parts}, []
        for key, reply in batch.push_replies(parts, 16000):
            assert reply.error is None and key not in over
            said[key] += reply.events
            early += bool(reply.events) and not reply.over
            over += [key] * reply.over
        assert sorted(over) == sorted(parts)
        at_once = wanted.push(parts, 16000)
        assert {key: plain(events) for key, events in said.items()} == {k: plain(r.events) for k, r in at_once.items()}
    assert early > 5


def test_a_batch_left_half_way_goes_on_where_it_was(bundle):
    utterances = {key: speechlike(2.0, seed=60 + key) for key in range(3)}
    batch, said = batch_of(bundle, utterances), {key: [] for key in utterances}
    for start in range(0, 32000, CHUNK):
        for key, reply in batch.push_replies({k: s[start : start + CHUNK] for k, s in utterances.items()}, 16000):
            said[key] += reply.events
            if reply.events:
                break
    for key, reply in batch.finish().items():
        events = said[key] + reply.events
        alone = TranslationSession(bundle, OPTIONS)
        wanted = [event for piece in pieces(utterances[key]) for event in alone.push(piece, 16000)] + alone.finish()
        assert [type(event) for event in events] == [type(event) for event in wanted]
        assert joined(events)[:2] == joined(wanted)[:2]


def test_what_is_told_is_not_replied(bundle):
    samples, told = speechlike(2.0, seed=61), []
    batch = batch_of(bundle, ["a"], told=lambda key, events: told.extend(events))
    replied = [event for piece in pieces(samples) for event in batch.push({"a": piece}, 16000)["a"].events]
    replied += batch.finish()["a"].events
    assert any(isinstance(event, TargetText) for event in told) and isinstance(replied[-1], Finished)
    whole = at_once(bundle, samples)
    assert sorted(map(str, plain(told) + plain(replied))) == sorted(map(str, whole))
