import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import CTCHeadConfig
from echostream_plugin.decoders import ctc
from echostream_plugin.decoders.ctc import (
    CollapseState,
    CTCHead,
    CTCState,
    collapse_step,
    greedy_collapse,
    greedy_collapse_batch,
)

FRAMES = 23


def head(layers, left=5):
    torch.manual_seed(layers)
    config = CTCHeadConfig(vocab=11, dim=8, layers=layers, heads=2, ffn_dim=16, left_context_frames=left)
    return CTCHead(config).eval()


def stream(model, x, cuts):
    state, out = model.initial_state(x.size(0)), []
    for first, last in zip([0, *cuts], [*cuts, x.size(1)], strict=True):
        logits, state = model.step(x[:, first:last], state)
        out.append(logits)
    return torch.cat(out, 1), state


@pytest.mark.parametrize("layers, left", [(0, 5), (1, 5), (2, 5), (2, 0), (2, 64)])
@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, FRAMES), max_size=6).map(sorted))
def test_streaming_equals_forward_for_any_cutting(layers, left, cuts):
    model, x = head(layers, left), torch.randn(2, FRAMES, 8)
    with torch.no_grad():
        out, _ = stream(model, x, cuts)
        torch.testing.assert_close(out, model(x), atol=1e-5, rtol=0)


def test_forward_in_blocks_equals_forward_at_once(monkeypatch):
    model, x = head(2), torch.randn(2, FRAMES, 8)
    whole = model(x)
    monkeypatch.setattr(ctc, "BLOCK_FRAMES", 4)
    torch.testing.assert_close(model(x), whole, atol=1e-5, rtol=0)


def test_a_frame_sees_its_left_context_and_nothing_else():
    model, x = head(1, left=5), torch.randn(1, FRAMES, 8, requires_grad=True)
    model(x)[0, 12].sum().backward()
    reached = x.grad[0].abs().sum(1).nonzero()[:, 0].tolist()
    assert reached == list(range(7, 13))


def test_state_has_one_size_and_streams_of_different_ages_stack():
    model, x = head(2), torch.randn(2, FRAMES, 8)
    with torch.no_grad():
        _, young = stream(model, x[:1, :3], [])
        _, old = stream(model, x[1:], [4])
        assert young.nbytes == old.nbytes == model.initial_state(1).nbytes
        new = torch.randn(2, 4, 8)
        both, _ = model.step(new, CTCState.stack([young, old]))
        for i, state in enumerate((young, old)):
            torch.testing.assert_close(both[i : i + 1], model.step(new[i : i + 1], state)[0], atol=1e-5, rtol=0)


def test_padding_on_the_right_changes_nothing():
    model, x = head(2), torch.randn(1, FRAMES, 8)
    padded = torch.cat((x, torch.full((1, 9, 8), 7.0)), 1)
    out = model(padded, torch.tensor([FRAMES]))[:, :FRAMES]
    torch.testing.assert_close(out, model(x), atol=1e-5, rtol=0)


def one_hot(symbols, vocab=8):
    return torch.nn.functional.one_hot(torch.tensor(symbols, dtype=torch.long), vocab).float()


@pytest.mark.parametrize(
    "symbols, blank, tokens, frames",
    [
        ([], 0, [], []),
        ([0, 0, 0], 0, [], []),
        ([4, 4, 4], 0, [4], [0]),
        ([0, 4, 4, 0, 4, 5, 5, 0], 0, [4, 4, 5], [1, 4, 5]),
        ([4, 5, 4, 4], 0, [4, 5, 4], [0, 1, 2]),
        ([7, 0, 0, 7, 4], 7, [0, 4], [1, 4]),
        ([7, 6, 7, 4], -1, [6, 4], [1, 3]),
    ],
)
def test_greedy_collapse_drops_repetitions_and_blanks(symbols, blank, tokens, frames):
    assert greedy_collapse(one_hot(symbols).view(-1, 8), blank) == (tokens, frames)


def test_forbidden_symbols_are_never_chosen():
    logits = one_hot([1, 3, 2])
    logits[:, 5] = 0.5
    assert greedy_collapse(logits)[0] == [5, 2]
    assert greedy_collapse(logits, forbidden=(1, 2, 3))[0] == [5]
    assert greedy_collapse(logits, forbidden=())[0] == [1, 3, 2]


@given(symbols=st.lists(st.sampled_from([0, 4, 5]), max_size=20), cut=st.integers(0, 20))
@settings(max_examples=30)
def test_collapsing_as_frames_arrive_equals_collapsing_at_once(symbols, cut):
    logits, state, tokens, frames = one_hot(symbols).view(-1, 8), CollapseState.initial(), [], []
    for part in (logits[:cut], logits[cut:]):
        new_tokens, new_frames, state = collapse_step(part, state)
        tokens, frames = tokens + new_tokens, frames + new_frames
    assert (tokens, frames) == greedy_collapse(logits)


def test_collapse_of_a_batch_stops_at_each_length():
    logits = torch.stack((one_hot([4, 4, 5, 6]), one_hot([5, 0, 5, 6])))
    assert greedy_collapse_batch(logits, torch.tensor([4, 2])) == [([4, 5, 6], [0, 2, 3]), ([5], [0])]
    assert greedy_collapse_batch(logits)[1] == ([5, 5, 6], [0, 2, 3])


def test_collapse_names_the_shape_it_wants():
    with pytest.raises(ValueError, match=r"\[frames, symbols\] of one stream, got \[1, 2, 8\]"):
        greedy_collapse(torch.zeros(1, 2, 8))
