"""Text to speech: word by word, whole sentences and the model's teacher-forced forward say the same."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS, SPECIALS
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Speech, TargetText
from echostream_plugin.inference.speak import (
    SpeakOptions,
    SpokenSentence,
    TextSpeaker,
    UnknownWord,
    source_frames,
    speak_options,
    steer,
)
from echostream_plugin.model import S2STModel, WaitKLags
from tests.tiny_bundle import UNITS, save_tiny_bundle, speechlike, tiny_bundle

WORDS = [f"{start}{end}" for start in ("t0", "t3", "t11") for end in ("", "y2", "y7y1")]
TEXT = "t1 t2y3, T4 t5y0y1. t6 t7?\n\nt8y5 t9"


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


def speak(bundle, *pushes, source=None, **options):
    """Units, samples and all events of a text."""
    speaker = TextSpeaker(bundle, speak_options(bundle, **options), source)
    events = [event for text in pushes for event in speaker.push(text)] + speaker.finish()
    speech = [event for event in events if isinstance(event, Speech)]
    samples = np.concatenate([event.samples for event in speech]) if speech else np.zeros(0)
    return [unit for event in speech for unit in event.units], samples, events


def events_of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def same(one, other):
    assert one[0] == other[0]
    np.testing.assert_allclose(one[1], other[1], atol=1e-4)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", ". ", ", ", "\n\n"])), min_size=1, max_size=9),
    st.lists(st.integers(0, 60), max_size=6),
    st.sampled_from([(0, 1), (1, 1), (0, 2), (2, 3)]),
)
def test_any_cutting_says_the_same_as_whole_sentences(bundle, words, cuts, wait):
    text, (k2, n2) = "".join(word + gap for word, gap in words), wait
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pushes = [text[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
    options = {"lagging_k2": k2, "stride_n2": n2, "longest_sentence": 12}
    whole = speak(bundle, text, word_by_word=False, **options)
    pushed = speak(bundle, *pushes, **options)
    same(pushed, whole)
    sentences = events_of(SpokenSentence, pushed[2])
    assert [s.text for s in sentences] == [s.text for s in events_of(SpokenSentence, whole[2])]
    for one, other in zip(sentences, events_of(SpokenSentence, whole[2]), strict=True):
        assert one.words == other.words


def test_letter_by_letter(bundle):
    same(speak(bundle, *TEXT), speak(bundle, TEXT))


@pytest.mark.parametrize("wait", [(0, 1), (1, 2)])
def test_it_is_the_teacher_forced_forward_of_training(bundle, wait):
    """With a source and no steering: encoder, MT decoder, T2U and unit decoder in parallel, one vocoder run."""
    audio, (k2, n2) = speechlike(1.5, seed=4), wait
    tokens = [bundle.target_dictionary.symbols.index(piece) for piece in ("▁t1", "▁t2", "y3", "▁t9")]
    source = source_frames(bundle, audio, 16000)
    with torch.inference_mode():
        model, inputs = bundle.model, torch.tensor([[EOS, *tokens]])
        hidden = model.target_unigram_decoder(inputs, source)
        logits, _ = model.units(hidden, torch.zeros_like(inputs, dtype=torch.bool), WaitKLags(k2=k2, n2=n2))
        units = [u - len(SPECIALS) for u in greedy_collapse(logits[0], blank=-1)[0]]
        units = [unit for unit in units if 0 <= unit < UNITS]
        wave, _ = bundle.vocoder(torch.tensor([units]))
    assert units
    for word_by_word in (True, False):
        options = {"lead": 0.0, "lagging_k2": k2, "stride_n2": n2, "word_by_word": word_by_word}
        same(speak(bundle, "t1 t2y3 t9", source=source, **options), (units, wave[0].numpy()))


def test_texts_and_sentences(bundle):
    _, samples, events = speak(bundle, TEXT)
    texts = events_of(TargetText, events)
    assert [t.text for t in texts[:2]] == ["t1", "t1 t2y3"] and [t.added for t in texts[:2]] == ["t1", " t2y3"]
    sentences = events_of(SpokenSentence, events)
    assert [s.text for s in sentences] == ["t1 t2y3 t4 t5y0y1", "t6 t7", "t8y5 t9"]
    assert isinstance(events[-1], Finished) and len(events_of(Finished, events)) == 1
    words = [word for sentence in sentences for word in sentence.words]
    assert [word.word for word in words] == [normal for s in sentences for normal in s.text.split()]
    bounds = [time for word in words for time in (word.start_ms, word.end_ms)]
    assert bounds == sorted(bounds) and bounds[0] == 0 and bounds[-1] == pytest.approx(len(samples) / 16)


def test_words_are_spoken_before_the_next_is_known(bundle):
    speaker = TextSpeaker(bundle)
    assert speaker.push("t1") == []
    assert events_of(TargetText, speaker.push(" t2"))[0].text == "t1"
    spoken = speaker.push(" t0y2 t3 t11y7y1" * 5)
    assert sum(len(event.samples) for event in events_of(Speech, spoken)) > 0


def test_a_long_text_is_cut_into_sentences(bundle):
    text = " ".join(f"t{i % 12}" for i in range(60))
    sentences = events_of(SpokenSentence, speak(bundle, text, longest_sentence=10)[2])
    assert [len(s.words) for s in sentences] == [10] * 6
    commas = text.replace("t7", "t7,")
    lengths = [len(s.words) for s in events_of(SpokenSentence, speak(bundle, commas, longest_sentence=10)[2])]
    assert lengths == [8, 10, 10, 10, 6, 10, 6]  # a comma ends a sentence of five words or more


def test_a_sentence_does_not_depend_on_the_one_before(bundle):
    first, second, both = (speak(bundle, text) for text in ("t1 t2.", "t3y1 t4.", "t1 t2. t3y1 t4."))
    same(both, (first[0] + second[0], np.concatenate([first[1], second[1]])))


def test_reset_leaves_nothing(bundle):
    speaker = TextSpeaker(bundle)
    speaker.push("t1 t2 t3y1 t")
    speaker.reset()
    events = speaker.push(TEXT) + speaker.finish()
    same(([u for e in events_of(Speech, events) for u in e.units],
          np.concatenate([e.samples for e in events_of(Speech, events)])), speak(bundle, TEXT))  # fmt: skip


@pytest.mark.parametrize("text", ["", " \n\n ", "... , -- !"])
def test_text_without_words_says_nothing(bundle, text):
    assert speak(bundle, text)[2] == [Finished(0.0)]


def test_unknown_words_are_left_out_and_named(bundle):
    units, samples, events = speak(bundle, "t1 Zebra! t2", "t2" * 100)
    words = events_of(UnknownWord, events)
    assert words[0] == UnknownWord("Zebra!") and words[1].word.startswith("t2t2") and len(words) == 2
    same((units, samples), speak(bundle, "t1. "))


def test_spelled_words_are_spoken_and_named(bundle):
    symbols = list(bundle.target_dictionary.symbols)
    symbols[-4:] = ["▁", "a", "b", "c"]
    spelling = dataclasses.replace(bundle, target_dictionary=type(bundle.target_dictionary)(tuple(symbols)))
    _, _, events = speak(spelling, "cab t1")
    assert events_of(UnknownWord, events) == [UnknownWord("cab", spelled=True)]
    assert events_of(SpokenSentence, events)[0].text == "cab t1"


def test_misuse_is_named(bundle):
    speaker = TextSpeaker(bundle)
    with pytest.raises(InputError, match="expected text"):
        speaker.push(b"t1")
    speaker.push("t1")
    assert speaker.finish() and speaker.finish() == [] and speaker.finished
    with pytest.raises(SessionError, match="reset"):
        speaker.push("t2")
    with pytest.raises(SessionError, match="no vocoder"):
        TextSpeaker(tiny_bundle(vocoder=False))
    with pytest.raises(InputError, match="shorter than 25 ms"):
        source_frames(bundle, np.zeros(100, dtype=np.float32), 16000)
    for options in ({"lead": -1.0}, {"lead": float("nan")}, {"longest_sentence": 0}, {"stride_n2": 0}):
        with pytest.raises(ConfigError, match="must be at least"):
            SpeakOptions(**options)


def test_a_model_that_looks_ahead_speaks_sentences(bundle):
    """StreamSpeech's offline models: T2U encoder without --uni-encoder, unit decoder without a wait."""
    config = bundle.config
    config = dataclasses.replace(config, unit=dataclasses.replace(config.unit, causal_encoder=False))
    model = S2STModel(config)
    model.load_state_dict(bundle.model.state_dict())
    offline = dataclasses.replace(bundle, model=model, config=config)
    with pytest.raises(SessionError, match="not causal"):
        TextSpeaker(offline, SpeakOptions(word_by_word=True))
    spoken = speak(offline, "t1 t2y3 t4")
    assert spoken[0] and spoken[0] != speak(bundle, "t1 t2y3 t4")[0]
    same(spoken, speak(offline, *"t1 t2y3 t4", stride_n2=5))
    same(speak(offline, "t1. t2"), speak(offline, "t1.\n", "t2"))


def test_waits_of_the_bundle_are_taken(bundle):
    waiting = dataclasses.replace(bundle, session={"lagging_k2": 2, "stride_n2": 3, "chunk_ms": 320})
    options = speak_options(waiting, lead=1.0, lagging_k2=None)
    assert (options.lagging_k2, options.stride_n2, options.lead) == (2, 3, 1.0)


def test_the_piece_model_of_a_bundle_folder_is_found(tmp_path):
    folder = save_tiny_bundle(tmp_path)
    assert load_bundle(folder).target_spm is None
    pieces = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "bundle" / "target.spm.model"
    (folder / "target.spm.model").write_bytes(pieces.read_bytes())
    assert load_bundle(folder).target_spm == folder / "target.spm.model"


def test_a_source_changes_what_is_said(bundle):
    sources = [source_frames(bundle, speechlike(1.0, seed=seed), 16000) for seed in (1, 2)]
    spoken = {tuple(speak(bundle, TEXT, source=source, lead=0.0)[0]) for source in (None, *sources)}
    assert len(spoken) == 3


def log_odds(states, tokens, embeddings):
    probabilities = (states @ embeddings.T).softmax(-1)[0, torch.arange(len(tokens)), tokens]
    return torch.logit(probabilities.double())


def test_steering_gives_the_lead_and_no_more():
    torch.manual_seed(0)
    embeddings, states = torch.randn(50, 16), torch.randn(1, 20, 16)
    tokens = torch.randint(50, (20,))
    states[0, :5] = 2 * embeddings[tokens[:5]]
    before, steered = log_odds(states, tokens, embeddings), steer(states, tokens, embeddings, 3.0)
    after = log_odds(steered, tokens, embeddings)
    assert (after > 2.9).all()
    sure = before >= 3.0
    assert sure.any() and torch.equal(steered[0, sure], states[0, sure])
    assert torch.allclose(after[~sure].float(), torch.full_like(after[~sure], 3.0).float(), atol=0.2)
    one = steer(states[:, 7:8], tokens[7:8], embeddings, 3.0)
    torch.testing.assert_close(one, steered[:, 7:8], atol=1e-4, rtol=0)
    shortest = torch.randn(1, 20, 16) * 5 + steered  # other states with that lead are farther away, mostly
    enough = log_odds(shortest, tokens, embeddings) >= 3.0
    far, near = ((x - states).norm(dim=2)[0] for x in (shortest, steered))
    assert (near[enough] < far[enough]).all()
