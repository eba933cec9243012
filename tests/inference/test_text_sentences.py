"""Sentences that end where their text does: nothing is lost, translated or spoken twice, or taken back."""

import dataclasses

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.endpointing import EndPointer
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, Speech, TargetText
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.pauses import PauseDetector
from echostream_plugin.inference.punctuator import BundlePunctuator
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.snapshot import load, save, take
from echostream_plugin.inference.text_sentences import TextSentences
from echostream_plugin.inference.translators import TRANSLATORS
from tests.punctuation.fixed import fixed_punctuator
from tests.speech import APPOINTMENT, SQUARE, recording
from tests.tiny_bundle import speechlike, tiny_bundle

CHUNK = 5120  # 320 ms
ENDS = dict.fromkeys(["s8", "s9", "s5x4", "s2x4", "s9x4"], ".")
MARKS = {**ENDS, "s5": "?", "s2": ",", "t5": ",", "t7": "?"}
LONG = {"pause_ms": 400, "longest_sentence_ms": 20000, "max_tokens": 4, "punctuation_delay": 1}
TEXT = SessionOptions(**LONG, endpointer="text", punctuate=True, speech=False)
SPOKEN = dataclasses.replace(TEXT, speech=True)


@pytest.fixture(scope="module")
def bundle():
    made = tiny_bundle()
    made.punctuator = BundlePunctuator(fixed_punctuator(MARKS), {"source": "es", "target": "en"})
    made.punctuator_folder = "punctuator"
    return made


def run(session, samples, sizes=(CHUNK,)):
    events, start, turn = [], 0, 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        events += session.push(samples[start : start + size], 16000)
        start, turn = start + size, turn + 1
    return events + session.finish()


def recorded():
    """Two recordings of speech with 0.3 s of silence before the second, which a detector of speech tells from noise."""
    first, second = recording(SQUARE), recording(APPOINTMENT)
    return np.concatenate([first, np.zeros(4800, np.float32), second])


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def bare(text):
    """The words of a text without marks and case."""
    return [word.strip(",.?").lower() for word in text.split()]


def plain(event, timed=True):
    """An event as values that compare, samples to the last bit."""
    if isinstance(event, Speech):
        return (event.units, event.samples.tobytes(), event.source_ms if timed else 0)
    return event if timed else dataclasses.replace(event, source_ms=0)


@pytest.mark.parametrize("endpointer", ["text", "text+energy"])
@pytest.mark.parametrize("delay", [0, 1, 3])
def test_sentences_end_at_their_marks_and_no_word_is_lost(bundle, endpointer, delay):
    """While the encoder goes on, the words of all sentences are those of the stream as one utterance."""
    samples = speechlike(14.0)
    whole = run(TranslationSession(bundle, SessionOptions(max_tokens=4, speech=False)), samples)
    options = dataclasses.replace(TEXT, endpointer=endpointer, punctuation_delay=delay, long_pause_ms=20000)
    events = run(TranslationSession(bundle, options), samples)
    sentences = of(Sentence, events)
    assert len(sentences) > 4 and [sentence.index for sentence in sentences] == list(range(len(sentences)))
    assert [word for sentence in sentences for word in bare(sentence.source_text)] == bare(
        of(SourceText, whole)[-1].text
    )
    for sentence in sentences:
        marks = [word[-1] for word in sentence.source_text.split() if word[-1] in ".?"]
        assert len(marks) == 1 and sentence.source_text[-1] in ".?" and sentence.source_text[0].isupper()
    assert all(MARKS.get(bare(one.source_text)[-1]) in (".", "?") for one in sentences[:-1] if endpointer == "text")
    ends = [(one.start_ms, one.end_ms) for one in sentences]
    assert all(0 <= start < end for start, end in ends) and ends == sorted(ends)
    assert all(one[1] <= other[0] for one, other in zip(ends, ends[1:], strict=False))


@pytest.mark.parametrize("changes", [{}, {"fresh_encoder": True}, {"vad": True}, {"decoding": "recompute"}])
def test_texts_only_grow_and_no_frame_is_translated_twice(bundle, changes, monkeypatch):
    translator = TRANSLATORS[changes.get("decoding", "incremental")]
    heard, honest = [], translator.hear

    def hear(self, frames):
        heard.append(frames)
        honest(self, frames)

    monkeypatch.setattr(translator, "hear", hear)
    options = dataclasses.replace(TEXT, endpointer="text+energy", **changes)
    session = TranslationSession(bundle, options)
    events = run(session, recorded() if "vad" in changes else speechlike(11.0))
    texts, sentences = {SourceText: "", TargetText: ""}, of(Sentence, events)
    for event in events:
        if isinstance(event, SourceText | TargetText):
            assert event.text == texts[type(event)] + event.added and event.added
            texts[type(event)] = event.text
        if isinstance(event, Sentence):
            assert texts == {SourceText: event.source_text, TargetText: event.target_text}
            texts = {SourceText: "", TargetText: ""}
    assert len(sentences) > 2 and not any(texts.values())
    total = sum(frames.size(1) for frames in heard)
    assert total <= session._stream.listener.frames and (total == session._stream.listener.frames or "vad" in changes)
    if not changes:  # what was heard is the stream, in its order
        alone = [c for c in torch.cat(heard, dim=1).unbind(1)]
        assert all(not torch.equal(a, b) for a, b in zip(alone, alone[1:], strict=False))


def test_the_sentence_after_an_end_is_that_of_a_stream_that_begins_there(bundle):
    """With a fresh encoder: the second sentence and its speech, from the features after the first one alone."""
    options = dataclasses.replace(SPOKEN, fresh_encoder=True, endpointer="text+energy")
    features = features_of_stream(bundle, speechlike(11.0))
    first, ends = TextSentences(bundle, options), []
    honest = first._begin_sentence
    first._begin_sentence = lambda frame=None: (ends.append(frame), honest(frame))
    said = feed(first, features)
    begin = ends[0]
    again = feed(TextSentences(bundle, options), features[4 * begin :])
    place = next(i for i, event in enumerate(said) if isinstance(event, Sentence)) + 1
    rest = said[place:]
    assert begin > 0 and len(of(Sentence, rest)) > 2
    assert [bare(e.source_text) for e in of(Sentence, rest)] == [bare(e.source_text) for e in of(Sentence, again)]
    assert [e.target_text for e in of(Sentence, rest)] == [e.target_text for e in of(Sentence, again)]
    assert [e.units for e in of(Speech, rest)] == [e.units for e in of(Speech, again)]


def features_of_stream(bundle, samples):
    """[t, bins], normalised."""
    from echostream_plugin.inference.features import Frontend

    frontend = Frontend(16000, bundle.cmvn_mean, bundle.cmvn_std, bundle.config.encoder.features, None)
    return np.concatenate([frontend.push(samples), frontend.finish()])


@torch.inference_mode()
def feed(stream, features):
    from echostream_plugin.inference.work import alone

    events = []
    for start in range(0, len(features), 32):
        alone(stream.hear(features[start : start + 32], events))
        alone(stream.decide_provisionally(events))
    alone(stream.finish(events))
    return events


@pytest.mark.parametrize("changes", [{}, {"fresh_encoder": True, "vad": True}, {"endpointer": "text"}])
def test_what_is_said_does_not_depend_on_the_cutting(bundle, changes):
    samples = recorded() if "vad" in changes else speechlike(5.0, seed=5) * (np.arange(80000) % 24000 < 19000)
    options = dataclasses.replace(SPOKEN, **{"endpointer": "text+energy", "revise": True, **changes})
    wanted = [plain(event, timed=False) for event in run(TranslationSession(bundle, options), samples)]
    for sizes in [(160,), (16000, 37, 801), (len(samples),)]:
        found = [plain(event, timed=False) for event in run(TranslationSession(bundle, options), samples, sizes)]
        assert without_speech(found) == without_speech(wanted) and units(found) == units(wanted)
    assert len(of(Sentence, wanted)) > 1


def without_speech(events):
    return [event for event in events if isinstance(event, Sentence | Revision)]


def units(events):
    return [unit for event in events if isinstance(event, tuple) for unit in event[0]]


@pytest.mark.parametrize("endpointer", ["energy", "text", "text+energy"])
def test_what_was_said_before_the_first_speech_is_ended_too(bundle, endpointer, monkeypatch):
    """Where a sentence ends before the frame at which the detector first heard speech, and heads found tokens."""
    monkeypatch.setattr(EndPointer, "spoken_so_far", property(lambda self: False))
    options = dataclasses.replace(TEXT, endpointer=endpointer, longest_sentence_ms=1600, fresh_encoder=True)
    texts = {SourceText: "", TargetText: ""}
    for event in run(TranslationSession(bundle, options), speechlike(8.0)):
        if isinstance(event, SourceText | TargetText):
            assert event.text == texts[type(event)] + event.added
            texts[type(event)] = event.text
        if isinstance(event, Sentence):
            assert texts == {SourceText: event.source_text, TargetText: event.target_text}
            texts = dict.fromkeys(texts, "")
    assert not any(texts.values())


def test_where_nobody_speaks_the_end_of_a_sentence_says_nothing(bundle, monkeypatch):
    for name in ("spoken", "spoken_so_far", "speaking"):
        monkeypatch.setattr(EndPointer, name, property(lambda self: False))
    options = dataclasses.replace(TEXT, longest_sentence_ms=1600)
    assert [type(event) for event in run(TranslationSession(bundle, options), speechlike(5.0))] == [Finished]


def test_a_short_pause_ends_a_sentence_only_where_its_text_can_end(bundle):
    """Silence from 2 to 2.75 s ends it after a word that can be the last one; else only the silence of 2.5 s does."""
    speech = speechlike(2.0, seed=5)
    samples = np.concatenate([speech, np.zeros(12000, np.float32), speech, np.zeros(40000, np.float32), speech])
    options = dataclasses.replace(TEXT, endpointer="text+energy", punctuation_delay=9, long_pause_ms=1500)
    first = {}
    for marks in ("", "."):
        made = dataclasses.replace(bundle)
        made.punctuator = BundlePunctuator(fixed_punctuator({"s5x4x1": marks}), {"source": "es", "target": "en"})
        first[marks] = of(Sentence, run(TranslationSession(made, options), samples))[0]
    assert first["."].source_text.endswith(" s5x4x1.") and 2400 <= first["."].source_ms <= 3200
    assert first[""].source_ms >= 4750 + 1500


def test_the_sentence_ends_where_its_last_word_ended(bundle):
    options = dataclasses.replace(TEXT, punctuation_delay=3)
    events = run(TranslationSession(bundle, options), speechlike(12.0))
    times = []
    for event in events:
        if isinstance(event, SourceText):
            times = event.times_ms
            assert len(times) == len(event.text.split())
        if isinstance(event, Sentence) and times:
            assert times[-1][1] <= event.end_ms + 1 and event.end_ms < event.source_ms
            times = []


@pytest.mark.parametrize("changes", [{}, {"fresh_encoder": True, "vad": True}, {"decoding": "recompute"}])
def test_revisions_change_nothing_that_was_said(bundle, changes):
    samples = recorded() if "vad" in changes else speechlike(5.0, seed=6)
    options = dataclasses.replace(SPOKEN, **changes)
    without = run(TranslationSession(bundle, options), samples)
    events = run(TranslationSession(bundle, dataclasses.replace(options, revise=True, resynthesize=True)), samples)
    revisions = of(Revision, events)
    assert [plain(e) for e in events if not isinstance(e, Revision)] == [plain(e) for e in without]
    for sentence, revision in zip(of(Sentence, events), revisions, strict=True):
        assert events.index(revision) == events.index(sentence) + 1
        assert (sentence.index, sentence.start_ms, sentence.end_ms) == (
            revision.index,
            revision.start_ms,
            revision.end_ms,
        )
        assert revision.source_text[-1] in ".?" and len(revision.samples) and revision.sample_rate == 16000
    assert len(revisions) > 1
    if not changes:
        live = [one.target_text for one in of(Sentence, events)]
        assert live != [one.target_text for one in revisions]


def test_a_revision_is_the_offline_translation_of_its_sentence(bundle):
    """Of a recording of one sentence: what a session that hears it whole transcribes."""
    samples = speechlike(3.0, seed=9)
    whole = run(TranslationSession(bundle, SessionOptions(chunk_ms=0, max_tokens=4, speech=False)), samples)
    (revision,) = of(
        Revision, run(TranslationSession(bundle, SessionOptions(max_tokens=4, revise=True, speech=False)), samples)
    )
    assert bare(revision.source_text) == bare(of(SourceText, whole)[-1].text) and revision.index == 0


@pytest.mark.parametrize("changes", [{"fresh_encoder": True, "vad": True}, {}, {"endpointer": "energy"}])
def test_a_snapshot_goes_on_with_the_same_events(bundle, changes, tmp_path):
    options = dataclasses.replace(SPOKEN, **{"endpointer": "text+energy", "revise": True, **changes})
    samples = recorded() if "vad" in changes else speechlike(4.0, seed=2) * (np.arange(64000) % 24000 < 19000)
    session, events = TranslationSession(bundle, options), []
    for start in range(0, len(samples), CHUNK):
        save(tmp_path / "s", session.snapshot())
        session = TranslationSession(bundle, options)
        session.restore(load(tmp_path / "s"))
        events += session.push(samples[start : start + CHUNK], 16000)
    events += session.finish()
    assert [plain(e) for e in events] == [plain(e) for e in run(TranslationSession(bundle, options), samples)]
    assert len(of(Revision, events)) > ("endpointer" not in changes)


def test_in_a_batch_as_alone(bundle):
    options = dataclasses.replace(SPOKEN, fresh_encoder=True, endpointer="text+energy", revise=True)
    streams = {key: speechlike(5.0, seed=20 + key) for key in range(3)}
    batch, said = BatchedSession(bundle, options), {key: [] for key in streams}
    for key in streams:
        batch.join(key)
    for start in range(0, 80000, CHUNK):
        for key, reply in batch.push({key: x[start : start + CHUNK] for key, x in streams.items()}, 16000).items():
            said[key] += reply.events
    for key, reply in batch.finish(list(streams)).items():
        said[key] += reply.events
    for key, samples in streams.items():
        wanted = run(TranslationSession(bundle, options), samples)
        assert [e for e in said[key] if not isinstance(e, Speech)] == [e for e in wanted if not isinstance(e, Speech)]
        assert [e.units for e in of(Speech, said[key])] == [e.units for e in of(Speech, wanted)]


def test_marks_without_text_end_pointing(bundle):
    """Both texts get marks with any end-pointer, and in a single utterance; words stay what they were."""
    samples = speechlike(6.0, seed=6)
    for changes in ({}, {"pause_ms": 200, "longest_sentence_ms": 1600}):
        options = SessionOptions(max_tokens=4, punctuation_delay=2, **changes)
        without = run(TranslationSession(bundle, options), samples)
        events = run(TranslationSession(bundle, dataclasses.replace(options, punctuate=True)), samples)
        for kind in (SourceText, TargetText):
            one, other = (last_texts(kind, found) for found in (without, events))
            assert [bare(text) for text in one] == [bare(text) for text in other] and one != other
            assert all(text[-1] in ".?" and text[0].isupper() for text in other)
        assert [plain(e) for e in of(Speech, events)] == [plain(e) for e in of(Speech, without)]


def last_texts(kind, events):
    """The text of each sentence at its end."""
    found = [event.text for event in events if isinstance(event, kind | Sentence) and hasattr(event, "text")]
    return [a for a, b in zip(found, [*found[1:], ""], strict=True) if not b.startswith(a)]


def test_memory_of_a_stream_that_never_ends_is_bounded(bundle):
    made = dataclasses.replace(bundle)
    made.punctuator = BundlePunctuator(fixed_punctuator({}), {"source": "es", "target": "en"})
    options = dataclasses.replace(TEXT, longest_sentence_ms=1600, revise=True, fresh_encoder=True)
    session = TranslationSession(made, options)
    sizes = []
    for seed in range(10):
        for start in range(0, 32000, CHUNK):
            session.push(speechlike(2.0, seed=seed)[start : start + CHUNK], 16000)
        stream = session._stream
        sizes.append((len(stream.listener._features), len(stream.endpointer.pauses._behind), len(stream._held)))
    assert max(size[0] for size in sizes) <= 4 * 40 + 200 and max(size[1] for size in sizes) <= 60
    assert max(size[2] for size in sizes) <= 5


def test_a_detector_goes_back_as_if_it_had_not_gone_on():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((400, 80)).astype(np.float32) * 3
    one, other = (PauseDetector(np.full(80, 10.0), np.full(80, 4.0), remembers=True) for _ in range(2))
    for detector in (one, other):
        detector.push(features)
        detector.advance(30)
    one.advance(40)
    one.rewind(40)
    assert take(one) == take(other) and one.quietest(20, 20) == 20
    levels = [entry[-1] for entry in one._behind]
    assert one._behind[-one.quietest(20, 5)][-1] == min(levels[-20:-4])
    one.forget(3)
    assert len(one._behind) == 4 and one.loud_before(3) == other.loud_before(3)


@pytest.mark.parametrize(
    "changes, error, why",
    [
        ({"endpointer": "text"}, BundleError, "no punctuator"),
        ({"punctuate": True}, BundleError, "no punctuator"),
        ({"resynthesize": True}, ConfigError, "resynthesize needs revise and speech"),
        ({"punctuate": True, "punctuation_delay": 60, "pause_ms": 0}, BundleError, "no punctuator"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused_by_name(changes, error, why):
    with pytest.raises(error, match=why):
        TranslationSession(tiny_bundle(), SessionOptions(**{"pause_ms": 200, **changes}))


def test_a_delay_that_the_punctuator_cannot_have_is_refused(bundle):
    with pytest.raises(ConfigError, match="punctuation delay 60: use 0 to 9"):
        TranslationSession(bundle, SessionOptions(punctuate=True, punctuation_delay=60))
