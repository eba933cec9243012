"""Sessions with a gate: what is not understood is neither written nor spoken, and told; nothing else changes."""

import dataclasses

import numpy as np
import pytest
import torch

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.confidence import FEATURES, GateModel
from echostream_plugin.inference.errors import BundleError, SessionError
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText, Unsure
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from tests.inference.test_confidence import Scripted
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle

LANGUAGE = tuple(np.random.default_rng(3).standard_normal(tiny_bundle().config.encoder.dim + 1).tolist())
SURE, NEVER = GateModel({}, 60.0), GateModel({}, -60.0, language=LANGUAGE)
LATE = GateModel({"evidence": (40.0, 0.0, 9.0)}, -40 * np.log(12.5))  # opens with the twelfth token of the ST head
# neither sure nor unsure, by every kind of evidence
EVIDENCE = ("asr_entropy", "st_rate", "mt_entropy", "agreement", "language")
WAVERING = GateModel({name: (0.2, -9.0, 9.0) for name in EVIDENCE}, -0.5, language=LANGUAGE)
CHUNK = 5120  # samples of a segment of 320 ms


@pytest.fixture
def bundle():
    return tiny_bundle()


def translate(bundle, gate, samples, push_samples=CHUNK, **options):
    bundle.gate = gate
    session = TranslationSession(bundle, SessionOptions(gate=0.5 if gate else 0.0, **options))
    events = []
    for start in range(0, len(samples), push_samples):
        events += session.push(samples[start : start + push_samples], 16000)
    return events + session.finish()


def kinds(events, *types):
    return [event for event in events if isinstance(event, types)]


def assert_same(one, other):
    assert [type(event) for event in one] == [type(event) for event in other]
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Speech):
            assert a.units == b.units and np.allclose(a.samples, b.samples, atol=1e-4)
        elif isinstance(a, Unsure):
            assert dataclasses.astuple(a) == pytest.approx(dataclasses.astuple(b), abs=1e-4)
        else:
            assert a == b


@pytest.mark.parametrize("options", [{}, {"chunk_ms": 960, "lagging_k1": 1}, {"chunk_ms": 0}])
def test_a_sure_gate_changes_nothing(bundle, options):
    samples = speechlike(4.0)
    assert_same(translate(bundle, SURE, samples, 1777, **options), translate(bundle, None, samples, 1777, **options))


@pytest.mark.parametrize("options", [{}, {"chunk_ms": 0}, {"speech": False}])
def test_what_is_not_understood_is_transcribed_only_and_told_once(bundle, options):
    samples = speechlike(4.0)
    events, plain = (translate(bundle, gate, samples, **options) for gate in (NEVER, None))
    assert not kinds(events, TargetText, Speech) and kinds(plain, TargetText)
    assert kinds(events, SourceText) == kinds(plain, SourceText)
    (unsure,) = kinds(events, Unsure)
    assert 0 <= unsure.start_ms < unsure.end_ms <= unsure.source_ms == 4000 and unsure.confidence < 1e-9
    assert isinstance(events[-1], Finished) and not kinds(plain, Unsure)


def test_every_sentence_has_a_gate_of_its_own(bundle):
    pause = np.zeros(12000, np.float32)
    samples = np.concatenate([speechlike(2.0, seed=1), pause, speechlike(2.0, seed=2), pause])
    options = {"pause_ms": 400, "fresh_encoder": True}
    events, plain = (translate(bundle, gate, samples, **options) for gate in (NEVER, None))
    sentences = kinds(plain, Sentence)
    assert len(sentences) == 2 == len(kinds(events, Unsure))
    for unsure, refused, sentence in zip(kinds(events, Unsure), kinds(events, Sentence), sentences, strict=True):
        assert (unsure.start_ms, unsure.end_ms) == (sentence.start_ms, sentence.end_ms)
        assert refused == dataclasses.replace(sentence, target_text="")


def test_a_refused_sentence_says_nothing_of_the_next(bundle):
    pause = np.zeros(12000, np.float32)
    samples = np.concatenate([speechlike(2.0, seed=1), pause, speechlike(2.0, seed=2), pause])
    heard = []

    class RefusesTheFirst(Scripted):
        def __call__(self, values):
            return 1.0 if kinds(heard, Sentence) else 0.0

    bundle.gate = RefusesTheFirst()
    session = TranslationSession(bundle, SessionOptions(gate=0.5, pause_ms=400, fresh_encoder=True))
    for start in range(0, len(samples), CHUNK):
        heard += session.push(samples[start : start + CHUNK], 16000)
    first, second = kinds(heard + session.finish(), Sentence)
    plain = kinds(translate(bundle, None, samples, pause_ms=400, fresh_encoder=True), Sentence)
    assert (first.target_text, second.target_text) == ("", plain[1].target_text) and len(kinds(heard, Unsure)) == 1


def test_a_sentence_waits_until_it_is_understood(bundle):
    samples = speechlike(6.0)
    late, plain = (kinds(translate(bundle, gate, samples), TargetText) for gate in (LATE, None))
    assert late[0].source_ms > plain[0].source_ms + 300
    assert len(late[0].text.split()) > len(plain[0].text.split())  # everything that waited is written at once
    assert not kinds(translate(bundle, LATE, samples), Unsure)


def test_what_is_no_longer_understood_is_broken_off(bundle):
    samples = speechlike(6.0)
    plain = translate(bundle, None, samples)
    events = translate(bundle, Scripted(0.9, 0.9, 0.3, 0.1), samples)  # 0.25 is enough once it is open
    texts, whole = kinds(events, TargetText), kinds(plain, TargetText)
    assert texts == whole[:3]
    (unsure,) = kinds(events, Unsure)
    assert unsure.start_ms == texts[-1].source_ms and unsure.confidence == 0.1 and unsure.end_ms >= unsure.start_ms
    units = [unit for event in kinds(events, Speech) for unit in event.units]
    assert units == [unit for event in kinds(plain, Speech) for unit in event.units][: len(units)] and units
    spoken = np.concatenate([event.samples for event in kinds(events, Speech)])
    with_end = bundle.vocoder(torch.tensor([units]), predict_durations=True)[0][0]
    assert len(spoken) == len(with_end)  # nothing of what was written stays unsaid


@pytest.mark.parametrize("gate", [LATE, NEVER, SURE])
def test_pushes_of_one_two_or_all_segments_are_the_same(bundle, gate):
    samples = speechlike(4.0)
    one, two, whole = (translate(bundle, gate, samples, size) for size in (CHUNK, 2 * CHUNK, len(samples)))

    def said(events):
        texts = [event.added for event in kinds(events, TargetText)]
        return texts, [u for event in kinds(events, Speech) for u in event.units], len(kinds(events, Unsure))

    assert said(one) == said(two) == said(whole)


@pytest.mark.parametrize("gate", [LATE, NEVER])
def test_a_stream_goes_on_from_a_snapshot(bundle, gate, tmp_path):
    samples, options = speechlike(5.0), {"chunk_ms": 960}
    wanted = translate(bundle, gate, samples, 2000, **options)
    for stop in (6000, 30000, 60000):
        session = TranslationSession(bundle, SessionOptions(gate=0.5, **options))
        events = []
        for start in range(0, stop, 2000):
            events += session.push(samples[start : start + 2000], 16000)
        snapshot.save(tmp_path / "kept", session.snapshot())
        session = TranslationSession(bundle, SessionOptions(gate=0.5, **options))
        session.restore(snapshot.load(tmp_path / "kept"))
        for start in range(stop, len(samples), 2000):
            events += session.push(samples[start : start + 2000], 16000)
        assert_same(events + session.finish(), wanted)


@pytest.mark.parametrize("threshold", [1e-6, 1.0])  # open from the start, or never
def test_what_a_confidence_is_judged_by_goes_on_from_a_snapshot(bundle, threshold, tmp_path):
    samples, bundle.gate = speechlike(4.0), WAVERING
    whole = TranslationSession(bundle, SessionOptions(gate=threshold))
    resumed = TranslationSession(bundle, SessionOptions(gate=threshold))
    for start in range(0, len(samples), CHUNK):
        whole.push(samples[start : start + CHUNK], 16000)
        resumed.push(samples[start : start + CHUNK], 16000)
        snapshot.save(tmp_path / "kept", resumed.snapshot())
        resumed = TranslationSession(bundle, SessionOptions(gate=threshold))
        resumed.restore(snapshot.load(tmp_path / "kept"))
    whole.finish()
    resumed.finish()
    one, other = (session._stream.translator.gate for session in (whole, resumed))
    assert 0.01 < one.confidence < 0.99 and one.confidence == pytest.approx(other.confidence, abs=1e-6)
    assert vars(one) | {"confidence": 0, "_mt": 0} == vars(other) | {"confidence": 0, "_mt": 0}
    assert one._mt == pytest.approx(other._mt) and (one._mt[0] > 1) == (threshold < 1)


def test_a_sentence_is_not_judged_by_the_one_before(bundle):
    """Without `fresh_encoder` heads and encoder go on, the sums begin anew."""
    pause, bundle.gate = np.zeros(12000, np.float32), NEVER
    session = TranslationSession(bundle, SessionOptions(gate=0.5, pause_ms=400, speech=False))
    samples, sums = np.concatenate([speechlike(3.0, seed=1), pause]), []
    for start in range(0, len(samples), CHUNK):
        events = session.push(samples[start : start + CHUNK], 16000)
        listener = session._stream.listener
        sums.append(listener.asr.sums[0])
        assert listener._language_sums[0] == pytest.approx(sums[-1])  # of the same frames
        if kinds(events, Sentence):
            break
    assert kinds(events, Sentence) and sums[-1] <= 8 < 40 < max(sums)


@pytest.mark.parametrize("push_samples", [777, 3 * CHUNK])
def test_the_language_does_not_depend_on_how_the_audio_comes(bundle, push_samples):
    """Nor on what was computed provisionally: what stays is of complete segments."""
    samples, sums = speechlike(4.0), []
    bundle.gate = NEVER
    for size in (CHUNK, push_samples):
        session = TranslationSession(bundle, SessionOptions(gate=0.5))
        for start in range(0, len(samples), size):
            session.push(samples[start : start + size], 16000)
        session.finish()
        sums.append(session._stream.listener._language_sums)
    assert sums[0] == pytest.approx(sums[1], rel=1e-4) and sums[0][0] > 50


def test_batched_sessions_are_the_same(bundle):
    streams = {seed: speechlike(3.2, seed=seed) for seed in range(3)}
    alone = {seed: translate(bundle, LATE, samples) for seed, samples in streams.items()}
    batch = BatchedSession(bundle, SessionOptions(gate=0.5))
    events = {seed: [] for seed in streams}
    for seed in streams:
        batch.join(seed)
    for start in range(0, 51200, CHUNK):
        replies = batch.push({seed: samples[start : start + CHUNK] for seed, samples in streams.items()}, 16000)
        for seed, reply in replies.items():
            events[seed] += reply.events
    for seed, reply in batch.finish().items():
        assert_same(events[seed] + reply.events, alone[seed])


def test_a_closed_gate_drafts_no_more_than_it_judges_by(bundle, monkeypatch):
    from echostream_plugin.inference.stages import Writer

    asked, draft = [], Writer.drafting
    monkeypatch.setattr(Writer, "drafting", lambda self, n, *p, **kw: asked.append(n) or draft(self, n, *p, **kw))
    translate(bundle, NEVER, speechlike(12.0), speech=False)
    assert max(asked[:-1]) == 16 and len(asked) > 20


def test_a_gate_is_asked_for_by_bundles_that_have_one(bundle, tmp_path):
    with pytest.raises(SessionError, match="no gate"):
        TranslationSession(bundle, SessionOptions(gate=0.5))
    TranslationSession(bundle, SessionOptions(gate=0.5, translate=False))
    TranslationSession(bundle, SessionOptions(gate=0.5, decoding="recompute"))
    model = GateModel({name: (0.5, 0.0, 1.0) for name in FEATURES}, 0.25, 0.75)
    folder = save_tiny_bundle(tmp_path, gate=model, session={"gate": 0.4})
    loaded = load_bundle(folder)
    assert loaded.gate == model and TranslationSession(loaded).options.gate == 0.4
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"bias": 0.25', '"bias": "big"'))
    with pytest.raises(BundleError, match="config.json: gate: expected"):
        load_bundle(folder)
    (folder / "config.json").write_text(text.replace('"gate": {', '"door": {'))
    with pytest.raises(BundleError, match="there is no gate"):
        load_bundle(folder)
