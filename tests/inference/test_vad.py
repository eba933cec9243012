"""Voice activity detection: what is no speech says nothing, speech loses no word, at any cutting; guards too."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS
from echostream_plugin.evaluation.sounds import level, sounds
from echostream_plugin.inference import guards, snapshot, vad
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText
from echostream_plugin.inference.frontends.kaldi import frame_count
from echostream_plugin.inference.guards import until_repeat, within, without_repeats
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from tests.speech import HOSPITAL, ROOM, SQUARE, recording
from tests.tiny_bundle import speechlike, tiny_bundle

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "bundle"
RECORDINGS = (ROOM, HOSPITAL, SQUARE)


@pytest.fixture(scope="module")
def quickstart():
    return load_bundle(QUICKSTART)


def detected(samples: np.ndarray, push_samples: int = 10**9) -> np.ndarray:
    detector, given = vad.SpeechDetector(), []
    for start in range(0, len(samples), push_samples):
        end = min(len(samples), start + push_samples)
        detector.push(samples[start:end])
        given.append(detector.speech_frames(frame_count(end) - frame_count(start)))
    return np.concatenate(given)


def run(session: TranslationSession, samples: np.ndarray, push_ms: int = 320) -> list:
    session.reset()
    step, events = 16 * push_ms, []
    for start in range(0, len(samples), step):
        events += session.push(samples[start : start + step], 16000)
    return events + session.finish()


def written(events: list) -> str:
    return "".join(event.added for event in events if isinstance(event, TargetText))


def test_the_network_is_the_packages():
    """The package's own evaluation gives the same probabilities."""
    path = Path(importlib.util.find_spec(vad.PACKAGE).origin).parent / vad.WEIGHTS
    theirs, ours = torch.jit.load(path, map_location="cpu")._model, vad.network()
    samples, state, their_state = recording(ROOM), np.zeros((2, 128), dtype=np.float32), torch.zeros(2, 1, 128)
    for start in range(0, 40 * 512, 512):
        window = samples[start : start + 576]
        probability, state = ours.step(window, state)
        with torch.inference_mode():
            wanted, their_state = theirs(torch.from_numpy(window)[None], their_state)
        assert abs(probability - float(wanted)) < 1e-4


@pytest.mark.parametrize("push_samples", [1, 333, 5120])
def test_speech_is_judged_the_same_at_any_cutting(push_samples):
    samples = np.concatenate([recording(ROOM)[:16000], np.zeros(8000, dtype=np.float32), recording(HOSPITAL)])
    whole = detected(samples)
    assert whole.any() and not whole.all() and len(whole) == frame_count(len(samples))
    np.testing.assert_array_equal(detected(samples, push_samples), whole)


def test_a_long_stream_keeps_few_windows():
    detector = vad.SpeechDetector()
    for second in range(50):
        detector.push(np.zeros(16000, dtype=np.float32))
        detector.speech_frames(frame_count(16000 * (second + 1)) - frame_count(16000 * second))
        assert len(detector.steps) < 10 and len(detector.held) < 576


@pytest.mark.parametrize("name", sounds(1.0))
def test_what_is_no_speech_is_not_heard_as_speech(name):
    assert not detected(sounds(4.0)[name]).any()


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("changes", [{}, {"pause_ms": 200}, {"pause_ms": 400, "fresh_encoder": False}])
def test_no_word_of_a_recording_is_lost(quickstart, path, changes):
    """Where there is no silence to skip before the first word, the detector changes nothing."""
    samples = recording(path)
    samples = samples[np.argmax(np.abs(samples) > 0.02) :]
    plain = TranslationSession(quickstart, speech=False, vad=False, max_repeats=0, **changes)
    guarded = TranslationSession(quickstart, speech=False, vad=True, max_repeats=4, **changes)
    assert run(guarded, samples) == run(plain, samples) != []


@pytest.mark.parametrize("changes", [{}, {"pause_ms": 200}, {"pause_ms": 200, "fresh_encoder": False}])
@pytest.mark.parametrize("name", ["white noise -50 dB", "hum 60 Hz", "melody", "digital silence"])
def test_noise_says_nothing(quickstart, name, changes):
    session = TranslationSession(quickstart, vad=True, **changes)
    (end,) = run(session, sounds(8.0)[name])
    assert isinstance(end, Finished) and end.source_ms == 8000


def test_without_it_noise_is_translated():
    """A model may make words of noise: what the detector is for."""
    noise, bundle = sounds(8.0)["white noise -50 dB"], tiny_bundle()
    assert written(run(TranslationSession(bundle, vad=False, pause_ms=200), noise))
    assert not written(run(TranslationSession(bundle, vad=True, pause_ms=200), noise))


@pytest.mark.parametrize("fresh", [True, False])
def test_speech_between_noises_is_translated_alone(quickstart, fresh):
    noise = sounds(4.0, seed=3)["pink noise -40 dB"]
    one, two = recording(ROOM), recording(HOSPITAL)
    session = TranslationSession(quickstart, vad=True, pause_ms=200, fresh_encoder=fresh, speech=False)
    events = run(session, np.concatenate([noise, one, noise, two, noise]))
    sentences = [event for event in events if isinstance(event, Sentence)]
    assert len(sentences) == 2 and all(sentence.target_text for sentence in sentences)
    starts = [len(noise) / 16, (2 * len(noise) + len(one)) / 16]
    for sentence, start in zip(sentences, starts, strict=True):
        assert start - 400 < sentence.start_ms < sentence.end_ms < start + 2600


def test_a_snapshot_goes_on_as_the_stream_would(quickstart, tmp_path):
    samples = np.concatenate([sounds(1.0)["pink noise -40 dB"], recording(ROOM), np.zeros(8000, dtype=np.float32)])
    session = TranslationSession(quickstart, vad=True, pause_ms=200, speech=False)
    pieces = np.array_split(samples, 9)
    expected, states = [], []
    for piece in pieces:
        states.append(session.snapshot())
        snapshot.save(tmp_path / str(len(states)), states[-1])
        expected.append(session.push(piece, 16000))
    expected.append(session.finish())
    for i in (2, 4, 6):
        other = TranslationSession(quickstart, vad=True, pause_ms=200, speech=False)
        other.restore(snapshot.load(tmp_path / str(i + 1)))
        assert [other.push(piece, 16000) for piece in pieces[i:]] + [other.finish()] == expected[i:]


def test_recomputing_decoding_listens_to_everything():
    bundle, samples = tiny_bundle(), speechlike(2.0)
    sessions = [TranslationSession(bundle, decoding="recompute", speech=False, vad=on) for on in (False, True)]
    plain, asked = (run(session, samples) for session in sessions)
    assert plain == asked and len(plain) > 1


def test_a_missing_package_is_named(monkeypatch):
    vad.network.cache_clear()
    monkeypatch.setattr(vad, "PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match="pip install 'silero-vad"):
        TranslationSession(tiny_bundle(), vad=True)
    vad.network.cache_clear()


@pytest.mark.parametrize(
    ("tokens", "times", "left"),
    [
        ([1, 2, 3], 1, [1, 2, 3]),
        ([6, 6, 6, 6, 6, 6], 3, [6, 6, 6]),
        ([6, 6, 6, 6, 7, 6], 3, [6, 6, 6, 7, 6]),
        ([1, 2, 1, 2, 1, 2, 1, 2, 5], 2, [1, 2, 1, 2, 1, 5]),
        ([6] * 6, 0, [6] * 6),
        ([*range(9), *range(9), *range(9)], 1, [*range(9)] * 3),  # longer than what is looked for
    ],
)
def test_repeated_runs_are_left_out(tokens, times, left):
    assert without_repeats(tokens, times) == left
    growing = [without_repeats(tokens[:i], times) for i in range(len(tokens))]
    assert all(left[: len(short)] == short for short in growing)


def test_drafts_end_where_they_would_repeat():
    assert until_repeat([4, 6, 6], [6, 6, 7], 3) == 1
    assert until_repeat([], [6, 7, 6, 7, 8], 2) == 5
    assert until_repeat([6, 7, 6], [7, 6, 7, 8], 2) == 2
    assert until_repeat([6] * 9, [6], 0) == 1


def babbling_bundle():
    """A tiny model that writes one word over and over."""
    bundle = tiny_bundle()
    with torch.no_grad():
        decoder = bundle.model.target_unigram_decoder
        word = torch.linspace(-1.0, 1.0, 16)
        decoder.embed_tokens.weight[7], decoder.embed_tokens.weight[EOS] = 9 * word, -9 * word
        decoder.layer_norm.weight.zero_()
        decoder.layer_norm.bias.copy_(word)
    return bundle


def test_repetition_is_stopped():
    bundle, samples = babbling_bundle(), speechlike(4.0)
    free, guarded = (
        run(TranslationSession(bundle, max_tokens=30, speech=False, max_repeats=times), samples) for times in (0, 4)
    )
    words = written(free).split()
    assert len(words) > 8 and len(set(words)) == 1  # the model does babble
    assert written(guarded).split() == words[:4]
    source = [event.text for event in guarded if isinstance(event, SourceText)]
    assert source and all(longer.startswith(shorter) for shorter, longer in zip(source, source[1:], strict=False))


def test_speech_ends_within_its_share_of_the_source(monkeypatch):
    monkeypatch.setattr(guards, "SLACK_MS", 20.0)
    bundle, samples = tiny_bundle(), speechlike(2.0)

    def said(factor: float) -> np.ndarray:
        session = TranslationSession(bundle, max_tokens=100, speech_factor=factor)
        return np.concatenate([event.samples for event in run(session, samples) if isinstance(event, Speech)])

    free, limited = said(0.0), said(0.01)
    assert len(free) >= 1600 and len(limited) == 640  # 20 ms, and a hundredth of the source
    assert len(said(5.0)) == len(free)


def test_speech_that_is_cut_fades():
    samples = np.ones(1000, dtype=np.float32)
    cut = within(samples, said=31500, rate=16000, source_ms=0.0, factor=1.0)
    assert len(cut) == 500 and cut[300] == 1 and cut[-1] == 0
    assert within(samples, 31500, 16000, 0.0, 0.0) is samples


def test_options_are_checked():
    with pytest.raises(ConfigError, match="vad needs endpointer"):
        SessionOptions(vad=True, pause_ms=400, endpointer="ctc")
    assert level(np.ones(4), -20.0)[0] == pytest.approx(0.1)
