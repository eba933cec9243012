"""Scores of a run: a collapsed model is told, silence is counted, offline goes on where it stopped."""

import pytest

from echostream_plugin.evaluation.latency import SpeechInstance
from echostream_plugin.evaluation.scores import collapsed, score_run
from echostream_plugin.evaluation.simul import Utterance

REFERENCES = [f"sentence number {n} of the test" for n in ("one", "two", "three", "four", "five", "six")]


def utterances(texts):
    return [
        Utterance(
            index,
            SpeechInstance(index, 2000.0, (640.0,) if text else (), (500.0,) if text else (), REFERENCES[index]),
            [(640.0, f" fuente {index}")],
            [(640.0, text)] if text else [],
            [(640.0, 20.0), (2000.0, 20.0)],
        )
        for index, text in enumerate(texts)
    ]


class EchoASR:
    """Writes exactly what was to be said."""

    def __init__(self, texts):
        self.texts = texts

    def transcribe_all(self, paths, cache=None, progress=None):
        return self.texts


def test_a_perfect_run_scores_100_and_is_not_collapsed():
    runs = utterances(REFERENCES)
    row = score_run(runs, REFERENCES, EchoASR(REFERENCES), sources=[f"fuente {n}" for n in range(6)])
    assert row["asr_bleu"] == pytest.approx(100) and row["text_bleu"] == pytest.approx(100)
    assert row["asr_wer"] == row["speech_wer"] == 0 and row["distinct"] == 6 and not row["collapsed"]
    assert row["AL_CA"] == pytest.approx(row["AL"] + 20) and row["compute_RTF"] == pytest.approx(0.02)


@pytest.mark.parametrize("text", ["the same words", ""])
def test_a_collapsed_model_is_told(text):
    row = score_run(utterances([text] * 6), REFERENCES)
    assert row["collapsed"] and row["distinct"] == 1 and row["silent"] == (0 if text else 6)


def test_repeated_references_are_no_collapse():
    assert not collapsed(["yes", "yes", "yes", "yes", "no"], ["yes", "yes", "yes", "yes", "no"])
    assert not collapsed(["a"], ["b"])
    assert collapsed(["Yes."] * 40, [f"reference {n}" for n in range(40)])


def test_without_references_there_is_no_bleu():
    row = score_run(utterances(REFERENCES), [""] * 6)
    assert "text_bleu" not in row and "AL" in row
