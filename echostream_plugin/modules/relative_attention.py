"""Attention with relative positions (Transformer-XL, arXiv 1901.02860 section 3.3) under ESPnet's parameter names."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RelativeAttention(nn.Module):
    """Self-attention whose score also depends on the distance of query and key.

    score(i, j) = [(q_i + u) k_j + (q_i + v) W pe(i - j)] / sqrt(head_dim); `pe` are `relative_positions`."""

    UNPACKED = ("linear_pos",)  # `_by_distance` takes its weight

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention dimension {dim} must be divisible by the number of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(dim, dim) for _ in range(4))
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.empty(heads, dim // heads)) for _ in range(2))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, S, C]; keys and values [B, heads, S, head_dim]."""
        return self._split(self.linear_k(x)), self._split(self.linear_v(x))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """x: [B, n, C], the newest n of S frames; keys, values: [B, heads, S, head_dim]; positions:
        `relative_positions(S - n, n, C)`; visible: bool, broadcastable to [B, heads, n, S]. Returns [B, n, C]."""
        queries = self._split(self.linear_q(x))
        content, place = (queries + bias.to(queries.dtype).unsqueeze(1) for bias in (self.pos_bias_u, self.pos_bias_v))
        by_distance = self._by_distance(place, positions.to(x.dtype)) / math.sqrt(queries.size(-1))
        bias = from_distances(by_distance, keys.size(2))
        if visible is not None:
            bias = bias.masked_fill(~visible, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(content, keys, values, attn_mask=bias, dropout_p=dropout)
        return self.linear_out(out.transpose(1, 2).flatten(2))

    def _by_distance(self, place: Tensor, positions: Tensor) -> Tensor:
        """place: [B, heads, n, head_dim] queries; positions: [P, C]; their products with the projected positions,
        [B, heads, n, P]. In a step n is small and P long: then W goes to the queries, not to all positions."""
        if place.size(2) * self.heads < positions.size(1):
            weight = self.linear_pos.weight.unflatten(0, (self.heads, -1))
            return place @ weight @ positions.t()
        return place @ self._split(self.linear_pos(positions.unsqueeze(0))).transpose(2, 3)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def relative_positions(past: int, new: int, dim: int, device=None) -> Tensor:
    """Sinusoids of the distances query - key from past + new - 1 down to 1 - new; [past + 2 * new - 1, dim] float32,
    sines in the even dimensions and cosines in the odd."""
    distances = torch.arange(past + new - 1, -new, -1, device=device)
    frequencies = torch.exp(torch.arange(0, dim, 2, device=device) * (-math.log(10000) / dim))
    angles = distances[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :dim]


def from_distances(scores: Tensor, keys: int) -> Tensor:
    """Scores by distance [.., n, keys + n - 1] (columns as in `relative_positions`) to scores by key [.., n, keys]."""
    new, columns = scores.shape[-2:]
    # query a finds key j in column n - 1 - a + j: rows one column longer, read from n - 1 on, are shifted by one each
    flat = F.pad(scores, (0, 1)).flatten(-2)[..., new - 1 :]
    return flat[..., : new * columns].unflatten(-1, (new, columns))[..., :keys]
