"""Convolution in chunks of time, as in StreamSpeech: a kernel sees past frames, and ahead to the end of its chunk."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChunkConv1d(nn.Conv1d):
    """Conv1d of an odd kernel, centred; beyond the end of an output's chunk of input frames it reads zeros.

    A chunk of c input frames gives c / stride outputs, so c must be a multiple of the stride. Parameters are those of
    `nn.Conv1d`; the stream lies with the caller.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True):
        if kernel % 2 == 0:
            raise ValueError(f"a centred convolution needs an odd kernel, got {kernel}")
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=bias)
        self.reach = kernel // 2

    def initial_past(self, batch_size: int) -> Tensor:
        """The zeros before the first frame, [B, inputs, reach]."""
        return self.weight.new_zeros(batch_size, self.in_channels, self.reach)

    def forward(self, x: Tensor, past: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """x: [B, inputs, T] from the beginning of a chunk on; past: [B, inputs, reach] the frames before it; chunk:
        input frames, 0 for one that never ends. Returns [B, outputs, ceil(T / stride)] and the past of what follows; it
        is right if x ends with its chunk."""
        frames = x.size(2)
        sequence = torch.cat([past.to(x.dtype), x], dim=2)
        if chunk:
            padded = F.pad(sequence, (0, -frames % chunk))
            windows = padded.unfold(2, self.reach + chunk, chunk)
        else:
            windows = sequence.unsqueeze(2)
        # as a Conv2d over [chunks, frames]: no chunk has to be moved into the batch
        windows = F.pad(windows, (0, self.reach))
        weight = self.weight.unsqueeze(2)
        out = F.conv2d(windows, weight, self.bias, stride=(1, self.stride[0]), groups=self.groups)
        outputs = (frames + self.stride[0] - 1) // self.stride[0]
        return out.flatten(2)[:, :, :outputs], sequence[:, :, frames:].clone()
