"""Attention of a Zipformer layer: weights computed once, used by a gated attention and two self-attentions.

A chunk is one window over the shared sequence of keys: [M memory vectors | L frames of left context | its own S].
W = B * N windows; K = M + L + S keys of each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.zipformer.parts import scaled_linear
from echostream_plugin.modules.zipformer.regularisers import Balancer, Whiten, penalise_excess, whitening_limit
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, chance

MASKED = -1000.0  # a score; nothing is left of it after the softmax, and rows without any key stay finite


@dataclass(frozen=True)
class StackConfig:
    """Sizes of a stack, and which training parts it has; see `encoders.zipformer.ZipformerConfig`."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    kernel: int
    factor: int  # frames of 20 ms in one of the stack's
    query_dim: int
    value_dim: int
    position_head_dim: int
    position_dim: int
    memory_size: int
    dropout: float
    scaled_scores: bool
    bypass_clamp: bool
    layer_drop: bool
    module_skip: bool
    balancers: bool
    whiten: bool

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels that a layer keeps of a frame: keys, gated values, values of both self-attentions."""
        values = self.heads * self.value_dim
        return self.heads * self.query_dim, self.hidden, values, values

    @property
    def hidden(self) -> int:
        """Channels of the gated attention."""
        return 3 * self.dim // 4


@dataclass(frozen=True)
class Windows:
    """What the windows of one call look like at the rate of a stack.

    count: N; frames: S; left: L; memory: M; mask: [W, 1, 1, K] added to the scores; valid: [B, T, 1], 0 where there is
    no frame, None if there is everywhere; lengths: [B] valid frames, None for all; positions: [L + 2 * S - 1, P];
    chunk: the frames of a whole chunk, which the last one may lack; None: the utterance, however long it is.
    """

    count: int
    frames: int
    left: int
    memory: int
    mask: Tensor
    valid: Tensor | None
    lengths: Tensor | None
    positions: Tensor
    chunk: int | None

    def gather(self, past: Tensor, new: Tensor) -> Tensor:
        """past: [B, M + L, X] memory and left context before; new: [B, N * S, X]; returns the windows [W, X, K]."""
        if self.count == 1:
            return torch.cat([past, new], dim=1).transpose(1, 2)
        sequence = torch.cat([past[:, self.memory :], new], dim=1)
        windows = sequence.unfold(1, self.left + self.frames, self.frames)  # [B, N, X, L + S]
        if self.memory:
            bank = torch.cat([past[:, : self.memory], self._means(sequence)[:, :-1]], dim=1)
            windows = torch.cat([bank.unfold(1, self.memory, 1), windows], dim=3)
        return windows.flatten(0, 1)

    def next_past(self, past: Tensor, new: Tensor) -> Tensor:
        """past: [..., M + L, X]; new: [..., N * S, X]; returns the past of the next call.

        What leaves the left context goes on as the mean of each chunk; the oldest means are forgotten."""
        sequence = torch.cat([past[..., self.memory :, :], new], dim=-2)
        kept = sequence[..., self.count * self.frames :, :]
        if not self.memory:
            return kept.clone()
        bank = torch.cat([past[..., : self.memory, :], self._means(sequence)], dim=-2)
        return torch.cat([bank[..., self.count :, :], kept], dim=-2)

    def _means(self, sequence: Tensor) -> Tensor:
        """[..., N, X] of the N chunks at the beginning of [..., L + N * S, X]."""
        return sequence[..., : self.count * self.frames, :].unflatten(-2, (self.count, self.frames)).mean(-2)


class AttentionWeights(nn.Module):
    """Multi-head attention weights with relative positions: [W, H, S, K].

    Memory vectors have no position; a bias per head takes its place. `scaled_scores` divides what query and key give by
    the root of their width, and begins with weights as much larger, for optimizers that know no scales.
    """

    position_skip = Schedule(((0, 0.5), (4000, 0.0)))

    def __init__(self, config: StackConfig, clock: Clock):
        super().__init__()
        self.heads, self.query_dim, self.clock = config.heads, config.query_dim, clock
        self.scale = config.query_dim**-0.5 if config.scaled_scores else None
        width = config.heads * config.query_dim
        self.sizes = [width, width, config.heads * config.position_head_dim]
        self.in_proj = scaled_linear(config.dim, sum(self.sizes), config.query_dim**-0.25)
        if config.scaled_scores:
            with torch.no_grad():
                self.in_proj.weight[: 2 * width] *= config.query_dim**0.25
        self.linear_pos = scaled_linear(config.position_dim, self.sizes[2], 0.05, bias=False)
        self.memory_bias = nn.Parameter(torch.zeros(config.heads)) if config.memory_size else None
        self.skips, self.penalised = config.module_skip, config.balancers
        self.balance_keys = self.whiten_keys = nn.Identity()
        if config.balancers:
            self.balance_keys = Balancer(clock, (0.4, 0.6), (0.0, 100.0), probability=0.025)
        if config.whiten:
            self.whiten_keys = Whiten(clock, whitening_limit(3.0), config.heads, 0.025)

    def forward(self, x: Tensor, past: Tensor, windows: Windows, positions: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, T, C]; past: [B, M + L, X] keys before. Returns the weights and the keys of x [B, T, X]."""
        query, key, place = self.in_proj(x).split(self.sizes, dim=2)
        key = self.whiten_keys(self.balance_keys(key))
        keys = windows.gather(past, key).unflatten(1, (self.heads, -1))  # [W, H, D, K]
        if self.scale is not None:
            query = query * self.scale
        scores = self._heads(query, windows) @ keys
        of_positions = self._position_scores(place, windows, positions)
        if self.training and self.skips and chance(self.position_skip.at(self.clock)):
            of_positions = 0.0 * of_positions  # every process of a training needs a gradient of every parameter
        scores = scores + of_positions
        if self.training and self.penalised and chance(0.1):
            scores = penalise_excess(scores, 25.0, 1e-4)
        return (scores + windows.mask).softmax(-1), key

    def _position_scores(self, place: Tensor, windows: Windows, positions: Tensor) -> Tensor:
        """[W, H, S, K]: column j of row i of a window reads the encoding of the offset j - L - i."""
        table = self.linear_pos(positions).t().unflatten(0, (self.heads, -1))  # [H, P, L + 2 * S - 1]
        scores = self._heads(place, windows) @ table
        rows, width = scores.shape[2:]
        # dropping the first S - 1 numbers and reading rows of one less shifts every row by one more
        scores = scores.flatten(2)[:, :, rows - 1 : -1] if rows > 1 else scores.flatten(2)
        scores = scores.unflatten(2, (rows, -1))[:, :, :, : windows.left + rows]
        if self.memory_bias is None:
            return scores
        if not windows.memory:
            return scores + 0.0 * self.memory_bias.sum() if self.training else scores
        bias = self.memory_bias[:, None, None].expand(scores.size(0), -1, rows, windows.memory)
        return torch.cat([bias, scores], dim=3)

    def _heads(self, x: Tensor, windows: Windows) -> Tensor:
        """[B, N * S, H * D] to [W, H, S, D]."""
        return x.reshape(-1, windows.frames, self.heads, x.size(2) // self.heads).transpose(1, 2)


class SelfAttention(nn.Module):
    """Values, summed by weights that are given."""

    def __init__(self, config: StackConfig, clock: Clock):
        super().__init__()
        self.heads, width = config.heads, config.heads * config.value_dim
        self.in_proj = nn.Linear(config.dim, width)
        self.out_proj = scaled_linear(width, config.dim, 0.05)
        self.whiten = Whiten(clock, whitening_limit(7.5, 3.0)) if config.whiten else nn.Identity()

    def forward(self, x: Tensor, weights: Tensor, past: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """x: [B, T, C]; weights: [W, H, S, K]; past: [B, M + L, X] values before. Returns [B, T, C] and the values of
        x [B, T, X]."""
        value = self.in_proj(x)
        values = windows.gather(past, value).unflatten(1, (self.heads, -1))  # [W, H, D, K]
        out = (weights @ values.transpose(2, 3)).transpose(1, 2)
        return self.whiten(self.out_proj(out.reshape(x.size(0), x.size(1), -1))), value


class NonlinAttention(nn.Module):
    """A gated attention: the first head's weights sum what a tanh let through; the sums are multiplied by a gate."""

    def __init__(self, config: StackConfig, clock: Clock):
        super().__init__()
        self.in_proj = nn.Linear(config.dim, 3 * config.hidden)
        self.out_proj = scaled_linear(config.hidden, config.dim, 0.05)
        self.balancer = self.whiten1 = self.whiten2 = nn.Identity()
        if config.balancers:
            shares = Schedule(((0, 0.25), (20_000, 0.05))), Schedule(((0, 0.75), (20_000, 0.95)))
            self.balancer = Balancer(clock, shares, (0.5, 5.0))
        if config.whiten:
            self.whiten1 = Whiten(clock, whitening_limit(5.0))
            self.whiten2 = Whiten(clock, whitening_limit(5.0, 3.0))

    def forward(self, x: Tensor, weights: Tensor, past: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """x: [B, T, C]; weights: [W, S, K]; past: [B, M + L, X]. Returns as `SelfAttention`."""
        inner, value, gate = self.in_proj(x).chunk(3, dim=2)
        value = self.whiten1(value) * torch.tanh(self.balancer(inner))
        out = weights @ windows.gather(past, value).transpose(1, 2)
        return self.whiten2(self.out_proj(out.reshape(gate.shape) * gate)), value


def constant(weights: Tensor) -> Tensor:
    """Equal weights on all keys that have any: a mean over time."""
    return F.normalize((weights > 0).to(weights.dtype), p=1, dim=-1)
