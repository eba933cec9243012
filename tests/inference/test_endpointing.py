"""An end-pointer of one's own: where it may find a sentence's end, and what becomes of what was heard since."""

import numpy as np
import pytest

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.endpointing.quiet import EnergyEndPointer
from echostream_plugin.inference.events import Sentence, SourceText
from echostream_plugin.inference.pushes import push_all
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.translators.incremental import IncrementalTranslator
from tests.tiny_bundle import speechlike, tiny_bundle

LATE = 11  # frames: more than a segment of 8


class LateEndPointer(EnergyEndPointer):
    """Every 40 frames it finds that the sentence ended some frames ago."""

    name = "late"
    late_frames = LATE

    def end(self):
        taken = self.listener.frames
        return taken - LATE if taken % 40 == 0 else None


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setitem(ENDPOINTERS, "late", LateEndPointer)


def run(session, samples, push_samples=5120):
    return push_all(session, samples, 16000, push_samples)


def session(bundle, **changes):
    return TranslationSession(bundle, max_tokens=4, speech=False, pause_ms=400, **changes)


@pytest.mark.parametrize("push_samples", [5120, 16000, 70000])
def test_words_after_an_end_that_is_found_late_are_the_next_sentences(late, push_samples):
    """No token is lost or said twice, and each stands where it lies."""
    bundle, samples = tiny_bundle(), speechlike(6.0, seed=1)
    whole = TranslationSession(bundle, translate=False)
    words = [event for event in run(whole, samples) if isinstance(event, SourceText)][-1]
    sentences = [e for e in run(session(bundle, endpointer="late"), samples, push_samples) if isinstance(e, Sentence)]
    assert "".join(sentence.source_text.replace(" ", "") for sentence in sentences) == words.text.replace(" ", "")
    ends = [40 * (40 * n - LATE) for n in range(1, len(sentences))]
    assert len(sentences) == 4
    for sentence, start, end in zip(sentences, [0, *ends], [*ends, 6040], strict=True):
        assert start <= sentence.start_ms < sentence.end_ms <= end + 40


def test_frames_since_the_end_are_heard_again(late, monkeypatch):
    taken = []
    hear, begin = IncrementalTranslator.hear, IncrementalTranslator.__init__

    def begun(self, *args):
        taken.append([])
        begin(self, *args)

    monkeypatch.setattr(IncrementalTranslator, "__init__", begun)
    monkeypatch.setattr(
        IncrementalTranslator, "hear", lambda self, frames: taken[-1].append(frames[0].numpy()) or hear(self, frames)
    )
    run(session(tiny_bundle(), endpointer="late"), speechlike(3.5, seed=2))
    heard = [np.concatenate(frames) for frames in taken]
    assert [len(frames) for frames in heard] == [40, LATE + 40, LATE + 7]  # of 87
    for before, after in zip(heard, heard[1:], strict=False):
        np.testing.assert_array_equal(before[-LATE:], after[:LATE])


def test_a_snapshot_keeps_them(late, tmp_path):
    bundle, samples = tiny_bundle(), speechlike(4.0, seed=3)
    expected = run(session(bundle, endpointer="late"), samples)
    relay, events = session(bundle, endpointer="late"), []
    for start in range(0, len(samples), 5120):
        snapshot.save(tmp_path / "s", relay.snapshot())
        relay = session(bundle, endpointer="late")
        relay.restore(snapshot.load(tmp_path / "s"))
        events += relay.push(samples[start : start + 5120], 16000)
    assert events + relay.finish() == expected and any(isinstance(event, Sentence) for event in events)
