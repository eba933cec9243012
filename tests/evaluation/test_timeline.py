"""The timeline picture: made for any utterance, silent ones too, and its labels do not overlap."""

from types import SimpleNamespace

import numpy as np
import pytest

from echostream_plugin.evaluation.latency import SpeechInstance
from echostream_plugin.evaluation.timeline import _inches, _labels, _rows, draw_timeline

WORDS = [(320, "buenos"), (640, " días"), (640, " señor"), (960, " una"), (960, " mesa"), (3000, " por favor")]


def utterance(pieces, delays=(), durations=()):
    speech = SpeechInstance(0, 3000.0, delays, durations, reference="good morning", source="folder/name.wav")
    return SimpleNamespace(source_ms=3000.0, transcript=pieces, translation=pieces, speech=speech)


@pytest.mark.parametrize("delays, durations, samples", [((640.0, 3000.0), (500.0, 900.0), 60000), ((), (), 0)])
def test_a_picture_is_made(tmp_path, delays, durations, samples):
    from PIL import Image

    pieces = WORDS if samples else []
    source, translated = np.sin(np.arange(48000) / 20), np.ones(samples, np.float32)
    path = draw_timeline(utterance(pieces, delays, durations), tmp_path / "t.png", source, translated, asr_text="good")
    width, height = Image.open(path).size
    assert width >= 1000 and height >= 300
    assert [p.name for p in tmp_path.iterdir()] == ["t.png"]


def test_labels_of_a_row_do_not_touch():
    labels = _labels(WORDS)
    assert labels == [(0.32, "buenos"), (0.64, "días señor"), (0.96, "una mesa"), (3.0, "por favor")]
    rows = _rows(labels, seconds=4.0, width=10.0)
    per_inch = 4.0 / (10.0 - 1.35)
    for row in set(rows):
        labels_of_row = [label for label, its_row in zip(labels, rows, strict=True) if its_row == row]
        spans = [(time, time + _inches(text) * per_inch) for time, text in labels_of_row]
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
