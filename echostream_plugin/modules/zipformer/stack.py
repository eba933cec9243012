"""A stack of Zipformer layers at its own frame rate."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.zipformer.attention import StackConfig, Windows
from echostream_plugin.modules.zipformer.layer import ZipformerLayer
from echostream_plugin.modules.zipformer.parts import Bypass, Downsample
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule

WARM_UP = 4000  # batches in which layers are skipped much, the first stack's first
POSITION_DROPOUT = 0.15
FIRST_SKIP, LAST_SKIP = 0.5, 0.035  # of a layer; the last times the root of the stack's factor


class LayerStack(nn.Module):
    """Layers one after the other. place: of the stack, and the number of stacks."""

    def __init__(self, config: StackConfig, clock: Clock, place: tuple[int, int]):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            ZipformerLayer(config, clock, _layer_skip(config, place, index) if config.layer_drop else None)
            for index in range(config.layers)
        )

    def forward(self, x: Tensor, past: Tensor, inputs: Tensor, windows: Windows, mask: Tensor | None):
        """x: [B, T, C] frames of the stack; past: [B, n, M + L, X] of its n layers; inputs: [B, n, 2, K // 2, C] of
        their convolutions; mask: [B, 1, C] of the channels in a training, None for all.

        Returns [B, T, C], what x adds to the pasts [B, n, T, X], and the next inputs."""
        positions = windows.positions
        if self.training and self.config.dropout > 0:
            positions = F.dropout(positions, POSITION_DROPOUT)
        x, added, kept = x if mask is None else x * mask, [], []
        for layer, keys, before in zip(self.layers, past.unbind(1), inputs.unbind(1), strict=True):
            x, new, after = layer(x, keys, before, windows, positions)
            x = x if mask is None else x * mask
            added.append(new)
            kept.append(after)
        return x, torch.stack(added, dim=1), torch.stack(kept, dim=1)


class DownsampledStack(nn.Module):
    """A `LayerStack` at a lower rate; what it gives is repeated and joined with the stack's input by a bypass."""

    def __init__(self, config: StackConfig, clock: Clock, place: tuple[int, int]):
        super().__init__()
        self.config = config
        self.downsample = Downsample(config.factor)
        self.encoder = LayerStack(config, clock, place)
        self.out_combiner = Bypass(config.dim, clock, config.bypass_clamp)

    def forward(self, x, past, inputs, windows, mask, lengths=None):
        """As `LayerStack`, but for x: [B, T, C] in frames of 20 ms; lengths: [B] valid ones, None for all."""
        y, added, kept = self.encoder(self.downsample(x, lengths), past, inputs, windows, mask)
        return self.out_combiner(x, y.repeat_interleave(self.config.factor, dim=1)), added, kept


def _layer_skip(config: StackConfig, place: tuple[int, int], index: int) -> Schedule:
    """The probability of skipping layer `index`. Of the warm-up's equal parts, one more than stacks, the front end
    learns in the first, and each stack's skips fall in the one after that of the stack before, layer by layer."""
    stack, stacks = place
    part = WARM_UP / (stacks + 1)
    begin = part * (stack + 1 + index / config.layers)
    return Schedule(((begin, FIRST_SKIP), (begin + part / config.layers, LAST_SKIP * config.factor**0.5)))
