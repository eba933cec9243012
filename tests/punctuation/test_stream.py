"""The stream equals the parallel form for any cutting, and what it said stays said."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import ConfigError
from echostream_plugin.punctuation import MARKS, PunctuationStream, Punctuator, PunctuatorConfig
from echostream_plugin.punctuation.model import LONGEST_WORD, _word_row, word_rows
from echostream_plugin.punctuation.stream import LONGEST_SENTENCE

CONFIG = PunctuatorConfig(buckets=211, dim=16, layers=3, heads=2, ffn_dim=24, left_words=6, right_words=9, kernel=4)
DELAYS = (0, 1, 2, 4, 9)
VOCABULARY = [f"w{n}" for n in range(40)]


def new_model(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    model = Punctuator(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.words.weight)  # so that words differ as they do after training
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


MODEL = new_model()


def words_of(seed, count):
    return list(np.random.default_rng(seed).choice(VOCABULARY, size=count))


def parallel(words, delay, model=MODEL, language=0):
    rows = word_rows(words, model.config.buckets).unsqueeze(0)
    with torch.inference_mode():
        marks, cases = model(rows, torch.tensor([language]), torch.tensor([len(words)]), delay)
    return torch.cat([marks[0], cases[0]], 1)


def cut(words, sizes):
    place = 0
    while place < len(words):
        size = sizes[place % len(sizes)]
        yield words[place : place + size]
        place += size


@settings(max_examples=60)
@given(st.integers(1, 40), st.sampled_from(DELAYS), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_incremental_equals_parallel_for_any_cutting(count, delay, sizes):
    words, state, found = words_of(count, count), MODEL.initial_state(), []
    with torch.inference_mode():
        for piece in cut(words, sizes):
            marks, cases, state = MODEL.step(piece, 0, state, delay)
            found.append(torch.cat([marks, cases], 1))
        marks, cases, state = MODEL.decide_pending(state)
    found = torch.cat([*found, torch.cat([marks, cases], 1)])
    assert found.shape == (count, 7)
    torch.testing.assert_close(found, parallel(words, delay), atol=1e-5, rtol=0)


@pytest.mark.parametrize("delay", DELAYS)
def test_a_word_beyond_the_delay_changes_nothing_and_the_last_one_within_does(delay):
    words = words_of(3, 30)
    before = parallel(words, delay)
    for place in (0, 11, 29 - delay - 1):
        changed = words[: place + delay + 1] + ["other"] * (len(words) - place - delay - 1)
        assert torch.equal(parallel(changed, delay)[: place + 1], before[: place + 1])
        if delay:
            changed = words[: place + delay] + ["other"] + words[place + delay + 1 :]
            assert not torch.equal(parallel(changed, delay)[place], before[place])


def test_padding_changes_nothing():
    long, short = words_of(5, 20), words_of(6, 7)
    rows = torch.zeros(2, 20, word_rows(["a"], CONFIG.buckets).size(1), dtype=torch.long)
    rows[0], rows[1, :7] = word_rows(long, CONFIG.buckets), word_rows(short, CONFIG.buckets)
    with torch.inference_mode():
        marks, _ = MODEL(rows, torch.tensor([0, 1]), torch.tensor([20, 7]), 4)
    torch.testing.assert_close(marks[1, :7], parallel(short, 4, language=1)[:, :4], atol=1e-5, rtol=0)


def run(words, sizes, delay, pauses=()):
    """What a stream says, and after which word each was said."""
    stream, said, place = PunctuationStream(MODEL, "en", delay), [], 0
    for piece in cut(words, sizes):
        said += stream.push(piece)
        place += len(piece)
        if place in pauses:
            said += stream.pause()
    return said + stream.finish()


def test_committed_marks_of_random_streams_never_change():
    """What is said after a prefix is what is said at that place of the whole text, whatever comes later."""
    random = np.random.default_rng(0)
    for _ in range(200):
        delay, words = int(random.choice(DELAYS)), words_of(int(random.integers(1 << 30)), int(random.integers(2, 26)))
        stream, said = PunctuationStream(MODEL, "en", delay), []
        whole = parallel(words, delay)[:, :4].argmax(1)
        for piece in cut(words, list(random.integers(1, 9, size=3))):
            said += stream.push(piece)
            assert len(said) == max(0, len(said) + len(stream.pending) - delay)
        for place, word in enumerate(said):
            assert word.word == words[place] and word.mark == MARKS[whole[place]], (delay, words)
        said += stream.finish()
        assert [word.word for word in said] == words
        assert said[-1].ends or not delay  # without a delay the last word was said before its text ended


@settings(max_examples=30)
@given(st.integers(2, 30), st.sampled_from(DELAYS), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_what_is_said_does_not_depend_on_the_cutting(count, delay, sizes):
    words = words_of(count, count)
    assert run(words, sizes, delay) == run(words, [1], delay)


def test_the_newest_words_are_withheld_until_delay_pause_or_end():
    stream = PunctuationStream(MODEL, "en", 4)
    assert stream.push(["a", "b", "c", "d"]) == [] and stream.pending == ("a", "b", "c", "d")
    assert [word.word for word in stream.push(["e"])] == ["a"]
    assert [word.word for word in stream.pause()] == ["b", "c", "d", "e"] and stream.pending == ()
    assert stream.pause() == [] and [word.word for word in stream.push(["f"])] == []
    last = stream.finish()
    assert [word.word for word in last] == ["f"] and last[0].ends
    assert stream.finish() == [] and stream.push([]) == []


def test_after_the_end_the_next_text_is_as_in_a_new_stream():
    stream = PunctuationStream(MODEL, "en", 2)
    first = stream.push(words_of(1, 9)) + stream.finish()
    again = stream.push(words_of(1, 9)) + stream.finish()
    assert first == again and again[0].starts


class Never:
    """A model of which no word ever ends a sentence; a comma every seventh word."""

    def __init__(self, model):
        self.model, self.config, self.count = model, model.config, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def step(self, words, language, state, delay):
        marks, cases, state = self.model.step(words, language, state, delay)
        return self._flat(marks), cases, state

    def decide_pending(self, state):
        marks, cases, state = self.model.decide_pending(state)
        return self._flat(marks), cases, state

    def _flat(self, marks):
        marks = torch.tensor([[5.0, 0.0, -1.0, -2.0]]).repeat(len(marks), 1)
        for row in marks:
            self.count += 1
            if self.commas and self.count % 7 == 0:
                row[1] = 6.0
        return marks


@pytest.mark.parametrize("commas, ends", [(True, [63, 126, 189]), (False, [120, 240])])
def test_an_endless_sentence_is_cut_at_a_comma_or_at_twice_the_length(commas, ends):
    assert LONGEST_SENTENCE == 60
    model = Never(MODEL)
    model.commas = commas
    stream, said = PunctuationStream(model, "en", 2), []
    for word in words_of(2, 250):
        said += stream.push([word])
    assert [place for place, word in enumerate(said, 1) if word.ends] == ends
    assert said[ends[0]].starts and not said[ends[0] - 1].starts


def test_memory_of_twenty_thousand_words_without_an_end_is_that_of_five_hundred():
    state, words = MODEL.initial_state(), words_of(8, 500)
    with torch.inference_mode():
        for round in range(40):
            _, _, state = MODEL.step(words, 0, state, 9)
            if round == 0:
                first = state.nbytes
    held = sum(tensor.untyped_storage().nbytes() for tensor in (*state.keys, *state.values, state.pending))
    assert state.nbytes == first and held == first


def test_streams_share_a_model_in_threads():
    from concurrent.futures import ThreadPoolExecutor

    texts = [words_of(seed, 60) for seed in range(8)]
    alone = [run(words, [3], 4) for words in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda words: run(words, [3], 4), texts)) == alone


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda: PunctuationStream(MODEL, "fr"), "knows en, es, not 'fr'"),
        (lambda: PunctuationStream(MODEL, "en", 10), "delay 10: use 0 to 9"),
        (lambda: PunctuationStream(MODEL, "en", -1), "delay -1"),
        (lambda: PunctuationStream(MODEL, "en", 2.0), "delay 2.0"),
        (lambda: PunctuationStream(MODEL, "en").push(["two words"]), "words without spaces"),
        (lambda: PunctuationStream(MODEL, "en").push([""]), "words without spaces"),
        (lambda: PunctuatorConfig(layers=0), "layers must be a whole number"),
        (lambda: PunctuatorConfig(dim=30), "dim 30 must be divisible"),
        (lambda: PunctuatorConfig(right_words=-1), "right_words"),
        (lambda: PunctuatorConfig(kernel=60), "kernel 60 needs left_words"),
        (lambda: PunctuatorConfig(languages=()), "languages"),
        (lambda: PunctuatorConfig(languages=("es", "es")), "languages must differ"),
        (lambda: PunctuatorConfig(buckets=1), "buckets must be a whole number of at least 2"),
    ],
)
def test_what_cannot_be_is_refused_by_name(call, why):
    with pytest.raises(ConfigError, match=why):
        call()


def test_what_is_kept_of_words_is_bounded_however_long_and_different_they_are():
    words = ["x" * 100_000 + f"{n}y" * 1000 for n in range(20)]
    rows = word_rows(words, CONFIG.buckets)
    assert rows.shape == (20, 16) and torch.equal(rows[1], word_rows(words[1:2], CONFIG.buckets)[0])
    assert _word_row.cache_info().maxsize <= 1 << 14
    _word_row.cache_clear()
    honest = "ab" * (LONGEST_WORD // 2)
    assert not torch.equal(word_rows([honest], 8192), word_rows([honest + "c"], 8192))
    assert _word_row.cache_info().currsize == 2
    stream = PunctuationStream(MODEL, "en", 0)
    assert stream.push(words[:1])[0].word == words[0]


@pytest.mark.parametrize(
    "word", ["3.50", "o'clock", "10:30", "ñandú", "привет", "你好吗", "\u0301", "🙂", "\ufeff", "x" * 5000]
)
def test_a_word_of_any_letters_is_a_word(word):
    stream = PunctuationStream(MODEL, "en", 1)
    said = stream.push([word, word]) + stream.finish()
    assert [one.word for one in said] == [word, word] and said[-1].ends
