"""Rotary position (Su et al., arXiv 2104.09864): scores depend on the distance of query and key, not on the clock."""

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., head_dim / 2] for positions [...] (frames of 40 ms, negative ones lie in the past).

    Angles are taken in double precision, so that the position in a long utterance costs none."""
    channels = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64)
    angles = positions.double().unsqueeze(-1) * BASE ** (-channels / head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x: [..., head_dim] queries or keys, table: [..., head_dim / 2]; channels i and i + head_dim / 2 turn together."""
    cosine, sine = table
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def whole_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`rotary_table` for `rotate_whole`: cosines, and sines with the sign of each half, [..., head_dim]."""
    cosine, sine = rotary_table(positions, head_dim, dtype)
    return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)


def rotate_whole(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """`rotate` in three operations instead of eight, for tensors so small that the number of operations counts."""
    cosine, sine = table
    return torch.addcmul(x * cosine, x.roll(x.size(-1) // 2, -1), sine)
