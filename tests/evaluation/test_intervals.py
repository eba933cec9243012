"""Corpus scores of drawn utterances, their intervals, and texts cut where the references end."""

import numpy as np
import pytest

from echostream_plugin.evaluation.intervals import CorpusBleu, CorpusChrf, CorpusWer, bootstrap, mean, share
from echostream_plugin.evaluation.scores import bleu, wer
from echostream_plugin.evaluation.voices import divided

REFERENCES = [
    "where is the station", "i would like 2 coffees please", "the hotel is closed today", "it costs 15 euros",
    "my sister lives in a big house", "good morning", "the train leaves at half past 3", "do you have a room",
    "i do not understand", "the doctor comes at nine", "",
]  # fmt: skip
HYPOTHESES = [
    "where is the station", "I would like two coffees", "the hotel is open today", "it cost fifteen euros",
    "my brother lives in a house", "good", "the train leaves at three thirty", "", "i do understand",
    "the doctor comes at nine", "extra words",
]  # fmt: skip


def test_scores_of_a_selection_are_the_corpus_scores_of_it():
    import sacrebleu

    chosen = np.array([0, 2, 2, 4, 6, 1, 9, 3, 3, 5, 10])
    texts = ([HYPOTHESES[i] for i in chosen], [REFERENCES[i] for i in chosen])
    assert CorpusBleu(HYPOTHESES, REFERENCES)(chosen) == pytest.approx(bleu(*texts))
    assert CorpusWer(HYPOTHESES, REFERENCES)(chosen) == pytest.approx(wer(*texts))
    plain = ["my brother lives", "the hotel"], ["my sister lives", "a hotel"]
    score = sacrebleu.CHRF().corpus_score(plain[0], [plain[1]]).score
    assert CorpusChrf(*plain)(np.arange(2)) == pytest.approx(score)
    assert CorpusWer(HYPOTHESES, REFERENCES).errors(2) == 1


def test_a_bootstrap_interval_holds_what_it_should():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    interval = bootstrap(400, mean(values))
    assert interval.value == pytest.approx(values.mean()) and interval == bootstrap(400, mean(values))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.15)
    same = bootstrap(400, lambda drawn: mean(values)(drawn) - mean(values + 1)(drawn))
    assert (same.value, same.low, same.high) == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize("found, of, low, high", [(0, 100, 0.0, 3.7), (5, 100, 2.15, 11.18), (100, 100, 96.3, 100.0)])
def test_a_share_has_wilsons_interval(found, of, low, high):
    interval = share(found, of)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.01) and interval.value == 100 * found / of
    assert share(0, 0).high == 100.0


@pytest.mark.parametrize("text, parts", [
    ("a b c d e f", ["a b", "c d e", "f"]), ("a b x c d e f", ["a b x", "c d e", "f"]), ("a b f", ["a b", "", "f"]),
    ("a c d q", ["a", "c d", "q"]), ("", ["", "", ""]), ("z", ["", "", "z"]),
    ("a b c d e f g h", ["a b", "c d e", "f g h"]),
])  # fmt: skip
def test_a_text_is_cut_where_the_references_end(text, parts):
    found = divided(text, ["a b", "c d e", "f"])
    assert " ".join(filter(None, found)) == text and len(found) == 3
    if text not in ("z", "a c d q"):  # there several cuts have the same distance
        assert found == parts
