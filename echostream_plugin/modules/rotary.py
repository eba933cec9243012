"""Rotary position (Su et al., arXiv 2104.09864): scores depend on the distance of query and key, not on the clock."""

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [P, head_dim / 2] for positions [P] (frames of 40 ms, negative ones lie in the past)."""
    channels = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float().unsqueeze(1) * BASE ** (-channels / head_dim)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x: [..., P, head_dim] queries or keys; channel i turns together with channel i + head_dim / 2."""
    cosine, sine = table
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)
