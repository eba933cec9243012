"""Causal subsampling by 4: lengths, causality, and steps of any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.modules.subsampling import CausalSubsampling

torch.manual_seed(0)
SUBSAMPLING = CausalSubsampling(input_dim=10, channels=3, dim=8).eval()


@pytest.mark.parametrize("frames", (0, 1, 2, 3, 4, 5, 8, 9, 30, 31, 33))
def test_length_is_a_quarter_rounded_up(frames):
    out = SUBSAMPLING(torch.randn(2, frames, 10))
    assert out.shape == (2, -(-frames // 4), 8) == (2, SUBSAMPLING.output_lengths(frames), 8)
    assert SUBSAMPLING.output_lengths(torch.tensor([frames])).tolist() == [out.size(1)]


def test_frame_t_sees_features_up_to_4t():
    x = torch.randn(1, 41, 10)
    expected = SUBSAMPLING(x)
    for t in range(11):
        future = x.clone()
        future[:, 4 * t + 1 :] = 9.0
        out = SUBSAMPLING(future)
        torch.testing.assert_close(out[:, : t + 1], expected[:, : t + 1], atol=1e-6, rtol=0)
        future[:, 4 * t] = 9.0
        assert (SUBSAMPLING(future)[:, t] - expected[:, t]).abs().max() > 1e-4


@settings(max_examples=40)
@given(st.lists(st.integers(0, 13), max_size=12))
def test_steps_of_any_size_equal_the_whole(sizes):
    x = torch.randn(2, sum(sizes), 10)
    state, outputs = SUBSAMPLING.initial_state(2), []
    for part in x.split(sizes, dim=1) if sizes else ():
        out, state = SUBSAMPLING.step(part, state)
        outputs.append(out)
    if outputs:
        torch.testing.assert_close(torch.cat(outputs, dim=1), SUBSAMPLING(x), atol=1e-5, rtol=0)
