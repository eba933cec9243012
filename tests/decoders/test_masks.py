import math
import random

import pytest
import torch

from echostream_plugin.decoders.masks import build_streaming_mask, draw_unit_step, expected_emissions, visible_states

VOCAB = 6


def spikes(frames, total, probability=0.95):
    """Logits that emit a new symbol with this probability at these frames and a blank with certainty elsewhere."""
    probabilities = torch.full((total, VOCAB), 1e-12)
    probabilities[:, 0] = 1.0
    for count, frame in enumerate(frames):
        probabilities[frame, 0] = max(1 - probability, 1e-12)
        probabilities[frame, 4 + count % 2] = probability
    return probabilities.log()[None]


def visible(mask):
    assert (mask == mask.sort(dim=-1).values).all(), "what is visible is a prefix"
    return (~mask).sum(-1).tolist()


def test_expected_emissions_count_new_tokens_only():
    logits = spikes([2, 3, 7], 10, 1.0)
    logits[0, 4] = logits[0, 3]  # the token at frame 3 goes on in frame 4
    expected = torch.zeros(10)
    expected[[2, 3, 7]] = 1.0
    torch.testing.assert_close(expected_emissions(logits)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "probability, source_words, expected",
    [
        (1.0, [5, 12, 20, 33], [8, 16, 24, 40, 43]),
        (0.95, [5, 12, 20, 33], [16, 24, 40, 43, 43]),  # a sum just short of 1 waits for the next token
        (1.0, [3, 17, 18, 30, 41], [24, 24, 32, 43, 43]),  # enough target waits for the next source word
    ],
)
def test_a_position_waits_for_the_target_and_then_for_a_source_word(probability, source_words, expected):
    st, asr = spikes([5, 12, 20, 33], 43, probability), spikes(source_words, 43, 1.0)
    assert visible(build_streaming_mask(asr, st, None, 5, chunk=8))[0] == expected


def test_waits_and_steps_shift_what_is_seen():
    st = asr = spikes([3, 11, 19, 27, 35], 40, 1.0)
    at = {(0, 1): [8, 16, 24, 32, 40], (1, 1): [16, 24, 32, 40, 40], (0, 2): [16, 16, 32, 32, 40]}
    for (k1, n1), expected in at.items():
        assert visible(build_streaming_mask(asr, st, None, 5, k1, n1, chunk=8))[0] == expected


def test_everything_is_seen_when_the_utterance_arrives_as_a_whole():
    logits = torch.randn(2, 20, VOCAB)
    assert visible(build_streaming_mask(logits, logits, torch.tensor([20, 13]), 3)) == [[20] * 3, [13] * 3]


@pytest.mark.parametrize("chunk", [1, 4, 8])
def test_padded_frames_change_nothing(chunk):
    torch.manual_seed(chunk)
    asr, st = torch.randn(2, 30, VOCAB) * 3, torch.randn(2, 30, VOCAB) * 3
    lengths = torch.tensor([30, 17])
    mask = build_streaming_mask(asr, st, lengths, 25, chunk=chunk)
    alone = build_streaming_mask(asr[1:, :17], st[1:, :17], None, 25, chunk=chunk)
    assert torch.equal(mask[1:, :, :17], alone)
    assert mask[1, :, 17:].all(), "padding is never shown"
    assert visible(mask)[1][-1] == 17, "the last position sees the whole utterance"


@pytest.mark.parametrize("wait", [{"k1": -1}, {"n1": 0}, {"chunk": -1}])
def test_impossible_waits_are_refused(wait):
    logits = torch.randn(1, 4, VOCAB)
    with pytest.raises(ValueError, match="k1 >= 0, n1 >= 1 and chunk >= 0"):
        build_streaming_mask(logits, logits, None, 2, **wait)


def test_no_gradient_and_no_hidden_draw():
    logits = torch.randn(1, 9, VOCAB, requires_grad=True)
    before = random.getstate(), torch.get_rng_state()
    assert not build_streaming_mask(logits, logits, None, 2, chunk=4).requires_grad
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_unit_step_is_drawn_from_the_generator_given():
    def draws():
        generator = torch.Generator().manual_seed(7)
        return [draw_unit_step(-1, 3, generator) for _ in range(50)]

    assert draws() == draws()
    assert set(draws()) == {1, 2, 3, 4}
    assert draw_unit_step(2, 3, torch.Generator()) == 2


@pytest.mark.parametrize(
    "k2, n2, expected",
    [(0, 1, [1, 2, 3, 4, 5]), (2, 1, [3, 4, 5, 5, 5]), (0, 2, [2, 2, 4, 4, 5]), (1, 3, [4, 4, 4, 5, 5])],
)
def test_visible_states(k2, n2, expected):
    assert visible_states(0, 5, 5, k2, n2).tolist() == expected
    assert visible_states(2, 3, 5, k2, n2).tolist() == expected[2:]
    assert visible_states(0, 5, 5, k2, None).tolist() == [5] * 5


def test_expected_emissions_lie_between_zero_and_one():
    values = expected_emissions(torch.randn(2, 50, VOCAB, dtype=torch.float16) * 4)
    assert values.dtype == torch.float32 and values.min() > -1e-5 and values.max() < 1 + 1e-5
    assert math.isfinite(values.sum())
