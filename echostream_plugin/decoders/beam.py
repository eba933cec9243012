"""Beam search in the MT decoder, for source that is all there."""

from dataclasses import replace

import torch
from torch import Tensor

from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.base import StreamingDecoder
from echostream_plugin.modules.streaming import StreamState


@torch.inference_mode()
def beam_search(
    decoder: StreamingDecoder, source: Tensor, beam: int = 5, max_tokens: int = 100, length_penalty: float = 1.0
) -> list[int]:
    """The best of `beam` finished hypotheses by log-probability / length ** length_penalty, as fairseq's generator: at
    least one token, at most max_tokens, without `</s>`, which counts for the length.

    source: [1, S, encoder_dim] encoder frames."""
    state = decoder.add_source(source.expand(beam, -1, -1), decoder.initial_state(beam))
    inputs = torch.full((beam, 1), EOS, device=source.device)
    scores = torch.full((beam,), -torch.inf, device=source.device)
    scores[0] = 0.0  # the other rows are copies of the first
    rows, finished = [[] for _ in range(beam)], []
    for length in range(1, max_tokens + 2):
        hidden, state = decoder.step(inputs, state)
        totals = scores[:, None] + _allowed(decoder.logits(hidden)[:, -1], length, max_tokens)
        open_rows = []
        for rank, (score, row, token) in enumerate(_best(totals, 2 * beam)):
            if token == EOS and rank < beam:
                finished.append((score / length**length_penalty, rows[row]))
            elif token != EOS and len(open_rows) < beam:
                open_rows.append((score, row, token))
        if len(finished) >= beam or not open_rows:
            break
        open_rows += [(-torch.inf, *open_rows[0][1:])] * (beam - len(open_rows))
        scores = torch.tensor([score for score, _, _ in open_rows], device=source.device)
        rows = [[*rows[row], token] for _, row, token in open_rows]
        inputs = torch.tensor([[token] for _, _, token in open_rows], device=source.device)
        state = _reordered(state, torch.tensor([row for _, row, _ in open_rows], device=source.device))
    return max(finished, key=lambda found: found[0])[1]


def _allowed(logits: Tensor, length: int, max_tokens: int) -> Tensor:
    """Log-probabilities [beam, V] of the next token; -inf for what may not come at this length."""
    logits[:, PAD] = -torch.inf
    scores = logits.float().log_softmax(dim=-1)
    if length == 1:
        scores[:, EOS] = -torch.inf
    if length > max_tokens:
        scores[:, torch.arange(scores.size(1), device=scores.device) != EOS] = -torch.inf
    return scores


def _best(totals: Tensor, count: int) -> list:
    """(score, row, token) of the best ones of [beam, V], the best first."""
    values, places = totals.flatten().topk(min(count, totals.numel()))
    found = zip(values.tolist(), places.tolist(), strict=True)
    return [(value, *divmod(place, totals.size(1))) for value, place in found if value > -torch.inf]


def _reordered(state: StreamState, rows: Tensor) -> StreamState:
    """Each row goes on from one of the rows before; all have the same source."""
    return replace(replace(state, source=()).rows(rows), source=state.source)
