"""Scores of marks by hand, baselines on texts of one line, and streams whose marks would change."""

import numpy as np
import pytest
import torch

from echostream_plugin.data.punctuated import labelled
from echostream_plugin.evaluation import marks
from echostream_plugin.punctuation import MARKS, PunctuationStream, Punctuator, PunctuatorConfig, model

CONFIG = PunctuatorConfig(buckets=211, dim=16, layers=3, heads=2, ffn_dim=24, left_words=6, right_words=9, kernel=4)


def new_model(**changes):
    torch.manual_seed(1)
    made = Punctuator(PunctuatorConfig(**{**CONFIG.__dict__, **changes})).eval().requires_grad_(False)
    torch.nn.init.normal_(made.words.weight)
    return made


def words_of(count):
    return [f"w{n}" for n in np.random.default_rng(4).integers(0, 60, size=count)]


def test_scores_by_hand():
    given, found = np.array([0, 1, 2, 3, 0, 2]), np.array([0, 1, 2, 2, 3, 0])
    comma, period, question = (marks.score(given, found, (number,)) for number in (1, 2, 3))
    assert (comma.precision, comma.recall, comma.f1, comma.count) == (100, 100, 100, 1)
    assert (period.precision, period.recall, period.f1, period.count) == pytest.approx((50, 50, 50, 2))
    assert (question.precision, question.recall, question.f1) == (0, 0, 0)
    end = marks.score(given, found, marks.ENDS)  # of three ends two are found, and one more where none is
    assert end.f1 == pytest.approx(200 / 3) and end.within == 0  # one block: nothing to resample
    assert marks.false_ends(given, found) == pytest.approx(100 / 6)


def test_the_interval_is_that_of_resampled_blocks():
    given = np.tile([0, 2], 50 * 40)
    assert marks.score(given, given, (2,)).within == 0
    half = np.where(np.arange(len(given)) % 200 < 100, given, 0)  # every other block has none
    assert marks.score(given, half, (2,)).f1 == pytest.approx(200 / 3)
    assert 5 < marks.score(given, half, (2,)).within < 20


def test_baselines():
    text = labelled(["Good day, sir. How are you?", "Good day. How are they?"])
    rule = marks.Bigrams([text])
    found = rule("good day sir how are you how are they how do".split())
    assert "".join(MARKS[n] or "_" for n in found) == "_,.__?__?__"
    assert marks.sentence_words(text) == round(11 / 4) and marks.periodic(["a"] * 7, 3).tolist() == [
        0,
        0,
        2,
        0,
        0,
        2,
        0,
    ]


def test_the_parallel_form_in_windows_is_that_of_the_whole(monkeypatch):
    made, words = new_model(), words_of(90)
    whole = marks.marks_of(made, "en", words, 4)
    monkeypatch.setattr(marks, "WINDOW", 20)
    assert marks.marks_of(made, "en", words, 4).tolist() == whole.tolist() and len(set(whole.tolist())) > 1


def test_no_mark_of_a_stream_changes_and_one_that_would_is_counted(monkeypatch):
    made, words = new_model(), words_of(400)
    assert marks.changed_marks(made, words, 40, seed=1) == 0
    honest = model.band
    monkeypatch.setattr(model, "band", lambda first, count, keys, left, ahead, device: honest(
        first, count, keys, left, ahead + 2, device))  # fmt: skip
    assert marks.changed_marks(made, words, 40, seed=1) > 0


def test_what_a_stream_holds_does_not_grow(monkeypatch):
    made, words = new_model(), words_of(50)
    sizes = marks.held_bytes(made, words, 400, 4)
    assert len(sizes) == 10 and max(sizes) - min(sizes) < 20  # letters of the undecided words
    monkeypatch.setattr(PunctuationStream, "_mark", lambda self, marks, cases, last=False: [])  # words are never let go
    assert marks.held_bytes(made, words, 400, 4)[-1] > sizes[-1] + 500
