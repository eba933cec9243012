"""What a confidence is made of, by hand, and the gate that it opens and closes."""

import math

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.confidence import (
    AHEAD_TOKENS,
    FEATURES,
    HALF_FRAMES,
    HALF_TOKENS,
    RECENT_TOKENS,
    Gate,
    GateModel,
    Hypotheses,
    Hypothesis,
    agreement,
    features,
    frame_sums,
    language_sums,
    token_sums,
)


def logits_of(*frames):
    """[s, 5] whose softmax is the given probabilities of blank and symbols 2 and 4; 1 and 3 are never chosen."""
    rows = [[math.log(blank), 9.0, math.log(two), 9.0, math.log(four)] for blank, two, four in frames]
    return torch.tensor(rows)


def test_sums_over_frames_are_those_of_the_posteriors():
    frames = (0.8, 0.1, 0.1), (0.2, 0.7, 0.1), (0.05, 0.05, 0.9)
    entropies = [-sum(p * math.log(p) for p in frame) for frame in frames]
    weights = [0.5 ** ((2 - age) / HALF_FRAMES) for age in range(3)]

    def summed(values):
        return sum(weight * value for weight, value in zip(weights, values, strict=True))

    wanted = [summed(v) for v in ([1, 1, 1], [0, 1, 1], [0, 0.7, 0.9], [0.2, 0.3, 0.1], entropies)]
    assert frame_sums(logits_of(*frames)) == pytest.approx(wanted, rel=1e-5)


def test_any_cutting_of_the_frames_gives_the_same_sums():
    logits = 3 * torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    whole = frame_sums(logits)
    for size in (1, 7, 24, 199):
        sums = frame_sums()
        for piece in logits.split(size):
            sums = frame_sums(piece, sums)
        assert sums == pytest.approx(whole, rel=1e-12)
    assert frame_sums(logits[:0], whole) == whole and frame_sums() == [0.0] * 5
    assert frame_sums(logits[-4 * HALF_FRAMES :])[0] == pytest.approx(whole[0], rel=0.2)  # old frames hardly count


def test_the_language_of_the_newest_frames_counts_most_however_they_come():
    frames = torch.randn(200, 6, generator=torch.Generator().manual_seed(2))
    language = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0, 0.25], dtype=torch.double)
    whole = language_sums(frames, language)
    scores = frames.double().numpy() @ language[:6].numpy() + 0.25
    weights = 0.5 ** (np.arange(199, -1, -1) / HALF_FRAMES)
    assert whole == pytest.approx([weights.sum(), weights @ scores])
    for size in (1, 7, 24, 199):
        sums = None
        for piece in frames.split(size):
            sums = language_sums(piece, language, sums)
        assert sums == pytest.approx(whole, rel=1e-12)
    assert language_sums(frames[:0], language, whole) == whole and language_sums(None, language) == [0.0, 0.0]
    place = FEATURES.index("language")
    heard = features(frame_sums(), frame_sums(), token_sums([], []), 1.0, 0, whole)
    assert heard[place] == pytest.approx(weights @ scores / weights.sum())
    assert features(frame_sums(), frame_sums(), token_sums([], []), 1.0, 0)[place] == 0.0


def test_sums_over_tokens_are_of_the_choices():
    scores = [torch.tensor([-math.inf, 0.0, math.log(3.0)]), torch.tensor([0.0, 0.0, 0.0])]
    kept = 0.5 ** (1 / HALF_TOKENS)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    wanted = [kept + 1, kept * math.log(0.75) - math.log(3), kept * entropy + math.log(3)]
    assert token_sums(scores, [2, 0]) == pytest.approx(wanted, rel=1e-6)
    assert token_sums(scores[1:], [0], token_sums(scores[:1], [2])) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("hypothesis, ctc, share", [
    ([], [5, 6], 1.0), ([5, 6], [6, 5, 9], 1.0), ([5, 5], [5, 9], 0.5), ([5, 6, 7, 8], [], 0.0),
    ([1] * 40, [1] * 40, 1.0),
    ([1] * RECENT_TOKENS + [2] * RECENT_TOKENS, [2] * 4 + [1] * 60, 0.0),  # what is far away does not count
    ([2], [1] * (AHEAD_TOKENS + 1) + [2], 0.0),
])  # fmt: skip
def test_agreement_is_of_tokens_near_each_other(hypothesis, ctc, share):
    assert agreement(hypothesis, ctc) == pytest.approx(share)


def test_features_do_not_depend_on_how_long_it_was_quiet():
    """Frames of which a head is sure that they hold nothing change only the rate of tokens."""
    sure = logits_of((0.9998, 0.0001, 0.0001))
    spoken = frame_sums(logits_of((0.3, 0.6, 0.1), (0.1, 0.1, 0.8)))
    longer = frame_sums(sure.repeat(8, 1), spoken)
    few, many = (dict(zip(FEATURES, features(sums, sums, [2.0, -1.0, 0.5], 0.5, 3), strict=True))
                 for sums in (spoken, longer))  # fmt: skip
    for name in ("asr_peak", "st_doubt", "asr_entropy"):
        assert many[name] == pytest.approx(few[name], rel=0.06)
    assert many["asr_rate"] < few["asr_rate"] / 3
    assert (few["mt_logprob"], few["mt_entropy"], few["agreement"]) == (-0.5, 0.25, 0.5)
    assert all(map(math.isfinite, features(frame_sums(), frame_sums(), token_sums([], []), 1.0, 0)))


def test_values_beyond_what_was_seen_count_as_its_ends():
    model = GateModel({"agreement": (10.0, 0.2, 0.8)}, -5.0)
    values = np.zeros((4, len(FEATURES)))
    values[:, FEATURES.index("agreement")] = (-50, 0.2, 0.8, 50)
    confidences = [model(row) for row in values]
    assert confidences[0] == confidences[1] == pytest.approx(1 / (1 + math.exp(3)))
    assert confidences[2] == confidences[3] == pytest.approx(1 / (1 + math.exp(-3)))


@pytest.mark.parametrize("change, message", [
    ({"bias": None}, "as scripts/calibrate_gate.py writes"), ({"weights": {"loudness": [1, 0, 1]}}, "feature loudness"),
    ({"weights": {"agreement": [1, 0]}}, "three finite"), ({"bias": "nan"}, "three finite"),
    ({"weights": 3}, "expected"), ({"language": [1.0, "nan"]}, "three finite"), ({"language": 2}, "expected"),
])  # fmt: skip
def test_a_gate_as_json_is_checked(change, message):
    model = GateModel({name: (0.1, -1.0, 1.0) for name in FEATURES}, 0.3, 0.7, (0.5, -2.0))
    assert GateModel.from_dict(model.to_dict()) == model
    without = GateModel(model.weights, 0.3)
    assert "language" not in without.to_dict() and GateModel.from_dict(without.to_dict()) == without
    with pytest.raises(ConfigError, match=message):
        GateModel.from_dict(model.to_dict() | change)


class Scripted:
    """In place of a `GateModel`: says what it was told to say."""

    keep, language = 0.5, ()

    def __init__(self, *confidences):
        self.confidences = list(confidences)

    def __call__(self, values):
        return self.confidences.pop(0)


def test_a_gate_waits_opens_and_is_lost():
    gate = Gate(Scripted(0.3, 0.8, 0.4, 0.39), 0.8)
    head = Hypothesis([4], frame_sums(logits_of((0.1, 0.1, 0.8))))
    scores = [torch.zeros(8)]

    def ask(frames):
        return gate.allows(Hypotheses(head, head), [], [4], scores, frames)

    assert not ask(5) and not gate.lost and gate.refused and gate.most(99) == RECENT_TOKENS and gate.most(3) == 3
    assert gate._mt == [0.0, 0.0, 0.0]  # nothing was written
    assert ask(9) and not gate.refused and gate.most(99) == 99 and gate._mt[0] == 1
    assert ask(12) and gate.passed_frame == 12 and gate.confidence == 0.4
    assert not ask(15) and gate.lost and gate.refused and gate.passed_frame == 12 and gate.most(9) == 0
    assert not ask(20)  # for good, without being asked
