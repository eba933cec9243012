"""What a target position may see of its source: wait-k lags as in use (StreamSpeech, arXiv 2406.03049)."""

import torch
from torch import Tensor


@torch.no_grad()
def build_streaming_mask(
    asr_logits: Tensor,
    st_logits: Tensor,
    lengths: Tensor | None,
    n_targets: int,
    k1: int = 0,
    n1: int = 1,
    chunk: int = 0,
) -> Tensor:
    """Source frames that each MT position must not see, from what the two CTC heads have emitted so far.

    Position i waits until the ST head is expected to have emitted (i // n1 + 1) * n1 + k1 tokens, then for the first
    frame at which the ASR head starts a token; the last frame always serves. Visible is everything up to the end
    of that frame's chunk.

    asr_logits, st_logits: [B, S, V], blank 0 (no gradient flows); lengths: [B] valid frames (None: all); n_targets: U;
    chunk: encoder frames that arrive together, 0 when the whole utterance does. Returns bool [B, U, S], True = masked.
    """
    if k1 < 0 or n1 < 1 or chunk < 0:
        raise ValueError(f"the wait needs k1 >= 0, n1 >= 1 and chunk >= 0, got k1={k1}, n1={n1}, chunk={chunk}")
    batch, frames = st_logits.shape[:2]
    if lengths is None:
        lengths = torch.full((batch,), frames)
    lengths = lengths.to(st_logits.device).view(batch, 1, 1)
    place = torch.arange(frames, device=st_logits.device)
    if chunk == 0:
        visible_frames = lengths.expand(batch, n_targets, 1)
    else:
        valid = place < lengths[:, :, 0]
        emitted = (expected_emissions(st_logits) * valid).cumsum(1)[:, None]
        starts = ((expected_emissions(asr_logits) * valid).round() == 1)[:, None]
        position = torch.arange(n_targets, device=st_logits.device)[:, None]
        needed = ((position // n1 + 1) * n1 + k1).minimum(lengths).clamp(min=1)
        ready = ((emitted >= needed) & starts) | (place >= lengths - 1)
        frame = ready.int().argmax(-1, keepdim=True).clamp(min=1)
        visible_frames = ((frame // chunk + 1) * chunk).minimum(lengths).clamp(min=1)
    return place >= visible_frames


def expected_emissions(logits: Tensor, blank: int = 0) -> Tensor:
    """Expected number of new tokens at each frame: neither blank nor a repetition of the frame before.

    logits: [B, S, V]; returns [B, S] in [0, 1], float32.
    """
    probabilities = logits.float().softmax(-1)
    silent = probabilities[..., blank]
    tokens = torch.cat((probabilities[..., :blank], probabilities[..., blank + 1 :]), -1)
    repeated = torch.zeros_like(silent)
    repeated[:, 1:] = (tokens[:, :-1] * tokens[:, 1:]).sum(-1)
    return 1 - (repeated + silent)


def visible_states(first: int, tokens: int, available: int, k2: int, n2: int | None, device=None) -> Tensor:
    """How many T2U states the frames of tokens first .. first + tokens - 1 may see; int64 [tokens].

    `available` states exist; n2 None: all of them are seen (no wait).
    """
    position = torch.arange(first, first + tokens, device=device)
    if n2 is None:
        return torch.full_like(position, available)
    check_unit_wait(k2, n2)
    return ((position // n2 + 1) * n2 + k2).clamp(max=available)


def check_unit_wait(k2: int, n2: int | None):
    """Raise ValueError where (k2, n2) is no wait."""
    if k2 < 0 or (n2 is not None and n2 < 1):
        raise ValueError(f"the unit wait needs k2 >= 0 and n2 >= 1 (or None: no mask), got k2={k2}, n2={n2}")


def draw_unit_step(n2: int, n_targets: int, generator: torch.Generator | None = None) -> int:
    """n2 itself, or, when it is negative, a draw from 1 .. n_targets + 1, by torch's generator or the one given."""
    if n2 >= 0:
        return max(n2, 1)
    return int(torch.randint(1, n_targets + 2, (1,), generator=generator))
