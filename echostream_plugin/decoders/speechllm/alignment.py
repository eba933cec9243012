"""Which chunk each token of a known text belongs to: the best CTC path through it, for a padded batch at once."""

import torch
from torch import Tensor

from echostream_plugin.constants import BLANK, PAD


@torch.no_grad()
def forced_alignment(log_probs: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable CTC path that spells the targets (Viterbi).

    log_probs: [B, S, V], blank 0; lengths: [B] valid frames; targets: [B, U] right-padded with PAD. Returns the path
    [B, S], for each frame 2u + 1 at token u, 2u at the blank before it and 2U behind the last one, and its
    log-probability [B]: -inf, with a path that means nothing, where there are too few frames."""
    counts, (batch, frames) = targets.ne(PAD).sum(1), log_probs.shape[:2]
    states = torch.full((batch, 2 * targets.size(1) + 1), BLANK, device=targets.device)
    states[:, 1::2] = targets.masked_fill(targets.eq(PAD), BLANK)
    emitted = log_probs.float().gather(2, states[:, None].expand(-1, frames, -1))
    may_skip = torch.zeros_like(states, dtype=torch.bool)
    may_skip[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]  # a blank must stand between equal tokens

    never = torch.full_like(states, -torch.inf, dtype=emitted.dtype)
    scores, came_from = never.clone(), []
    scores[:, 0] = 0.0  # without frames, the text that is empty
    if frames:
        first = torch.cat((emitted[:, 0, :2], never[:, 2:]), 1)
        scores = torch.where((lengths > 0)[:, None], first, scores)
    for frame in range(1, frames):
        step, skip = _later(scores, 1, never), _later(scores, 2, never).masked_fill(~may_skip, -torch.inf)
        best, move = torch.stack((scores, step, skip)).max(0)
        going_on = (frame < lengths)[:, None]
        scores = torch.where(going_on, best + emitted[:, frame], scores)
        came_from.append(move.masked_fill(~going_on, 0))

    last = torch.stack((2 * counts, (2 * counts - 1).clamp(min=0)), 1)
    total, which = scores.gather(1, last).max(1)
    state = last.gather(1, which[:, None])
    path = [state]
    for move in reversed(came_from):
        state = state - move.gather(1, state)
        path.append(state)
    return torch.cat(path[::-1], 1)[:, :frames], total


def _later(scores: Tensor, by: int, never: Tensor) -> Tensor:
    """scores [B, L] of the states so many places before."""
    return torch.cat((never[:, :by], scores[:, : scores.size(1) - by]), 1)[:, : scores.size(1)]


def token_ends(log_probs: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """The last frame [B, U] of each token on the best path; arguments as of `forced_alignment`. Where there is no path
    the tokens are spread evenly over the frames."""
    path, total = forced_alignment(log_probs, lengths, targets)
    frame = torch.arange(path.size(1), device=path.device)
    at_token = (path % 2 == 1) & (frame < lengths[:, None])
    token = (path // 2).masked_fill(~at_token, targets.size(1))
    ends = path.new_zeros(targets.size(0), targets.size(1) + 1)
    ends.scatter_reduce_(1, token, frame.expand_as(token), "amax")
    counts = targets.ne(PAD).sum(1, keepdim=True).clamp(min=1)
    even = torch.arange(1, targets.size(1) + 1, device=path.device) * lengths[:, None] // counts - 1
    return torch.where(total.isfinite()[:, None], ends[:, :-1], even.clamp(min=0))


def chunks_of_tokens(ends: Tensor, lengths: Tensor, chunk_frames: int, delay_frames: int = 0) -> Tensor:
    """The chunk [B, U] in which each token's end frame [B, U] lies, `delay_frames` later (CTC tends to end tokens
    early, by 52 ms in arXiv 2410.03752, table III), but never after the last of the `lengths` [B] frames."""
    if not chunk_frames:
        return torch.zeros_like(ends)
    return (ends + delay_frames).minimum((lengths[:, None] - 1).clamp(min=0)) // chunk_frames
