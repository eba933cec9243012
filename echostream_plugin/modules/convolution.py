"""Causal depthwise convolution module, as in a Conformer, its norm per frame so that padding cannot matter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConvolution(nn.Module):
    """Pre-norm, gated pointwise map, causal depthwise convolution, norm, SiLU, pointwise map: a residual branch.

    It holds no stream: the caller keeps the last `kernel - 1` inputs of the depthwise convolution.
    """

    def __init__(self, dim: int, kernel: int, dropout: float = 0.0):
        super().__init__()
        self.kernel = kernel
        self.input_norm = nn.LayerNorm(dim)
        self.gated = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor, segment_frames: int) -> tuple[Tensor, Tensor]:
        """The branch for N consecutive segments with their hard-copied right context.

        x: [B, N, C + R, D] segment and right-context frames; past: [B, K - 1, D] depthwise inputs before the first
        segment. Returns [B, N, C + R, D] and the next past [B, K - 1, D].
        """
        batch_size, segments, width, dim = x.shape
        gated = F.glu(self.gated(self.input_norm(x)), dim=-1)
        frames = gated[:, :, :segment_frames].reshape(batch_size, segments * segment_frames, dim)
        sequence = torch.cat([past, frames], dim=1)
        mixed = self._mix(sequence).view(batch_size, segments, segment_frames, dim)
        if width > segment_frames:
            # a right-context frame follows the end of its own segment, whatever other copies of it there are
            before = sequence[:, segment_frames:].unfold(1, self.kernel - 1, segment_frames).transpose(2, 3)
            ahead = torch.cat([before, gated[:, :, segment_frames:]], dim=2).flatten(0, 1)
            mixed = torch.cat([mixed, self._mix(ahead).view(batch_size, segments, -1, dim)], dim=2)
        out = self.dropout(self.output(F.silu(self.norm(mixed))))
        return out, sequence[:, sequence.size(1) - self.kernel + 1 :]

    def _mix(self, sequence: Tensor) -> Tensor:
        """Depthwise convolution over time: [B, K - 1 + T, D] to [B, T, D]."""
        # as a Conv2d of height 1: twice as fast backward on a CPU
        weight = self.depthwise.weight.unsqueeze(2)
        x = sequence.transpose(1, 2).unsqueeze(2)
        return F.conv2d(x, weight, self.depthwise.bias, groups=x.size(1)).squeeze(2).transpose(1, 2).contiguous()
