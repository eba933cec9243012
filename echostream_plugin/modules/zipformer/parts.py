"""The small parts of a Zipformer: activations, norm, bypass, resampling, relative positions."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.zipformer.regularisers import limited
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, sequence_mask

CLAMP = Schedule(((0, 0.9), (20_000, 0.2)))  # the least scale of a bypass


def swoosh_l(x: Tensor) -> Tensor:
    """log(1 + e^(x - 4)) - 0.08 x - 0.035, for modules that are often almost off."""
    return torch.sub(F.softplus(x - 4.0), x, alpha=0.08) - 0.035


def swoosh_r(x: Tensor) -> Tensor:
    """log(1 + e^(x - 1)) - 0.08 x - 0.313261687, zero at zero, after convolutions."""
    return torch.sub(F.softplus(x - 1.0), x, alpha=0.08) - 0.313261687


class SwooshL(nn.Module):
    """`swoosh_l` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return swoosh_l(x)


class SwooshR(nn.Module):
    """`swoosh_r` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return swoosh_r(x)


def scaled_linear(inputs: int, outputs: int, scale: float, bias: bool = True) -> nn.Linear:
    """An `nn.Linear` whose first weights are `scale` times as large, its bias within a tenth of it."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        linear.weight.mul_(scale)
        if bias:
            nn.init.uniform_(linear.bias, -0.1 * scale, 0.1 * scale)
    return linear


class BiasNorm(nn.Module):
    """x / rms(x - bias) * exp(log_scale): a norm that leaves a network some length to tell it by, through the bias.

    In training log_scale is kept in [-1.5, 1.5] through its gradient."""

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(nn.init.normal_(torch.empty(dim), std=1e-4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., C]."""
        log_scale = limited(self.log_scale, -1.5, 1.5) if self.training else self.log_scale
        wide = torch.promote_types(x.dtype, torch.float32)  # squares of half precision overflow
        power = (x - self.bias).to(wide).square().mean(-1, keepdim=True)
        return x * (power.rsqrt() * log_scale.to(wide).exp()).to(x.dtype)


class Bypass(nn.Module):
    """before + (after - before) * scale, a scale per channel.

    clamp: in training the scale is kept above a value that falls from 0.9 to 0.2, and below 1, through its gradient.
    skip: the probability with which a sequence of a training takes `before`, None for never."""

    def __init__(self, dim: int, clock: Clock, clamp: bool, skip: Schedule | None = None):
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))
        self.clock, self.clamp, self.skip = clock, clamp, skip

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """before, after: [B, T, C]."""
        scale = self.bypass_scale
        if self.training:
            if self.clamp:
                scale = limited(scale, CLAMP.at(self.clock), 1.0)
            if self.skip is not None and (probability := self.skip.at(self.clock)) > 0:
                scale = scale * sequence_mask(after, probability)
        return before + (after - before) * scale


class Downsample(nn.Module):
    """Weighted sums of `factor` neighbouring frames."""

    def __init__(self, factor: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """x: [B, T, C], T a multiple of the factor; lengths: [B] valid frames, None for all. What follows the valid
        frames counts as their last one, so that no padding is read. Returns [B, T / factor, C]."""
        if lengths is not None:
            x = hold_last(x, lengths)
        return self.bias.softmax(0) @ x.unflatten(1, (-1, self.bias.numel()))


def hold_last(x: Tensor, lengths: Tensor) -> Tensor:
    """x: [B, T, C], its frames from `lengths` [B] on replaced by the one before them."""
    last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.size(2))
    padding = torch.arange(x.size(1), device=x.device) >= lengths.unsqueeze(1)
    return torch.where(padding.unsqueeze(2), x.gather(1, last), x)


def with_channels(x: Tensor, channels: int) -> Tensor:
    """x: [B, T, C] with so many channels: the first ones, or zeros after all."""
    missing = channels - x.size(2)
    return F.pad(x, (0, missing)) if missing > 0 else x[:, :, :channels]


@lru_cache(maxsize=32)
def position_table(past: int, frames: int, dim: int, dtype, device) -> Tensor:
    """Encodings of the offsets -(past + frames - 1) to frames - 1 of a key from a query: [past + 2 * frames - 1, dim].

    Offsets are compressed logarithmically, then by an arcus tangent, so that far ones are told apart less."""
    with torch.inference_mode(False):  # kept longer than the caller's mode
        offsets = torch.arange(-(past + frames - 1), frames, device=device, dtype=torch.float32).unsqueeze(1)
        length = math.sqrt(dim)
        compressed = length * offsets.sign() * ((offsets.abs() + length).log() - math.log(length))
        angles = (compressed / (dim / (2.0 * math.pi))).atan() * (1 + torch.arange(dim // 2, device=device))
        table = torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)
        table[:, -1] = 1.0  # a bias
        return table.to(dtype)
