"""The acoustic end-pointer: pauses are found in silence and in noise, at any cutting; sentences begin anew there."""

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.evaluation.boundaries import listen, score, spoken_stream
from echostream_plugin.inference.events import Finished, Sentence, TargetText
from echostream_plugin.inference.features import Frontend
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.pauses import PauseDetector
from echostream_plugin.inference.sentences import SentenceStream
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.stages import Writer
from tests.tiny_bundle import speechlike, tiny_bundle

MEAN, STD = np.zeros(80, dtype=np.float32), np.ones(80, dtype=np.float32)


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def voiced(seconds: float, seed: int = 0) -> np.ndarray:
    """A steady sound with overtones whose loudness moves by some dB, [n] at 16 kHz."""
    time = np.arange(int(16000 * seconds)) / 16000
    harmonics = sum(np.sin(2 * np.pi * 150 * n * time + n * seed) / n for n in range(1, 40))
    return (0.1 * harmonics * (1 + 0.3 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def noise(seconds: float, loudness: float) -> np.ndarray:
    return (loudness * np.random.default_rng(0).standard_normal(int(16000 * seconds))).astype(np.float32)


def detector_after(samples: np.ndarray, push_samples: int = 10**9) -> PauseDetector:
    frontend, detector = Frontend(16000, MEAN, STD), PauseDetector(MEAN, STD)
    for start in range(0, len(samples), push_samples):
        detector.push(frontend.push(samples[start : start + push_samples]))
    return detector


def pause_ends(samples: np.ndarray, pause_ms: int) -> list:
    """Where a pause has lasted that long, in ms."""
    detector = detector_after(samples)
    return [40 * end for end in detector.pauses(len(samples) // 640, pause_ms // 40)]


@pytest.mark.parametrize("loudness", [0.0, 1e-5, 1e-3, 5e-3])
def test_a_pause_is_found_over_any_noise(loudness):
    quiet = np.zeros(int(16000 * 0.8), dtype=np.float32)
    samples = np.concatenate([voiced(2.0), quiet, voiced(2.0, 1)])
    (end,) = pause_ends(samples + noise(4.8, loudness), 400)
    assert 2400 <= end <= 2520


def test_sound_without_a_pause_has_none():
    assert pause_ends(voiced(8.0), 200) == []
    assert pause_ends(noise(8.0, 0.01), 200) == []  # all the same, however quiet: nobody paused
    gaps = np.concatenate([np.concatenate([voiced(1.0, i), np.zeros(2400, dtype=np.float32)]) for i in range(5)])
    assert pause_ends(gaps, 200) == []  # 150 ms


def test_digital_silence_is_quiet_from_the_start():
    (end,) = pause_ends(np.zeros(32000, dtype=np.float32), 400)
    assert end <= 440


def test_the_floor_follows_the_room():
    """After ten seconds in a louder room its noise is the floor again."""
    pieces = [voiced(1.0), noise(1.0, 1e-4), voiced(12.0, 1) + noise(12.0, 3e-3), noise(1.0, 3e-3), voiced(1.0)]
    ends = pause_ends(np.concatenate(pieces), 400)
    assert [round(end, -2) for end in ends] == [1400, 14400]


@pytest.mark.parametrize("push_samples", [160, 1000, 7777])
def test_pauses_do_not_depend_on_the_cutting(push_samples):
    samples = np.concatenate([voiced(1.0), noise(0.5, 1e-3), voiced(1.0)])
    whole, cut = detector_after(samples), detector_after(samples, push_samples)
    assert whole._ahead == cut._ahead and len(whole._ahead) == -(-whole._features // 4)


def test_what_was_advanced_over_is_forgotten():
    detector = detector_after(np.concatenate([voiced(1.0), np.zeros(16000, dtype=np.float32), voiced(1.0)]))
    assert detector.silence_ahead() == (0, True)
    detector.advance(30)
    assert 4 <= detector.quiet_frames <= 5 and detector.silence_ahead() in ((19, True), (20, True))
    left = len(detector._ahead)
    detector.advance(left)
    assert detector.silence_ahead() == (0, False) and detector._ahead == []


def stream(seed: int = 0):
    """Six sounds with silences of 600 to 1200 ms between them."""
    sounds = [voiced(1.2 + 0.3 * i, i) * (1 + 0.3 * speechlike(1.2 + 0.3 * i, seed=i)) for i in range(6)]
    return spoken_stream(sounds, (600, 1200), np.random.default_rng(seed))


def options(**changes) -> SessionOptions:
    return SessionOptions(**{"pause_ms": 400, "max_tokens": 4, "speech": False, **changes})


@pytest.mark.parametrize("chunk_ms", [320, 960])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_session_ends_its_sentences_in_the_silences(bundle, chunk_ms, fresh):
    """Whatever the heads of a random model find in the silences; also where a pause lies inside a segment."""
    spoken = stream()
    session = TranslationSession(bundle, options(chunk_ms=chunk_ms, fresh_encoder=fresh))
    ends, _ = listen(session, spoken, 320)
    found = score(ends, spoken.silences)
    assert (found.silences, found.found, found.extra) == (5, 5, 0)
    assert all(delay <= 400 + chunk_ms + 320 + 100 for delay in found.delays_ms)


def test_scores_of_boundaries():
    silences = ((1000.0, 1800.0), (3000.0, 3900.0), (6000.0, 6700.0))
    ends = [(1400.0, 1600.0, True), (1700.0, 1800.0, True), (2500.0, 2600.0, False), (4300.0, 4500.0, True)]
    found = score(ends, silences)
    assert (found.silences, found.found, found.extra, found.delays_ms) == (2, 2, 2, (600.0, 1500.0))


def run(session, samples, push_samples=None):
    push_samples, events = push_samples or len(samples), []
    for start in range(0, len(samples), push_samples):
        events += session.push(samples[start : start + push_samples], 16000)
    return events + session.finish()


@pytest.mark.parametrize("changes", [{}, {"fresh_encoder": True}, {"endpointer": "both"}, {"chunk_ms": 960}])
def test_sentences_do_not_depend_on_the_cutting(bundle, changes):
    samples = stream(1).samples
    said = []
    for push_samples in (len(samples), 5120, 1111):
        events = run(TranslationSession(bundle, options(**changes)), samples, push_samples)
        said.append([(e.source_text, e.start_ms, e.end_ms) for e in events if isinstance(e, Sentence)])
    assert said[0] == said[1] == said[2] and len(said[0]) >= 5 - 4 * ("endpointer" in changes)


def test_with_a_fresh_encoder_a_sentence_is_what_it_is_alone(bundle, monkeypatch):
    """Transcript and translation are those of a session that hears nothing else."""
    heard, end = [], SentenceStream._end_sentence

    def noted(self, sentence_end, events):
        heard.append((self.endpointer.opened_frame, self.listener.frames))
        return end(self, sentence_end, events)

    monkeypatch.setattr(SentenceStream, "_end_sentence", noted)
    samples = stream(2).samples
    events = run(TranslationSession(bundle, options(fresh_encoder=True)), samples)
    sentences = [event for event in events if isinstance(event, Sentence)]
    places = heard[: len(sentences)]
    assert len(sentences) >= 5
    for (first, last), sentence in zip(places, sentences, strict=True):
        own = samples[640 * first : 640 * (last - 1) + 400]  # the audio of the features of these encoder frames
        alone = TranslationSession(bundle, options(pause_ms=0))
        run(alone, own)
        assert (alone.source_text, alone.target_text) == (sentence.source_text, sentence.target_text) != ("", "")


def test_silence_before_a_sentence_is_not_heard(bundle):
    """However long it is: what comes is the same, later."""
    sound = stream(3).samples
    said = []
    for seconds in (2, 7):
        session = TranslationSession(bundle, options(fresh_encoder=True))
        silence = np.zeros(16000 * seconds, dtype=np.float32)
        assert run_pushes(session, silence) == []
        assert held_features(session) <= 32 + 12  # of the newest push, and the lead
        said.append([(e.source_text, e.target_text) for e in run(session, sound, 5120) if isinstance(e, Sentence)])
    assert said[0] == said[1] and len(said[0]) >= 5
    silent = TranslationSession(bundle, options(fresh_encoder=True))
    assert run(silent, np.zeros(32000, dtype=np.float32), 5120) == [Finished(2000.0)]


def run_pushes(session, samples):
    pieces = (samples[start : start + 5120] for start in range(0, len(samples), 5120))
    return [event for piece in pieces for event in session.push(piece, 16000)]


def held_features(session) -> int:
    return len(session._stream.listener._features)


def test_options_of_the_end_pointer():
    with pytest.raises(ConfigError, match="endpointer 'ear'"):
        SessionOptions(endpointer="ear")
    with pytest.raises(ConfigError, match="fresh_encoder needs"):
        SessionOptions(endpointer="ctc", fresh_encoder=True)
    with pytest.raises(ConfigError, match="context_tokens needs"):
        SessionOptions(context_tokens=3, decoding="recompute")
    with pytest.raises(ConfigError, match="pause_ms must be 0 or at least 40"):
        SessionOptions(pause_ms=30)
    with pytest.raises(ConfigError, match="context_tokens must be"):
        SessionOptions(context_tokens=-1)


# The MT decoder's context


@torch.inference_mode()
def test_a_writer_with_a_prefix_goes_on_as_if_it_had_written_it(bundle):
    """Its tokens are the greedy ones of the teacher-forced decoder after </s> and the prefix."""
    decoder: TextDecoder = bundle.model.target_unigram_decoder
    source, prefix = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0)), [5, 9, 7]
    writer = Writer(bundle.model, prefix)
    writer.hear(source)
    for count in (1, 3):  # committed in two goes
        drafts = [draft for draft in writer.draft(count) if draft.token != EOS]
        writer.commit(drafts)
    assert 0 < len(writer.tokens) <= 4
    forced = [EOS, *prefix, *writer.tokens]
    hidden = decoder(torch.tensor([forced]), source)
    scores = decoder.logits(hidden)[0]
    scores[:, 1] = -torch.inf
    scores[len(prefix), EOS] = -torch.inf
    assert scores.argmax(1)[len(prefix) : -1].tolist() == writer.tokens
    assert writer._state.position == len(forced) - 1


@pytest.mark.parametrize("fresh", [False, True])
def test_context_is_taken_and_never_written_again(bundle, fresh, monkeypatch):
    begun = []
    begin = Writer.__init__

    def noted(self, model, prefix=None):
        begin(self, model, prefix)
        begun.append(self)

    monkeypatch.setattr(Writer, "__init__", noted)
    session = TranslationSession(bundle, options(context_tokens=3, fresh_encoder=fresh, speech=True))
    begun.clear()
    session.reset()
    samples = stream(4).samples
    events = run(session, samples, 5120)
    written = [writer for writer in begun if writer.tokens]
    left = []
    for writer in written:
        assert writer.prefix == left[-3:]
        left += writer.tokens
    texts = [event.target_text for event in events if isinstance(event, Sentence)]
    assert [text for text in texts if text] == [bundle.target_dictionary.text(w.tokens) for w in written]
    added = "".join(event.added for event in events if isinstance(event, TargetText))
    assert added == "".join(texts) and len(written) >= 5


def test_no_context_changes_nothing(bundle):
    samples = stream(5).samples
    plain = run(TranslationSession(bundle, options()), samples, 5120)
    assert run(TranslationSession(bundle, options(context_tokens=0)), samples, 5120) == plain
    with_context = run(TranslationSession(bundle, options(context_tokens=4)), samples, 5120)
    first = next(i for i, event in enumerate(plain) if isinstance(event, Sentence))
    assert with_context[: first + 1] == plain[: first + 1] and with_context != plain
