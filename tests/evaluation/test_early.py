"""Tokens of CTC heads against the first sound of the speech."""

import numpy as np
import pytest
import torch

from echostream_plugin.evaluation.early import Early, earliness, heads_of, measure, onset_ms, summary
from tests.tiny_bundle import speechlike, tiny_bundle


def test_the_speech_begins_with_its_first_loud_moment():
    samples = np.concatenate([1e-4 * np.ones(4800), 0.2 * np.sin(np.arange(8000))]).astype(np.float32)
    assert onset_ms(samples) == 300.0
    assert onset_ms(np.zeros(16000, np.float32)) == onset_ms(np.zeros(3, np.float32)) == 0.0


@pytest.mark.parametrize("starts, onset, wanted", [
    ([0, 2, 9], 200.0, Early(3, 2, 200.0)), ([6, 8, 9, 20], 200.0, Early(4, 2, -40.0)), ([], 200.0, Early(0, 0, None)),
])  # fmt: skip
def test_tokens_before_and_in_the_first_frames_are_counted(starts, onset, wanted):
    assert earliness(starts, onset) == wanted


def test_rows_for_every_segment_and_head():
    bundle, recordings = tiny_bundle(), [speechlike(1.5, seed=seed) for seed in range(2)]
    rows = measure(bundle, recordings, {"320 ms": 8, "whole": 0})
    assert [(row["segment"], row["head"]) for row in rows] == [
        ("320 ms", "asr"), ("320 ms", "st"), ("whole", "asr"), ("whole", "st"),
    ]  # fmt: skip
    with torch.no_grad():
        bundle.model.source_unigram_decoder.proj.bias[0] += 1000
    assert heads_of(bundle, recordings[0])["asr"] == [] and heads_of(bundle, np.zeros(10, np.float32))["st"] == []
    assert summary([Early(4, 2, 40.0), Early(2, 0, -80.0), Early(0, 0, None)]) == {
        "recordings": 3, "tokens": 2.0, "first": 2 / 3, "lead_ms": -20.0, "before": 50.0,
    }  # fmt: skip
