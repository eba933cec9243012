"""Forced alignment of a padded batch is torchaudio's of each utterance; tokens fall into the chunk of their end."""

import pytest
import torch
import torchaudio

from echostream_plugin.constants import PAD
from echostream_plugin.decoders.speechllm.alignment import chunks_of_tokens, forced_alignment, token_ends


def batch(seed, repeats=False):
    """Log-probabilities [6, S, 12] with lengths, and targets; with repeats there are equal tokens in a row."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([40, 23, 9, 31, 1, 12])
    counts = [9, 11, 3, 1, 1, 0]
    log_probs = (3 * torch.randn(6, 40, 12, generator=generator)).log_softmax(-1)
    targets = torch.full((6, 11), PAD)
    for i, count in enumerate(counts):
        targets[i, :count] = torch.randint(4, 6 if repeats else 12, (count,), generator=generator)
    return log_probs, lengths, targets


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_torchaudios(seed, repeats):
    log_probs, lengths, targets = batch(seed, repeats)
    path, total = forced_alignment(log_probs, lengths, targets)
    ends = token_ends(log_probs, lengths, targets)
    for i, length in enumerate(lengths.tolist()):
        row = targets[i][targets[i].ne(PAD)]
        if not len(row):
            assert path[i, :length].tolist() == [0] * length
            continue
        labels, scores = torchaudio.functional.forced_align(log_probs[i : i + 1, :length], row[None])
        states = torch.zeros(2 * len(row) + 1, dtype=torch.long)
        states[1::2] = row
        assert torch.equal(states[path[i, :length]], labels[0].long())
        assert float(total[i]) == pytest.approx(float(scores.sum()), abs=1e-3)
        spans = torchaudio.functional.merge_tokens(labels[0], scores[0])
        assert ends[i, : len(row)].tolist() == [span.end - 1 for span in spans]


def test_known_ends():
    """A head that says blank blank A A blank B, then A B B."""
    spoken = torch.tensor([[0, 0, 5, 5, 0, 6], [5, 6, 6, 0, 0, 0]])
    log_probs = torch.nn.functional.one_hot(spoken, 8).float().mul(9).log_softmax(-1)
    lengths, targets = torch.tensor([6, 3]), torch.tensor([[5, 6], [5, 6]])
    ends = token_ends(log_probs, lengths, targets)
    assert ends.tolist() == [[3, 5], [0, 2]]
    assert chunks_of_tokens(ends, lengths, 4).tolist() == [[0, 1], [0, 0]]
    assert chunks_of_tokens(ends, lengths, 3).tolist() == [[1, 1], [0, 0]]  # frame 3 is the first of the second chunk
    assert chunks_of_tokens(ends, lengths, 4, delay_frames=1).tolist() == [[1, 1], [0, 0]]  # never after the last
    assert chunks_of_tokens(ends, lengths, 0).tolist() == [[0, 0], [0, 0]]


def test_a_text_without_a_path_is_spread_evenly():
    log_probs = torch.zeros(2, 8, 9).log_softmax(-1)
    targets = torch.tensor([[4, 5, 6, 7], [4, 4, PAD, PAD]])
    lengths = torch.tensor([3, 2])  # too few frames; too few for two equal tokens
    assert forced_alignment(log_probs, lengths, targets)[1].tolist() == [-torch.inf] * 2
    assert token_ends(log_probs, lengths, targets)[:, :2].tolist() == [[0, 0], [0, 1]]
    assert token_ends(log_probs, lengths, targets)[0].tolist() == [0, 0, 1, 2]


def test_an_utterance_without_frames_has_no_path():
    targets = torch.tensor([[4, 5], [4, PAD], [PAD, PAD]])
    log_probs, lengths = torch.zeros(3, 6, 9).log_softmax(-1), torch.tensor([6, 0, 0])
    assert forced_alignment(log_probs, lengths, targets)[1].isfinite().tolist() == [True, False, True]
    assert token_ends(log_probs, lengths, targets)[1].tolist() == [0, 0]
    path, total = forced_alignment(log_probs[:, :0], 0 * lengths, targets)
    assert path.shape == (3, 0) and total.isfinite().tolist() == [False, False, True]
    assert token_ends(log_probs[:, :0], 0 * lengths, targets).tolist() == [[0, 0]] * 3


def test_no_gradient_flows():
    log_probs = torch.randn(1, 5, 9, requires_grad=True)
    assert not token_ends(log_probs.log_softmax(-1), torch.tensor([5]), torch.tensor([[4, 5]])).requires_grad
