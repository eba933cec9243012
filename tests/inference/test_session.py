"""A session: what it says for any cutting, what it never takes back, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, SourceText, Speech, TargetText, as_record
from echostream_plugin.inference.features import Frontend, features_of
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.stages import Listener, Speaker, Writer
from echostream_plugin.inference.translators.incremental import IncrementalTranslator
from echostream_plugin.inference.work import alone
from tests.tiny_bundle import speechlike, tiny_bundle

CHUNK = 5120  # 320 ms


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def run(session, samples, push_samples=CHUNK, rate=16000):
    events = []
    for start in range(0, len(samples), push_samples):
        events += session.push(samples[start : start + push_samples], rate)
    return events + session.finish()


def said(events):
    """What an utterance came to: transcript, translation, units, samples."""
    texts = {kind: [event.added for event in events if isinstance(event, kind)] for kind in (SourceText, TargetText)}
    speech = [event for event in events if isinstance(event, Speech)]
    units = [unit for event in speech for unit in event.units]
    samples = np.concatenate([event.samples for event in speech]) if speech else np.zeros(0)
    return "".join(texts[SourceText]), "".join(texts[TargetText]), units, samples


def assert_same(one, other):
    assert said(one)[:3] == said(other)[:3]
    np.testing.assert_allclose(said(one)[3], said(other)[3], atol=1e-4)


# Cuttings


@torch.inference_mode()
def encoder_output(bundle, samples, push_samples, segment_frames=8):
    frontend, listener = Frontend(16000, bundle.cmvn_mean, bundle.cmvn_std), Listener(bundle.model, segment_frames)
    frames = []
    for start in range(0, len(samples), push_samples):
        frames += alone(listener.hear(frontend.push(samples[start : start + push_samples])))
    frames += alone(listener.hear(frontend.finish()))
    return torch.cat([*frames, alone(listener.rest())], dim=1)[0].numpy()


@pytest.mark.parametrize("push_ms", [1, 10, 77, 320, 10000])
@pytest.mark.parametrize("right_context_frames", [0, 2])
def test_encoder_output_is_the_parallel_forward_for_any_push(push_ms, right_context_frames):
    bundle = tiny_bundle(right_context_frames=right_context_frames)
    samples = speechlike(1.9 if push_ms > 1 else 0.8)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))
    with torch.inference_mode():
        whole, _ = bundle.model.encoder(features[None], torch.tensor([len(features)]), 8)
    np.testing.assert_allclose(encoder_output(bundle, samples, push_ms * 16), whole[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("whole_word", [False, True])
def test_same_result_for_pushes_of_one_two_or_all_chunks(bundle, whole_word):
    samples = speechlike(3.5, seed=1)
    options = SessionOptions(whole_word=whole_word, max_tokens=10)
    events = run(TranslationSession(bundle, options), samples)
    assert said(events)[0] and said(events)[1] and len(said(events)[3])
    for chunks in (2, 100):
        assert_same(run(TranslationSession(bundle, options), samples, chunks * CHUNK), events)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(300, 20000), min_size=1, max_size=5), st.integers(0, 3), st.sampled_from([0, 320, 640]))
def test_texts_only_grow_and_time_never_runs_back(bundle, sizes, seed, chunk_ms):
    samples = speechlike(1.5, seed=seed)
    session, texts, clock, start, turn = TranslationSession(bundle, chunk_ms=chunk_ms, max_tokens=9), {}, 0.0, 0, 0
    events = []
    while start < len(samples):
        events += session.push(samples[start : start + sizes[turn % len(sizes)]], 16000)
        start, turn = start + sizes[turn % len(sizes)], turn + 1
    events += session.finish()
    for event in events:
        assert event.source_ms >= clock
        clock = event.source_ms
        if isinstance(event, SourceText | TargetText):
            assert event.text == texts.get(type(event), "") + event.added and event.added
            texts[type(event)] = event.text
    assert isinstance(events[-1], Finished) and sum(isinstance(event, Finished) for event in events) == 1
    assert (session.source_text, session.target_text) == (texts.get(SourceText, ""), texts.get(TargetText, ""))


def test_transcript_is_that_of_the_parallel_forward(bundle):
    samples = speechlike(2.3, seed=2)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))
    with torch.inference_mode():
        frames, lengths = bundle.model.encoder(features[None], torch.tensor([len(features)]), 8)
        tokens, _ = greedy_collapse(bundle.model.source_unigram_decoder(frames, lengths)[0])
    session = TranslationSession(bundle)
    run(session, samples, 333)
    assert session.source_text == bundle.source_dictionary.text(tokens) != ""


# What is written and spoken equals the teacher-forced forward (design, exactness 4 and 5)


def test_written_tokens_are_the_masked_forward_of_training(bundle, monkeypatch):
    seen = []
    commit = Writer.commit

    def spy(self, drafts):
        seen.extend([self._state.source_frames] * len(drafts))
        commit(self, drafts)

    monkeypatch.setattr(Writer, "commit", spy)
    session = TranslationSession(bundle, speech=False)
    samples = speechlike(12 * 0.32, seed=3)
    run(session, samples)
    tokens = session._stream.translator.tokens
    assert len(set(seen)) > 2 and len(seen) == len(tokens)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))
    with torch.inference_mode():
        frames, _ = bundle.model.encoder(features[None], torch.tensor([len(features)]), 8)
        mask = torch.arange(frames.size(1))[None, :] >= torch.tensor(seen)[:, None]
        decoder = bundle.model.target_unigram_decoder
        logits = decoder.logits(decoder(torch.tensor([[2, *tokens[:-1]]]), frames, None, mask[None]))[0]
        logits[:, 1] = -torch.inf
        logits[0, 2] = -torch.inf
    assert logits.argmax(1).tolist() == tokens


def test_speech_is_the_whole_utterance_vocoded_once(bundle, monkeypatch):
    hidden = []
    speaking = Speaker.speaking
    monkeypatch.setattr(Speaker, "speaking", lambda self, states: hidden.append(states) or speaking(self, states))
    session = TranslationSession(bundle, max_tokens=12)
    events = run(session, speechlike(2.5, seed=3))
    assert len(hidden) > 2
    states = torch.cat(hidden, dim=1)
    assert states.size(1) == len(session._stream.translator.tokens) + 1  # the state that predicts </s> speaks too
    with torch.inference_mode():
        logits = bundle.model.decoder(bundle.model.synthesizer_encoder(states, None), None, k2=0, n2=1)[0]
        tokens, _ = greedy_collapse(logits, blank=-1)
        units = [token - 4 for token in tokens if 4 <= token < 4 + bundle.units]
        wav, _ = bundle.vocoder(torch.tensor([units]))
    assert said(events)[2] == units and len(units) > 5
    np.testing.assert_allclose(said(events)[3], wav[0].numpy(), atol=1e-4)


# Policy inside a session


@pytest.mark.parametrize("k1, stride_n", [(0, 1), (2, 1), (1, 3)])
def test_writing_stays_behind_the_ctc_translation(bundle, k1, stride_n):
    session = TranslationSession(bundle, lagging_k1=k1, stride_n=stride_n, speech=False)
    samples = speechlike(4.0, seed=4)
    for start in range(0, len(samples) // CHUNK * CHUNK, CHUNK):
        session.push(samples[start : start + CHUNK], 16000)
        written, allowed = len(session._stream.translator.tokens), len(session._stream.listener.st.tokens) - k1
        assert written <= max(0, allowed) and written % stride_n == 0


def test_whole_word_mode_stops_before_the_start_of_a_word(bundle, monkeypatch):
    """What follows a write in the draft it was cut from begins a word: the word before it is complete."""
    cuts, drafted = [], []
    whole, commit = IncrementalTranslator._complete_words, Writer.commit

    def spy(self, drafts):
        cuts.append(drafted[-1][len(drafts)].token)
        commit(self, drafts)

    monkeypatch.setattr(IncrementalTranslator, "_complete_words", lambda self, d: drafted.append(d) or whole(self, d))
    monkeypatch.setattr(Writer, "commit", spy)
    session, samples = TranslationSession(bundle, chunk_ms=640, speech=False), speechlike(5.12, seed=5)
    for start in range(0, len(samples), 10240):
        session.push(samples[start : start + 10240], 16000)
    assert len(cuts) > 2 and all(bundle.target_dictionary.starts_word(token) for token in cuts)


def test_end_of_sentence_is_not_committed_before_the_end(bundle):
    """A decoder that always wants to stop writes its one obligatory token, then waits for the end of the source."""
    model = bundle.model.target_unigram_decoder
    logits = model.logits
    try:
        model.logits = lambda hidden: logits(hidden).index_fill(2, torch.tensor([2]), 1e4)
        session = TranslationSession(bundle)
        samples = speechlike(4.0, seed=4)
        for start in range(0, len(samples), CHUNK):
            session.push(samples[start : start + CHUNK], 16000)
            assert len(session._stream.translator.tokens) <= 1
        session.finish()
        assert len(session._stream.translator.tokens) == 1
    finally:
        del model.logits


def test_the_end_adds_at_most_max_tokens(bundle):
    session = TranslationSession(bundle, max_tokens=3, speech=False)
    samples = speechlike(2.0, seed=4)
    session.push(samples, 16000)
    before = len(session._stream.translator.tokens)
    session.finish()
    assert len(session._stream.translator.tokens) <= before + 3


def test_offline_mode_decides_nothing_before_the_end(bundle):
    session = TranslationSession(bundle, chunk_ms=0)
    samples = speechlike(2.0, seed=4)
    assert session.push(samples[:20000], 16000) == [] and session.push(samples[20000:], 16000) == []
    assert said(session.finish())[1]


def test_transcribing_only(bundle):
    events = run(TranslationSession(bundle, translate=False), speechlike(2.0, seed=4))
    assert {type(event) for event in events} == {SourceText, Finished}


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_encoder_does_not_fall_behind_at_any_rate(bundle, rate):
    """After k chunks of 320 ms all 8 k encoder frames are complete, the resampler's delay notwithstanding."""
    session = TranslationSession(bundle, speech=False)
    samples = speechlike(1.28, rate)
    for chunk in range(4):
        session.push(samples[chunk * rate * 32 // 100 : (chunk + 1) * rate * 32 // 100], rate)
        assert session._stream.listener.frames == 8 * (chunk + 1)


def test_state_of_the_listener_does_not_grow(bundle):
    listener = Listener(bundle.model, 8)
    sizes = set()
    with torch.inference_mode():
        for second in range(12):
            alone(listener.hear(np.random.default_rng(second).standard_normal((96, 80)).astype(np.float32)))
            sizes.add(listener._state.nbytes)
    assert len(sizes) == 1


# Promises 3 and 5: nobody hears another


def test_interleaved_sessions_equal_sessions_alone(bundle):
    utterances = [speechlike(1.5 + 0.3 * i, seed=10 + i) for i in range(3)]
    alone = [run(TranslationSession(bundle, max_tokens=10), samples) for samples in utterances]
    sessions = [TranslationSession(bundle, max_tokens=10) for _ in utterances]
    together = [[] for _ in utterances]
    for start in range(0, max(map(len, utterances)), CHUNK):
        for session, samples, events in zip(sessions, utterances, together, strict=True):
            if start < len(samples):
                events += session.push(samples[start : start + CHUNK], 16000)
    for session, events, lone in zip(sessions, together, alone, strict=True):
        events += session.finish()
        assert_same(events, lone)
    assert len({said(events)[1] for events in alone}) > 1


@pytest.mark.parametrize("interrupted", [False, True])
def test_reset_leaves_nothing(bundle, interrupted):
    used, second = TranslationSession(bundle), speechlike(2.0, seed=21)
    used.push(speechlike(2.0, seed=20), 16000)
    if not interrupted:
        used.finish()
    used.reset()
    assert not used.finished and used.source_ms == 0 and used.source_text == used.target_text == ""
    assert_same(run(used, second), run(TranslationSession(bundle), second))


def test_rate_may_change_between_utterances_not_inside(bundle):
    session = TranslationSession(bundle)
    session.push(speechlike(0.5), 16000)
    with pytest.raises(InputError, match="48000 Hz, but this utterance began at 16000 Hz"):
        session.push(speechlike(0.5, 48000), 48000)
    session.finish()
    session.reset()
    session.push(speechlike(0.5, 48000), 48000)


# Promise 4: bad input


@pytest.mark.parametrize(
    "bad, rate",
    [
        ([float("nan")] * 10, 16000),
        (np.array([0.0, np.inf]), 16000),
        (np.zeros((2, 500)), 16000),
        (np.full(100, 1e30), 16000),
        (np.zeros(3, dtype=np.complex64), 16000),
        (np.zeros(100), 8000),
        (np.zeros(100), None),
        (np.zeros(100), float("nan")),
    ],
)
def test_bad_input_changes_nothing(bundle, bad, rate):
    samples, session = speechlike(2.0, seed=30), TranslationSession(bundle)
    events = session.push(samples[:CHUNK], 16000)
    with pytest.raises(InputError):
        session.push(bad, rate)
    for start in range(CHUNK, len(samples), CHUNK):
        events += session.push(samples[start : start + CHUNK], 16000)
    assert_same(events + session.finish(), run(TranslationSession(bundle), samples))


@pytest.mark.parametrize("rate", [0, -16000, 16000.5, 10**9, None, "16000", float("nan")])
def test_impossible_rates(bundle, rate):
    with pytest.raises(InputError, match="sample rate"):
        TranslationSession(bundle).push(np.zeros(10), rate)


@pytest.mark.parametrize("samples", [0, 1, 200, 399])
def test_under_25_ms_the_result_is_empty(bundle, samples):
    session = TranslationSession(bundle)
    assert session.push(np.zeros(samples, dtype=np.float32), 16000) == []
    assert session.finish() == [Finished(samples / 16)]


def test_no_push_at_all_and_a_second_finish(bundle):
    session = TranslationSession(bundle)
    assert session.finish() == [Finished(0.0)] and session.finish() == []
    with pytest.raises(SessionError, match="reset"):
        session.push([0.0], 16000)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_silence_and_odd_lengths_do_not_crash(bundle, rate):
    for length in (0.7, 0.3337, 0.025, 0.04):
        session = TranslationSession(bundle, max_tokens=5)
        events = run(session, np.zeros(int(length * rate), dtype=np.float32), 3777, rate)
        assert isinstance(events[-1], Finished)


def test_silent_heads_mean_nothing_is_said():
    bundle = tiny_bundle()
    for head in (bundle.model.source_unigram_decoder, bundle.model.ctc_target_unigram_decoder):
        torch.nn.init.constant_(head.proj.bias[:1], 1e4)
    assert run(TranslationSession(bundle), speechlike(1.0)) == [Finished(1000.0)]


def test_int16_and_stereo_equal_mono_floats(bundle):
    ints = (speechlike(1.5, seed=31) * 32767).astype(np.int16)
    floats = ints.astype(np.float32) / 32768
    events = run(TranslationSession(bundle), floats)
    assert_same(run(TranslationSession(bundle), ints), events)
    assert_same(run(TranslationSession(bundle), np.stack([floats * 1.5, floats * 0.5], axis=1)), events)


def test_truncated_file_gives_what_is_there(bundle, tmp_path):
    soundfile.write(tmp_path / "whole.wav", speechlike(2.0), 16000)
    whole = (tmp_path / "whole.wav").read_bytes()
    (tmp_path / "half.wav").write_bytes(whole[: len(whole) // 2 + 1])
    samples, rate = read_audio(tmp_path / "half.wav")
    assert 0 < len(samples) < 32000 and isinstance(run(TranslationSession(bundle), samples, CHUNK, rate)[-1], Finished)
    for name, content in (("header.wav", whole[:20]), ("empty.wav", b""), ("text.wav", b"not a sound")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_audio(tmp_path / name)
    with pytest.raises(InputError, match="no such audio file"):
        read_audio(tmp_path / "none.wav")


def test_options_are_checked(bundle):
    with pytest.raises(ConfigError, match="multiple of 40"):
        SessionOptions(chunk_ms=330)
    with pytest.raises(ConfigError, match="stride_n"):
        SessionOptions(stride_n=0)
    with pytest.raises(SessionError, match="no vocoder"):
        TranslationSession(tiny_bundle(vocoder=False))
    TranslationSession(tiny_bundle(vocoder=False), speech=False)


def test_records_of_events_are_plain_json():
    speech = as_record(Speech(np.zeros(320, dtype=np.float32), 16000, (1, 2), 640.0))
    assert speech == {"kind": "speech", "source_ms": 640.0, "duration_ms": 20.0, "units": [1, 2]}
    text = {"kind": "target_text", "source_ms": 1.0, "text": "ab", "added": "b"}
    assert as_record(TargetText("ab", "b", 1.0)) == text


def test_options_of_the_bundle_hold_where_none_are_given(bundle):
    suited = dataclasses.replace(bundle, session={"lagging_k1": 2, "chunk_ms": 640})
    assert TranslationSession(suited).options == SessionOptions(lagging_k1=2, chunk_ms=640)
    assert TranslationSession(suited, chunk_ms=320).options == SessionOptions(lagging_k1=2, chunk_ms=320)
    assert bundle_options(suited, lagging_k1=0, chunk_ms=None) == SessionOptions(lagging_k1=0, chunk_ms=640)
    with pytest.raises(ConfigError, match="lag_k1"):
        TranslationSession(dataclasses.replace(bundle, session={"lag_k1": 2}))
