"""The chunk-causal convolution of a Zipformer layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.zipformer.attention import StackConfig, Windows
from echostream_plugin.modules.zipformer.parts import scaled_linear, swoosh_r
from echostream_plugin.modules.zipformer.regularisers import Balancer, Whiten, whitening_limit
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule

FEW = 24  # frames of a chunk up to which a CPU sums products


class ChunkCausalConvolution(nn.Module):
    """Depthwise: a causal convolution of (K + 1) / 2 taps over all frames, and one of K taps inside each chunk, which
    is scaled near the chunk's edges.

    The scale belongs to a place in a whole chunk, also in a chunk that an utterance ends in; icefall fits it to what
    there is of the chunk, so that its streaming differs from its masked form there."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.causal_conv = nn.Conv1d(dim, dim, (kernel + 1) // 2, groups=dim)
        self.chunkwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.chunkwise_conv_scale = nn.Parameter(torch.zeros(2, dim, kernel))  # added near the left and right edge
        nn.init.uniform_(self.causal_conv.bias, -0.1, 0.1)

    def forward(self, x: Tensor, past: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """x: [B, N * S, C], 0 where there is no frame; past: [B, K // 2, C] inputs before. Returns [B, N * S, C] and
        the past of the next call."""
        joined = torch.cat([past, x], dim=1)
        direct = windows.count == 1 and x.size(1) <= FEW and not x.is_cuda and not torch.is_grad_enabled()
        causal, chunks = (self._few if direct else self._many)(joined, x, windows)
        return torch.addcmul(causal, chunks, self._scale(windows).transpose(-1, -2)), joined[:, x.size(1) :]

    def _few(self, joined: Tensor, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Both convolutions of one chunk, [B, S, C], as sums: for few frames a fifth of the convolutions' time."""
        half = self.kernel // 2
        padded = F.pad(x, (0, 0, half, half))
        return _sums(joined, self.causal_conv), _sums(padded, self.chunkwise_conv)

    def _many(self, joined: Tensor, x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """Both convolutions, [B, N * S, C], the second one before its scale."""
        chunks = x.reshape(-1, windows.frames, x.size(2)).transpose(1, 2)
        chunks = self.chunkwise_conv(chunks).transpose(1, 2).reshape(x.shape)
        return self.causal_conv(joined.transpose(1, 2)).transpose(1, 2), chunks

    def _scale(self, windows: Windows) -> Tensor:
        """[C, N * S], or [B, C, S] where the only chunk is as long as each utterance."""
        left, right = self.chunkwise_conv_scale.unbind(0)
        chunk, frames = windows.chunk, windows.frames
        if chunk is None and windows.lengths is not None:
            return 1.0 + _fitted(left, 0, frames) + self._right_edges(right, windows.lengths, frames)
        chunk = frames if chunk is None else chunk
        scale = (1.0 + _fitted(left, 0, chunk) + _fitted(right, chunk - self.kernel, chunk))[:, :frames]
        return scale.repeat(1, windows.count) if windows.count > 1 else scale

    def _right_edges(self, right: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """[B, C, S]: the last column of `right` stands at each utterance's last frame."""
        places = torch.arange(frames, device=right.device) + self.kernel - lengths.unsqueeze(1)  # [B, S]
        inside = (places >= 0) & (places < self.kernel)
        taken = right[:, places.clamp(0, self.kernel - 1)].transpose(0, 1)
        return taken * inside.unsqueeze(1).to(right.dtype)


def _fitted(edge: Tensor, start: int, size: int) -> Tensor:
    """edge: [C, K]; its columns at `start` of [C, size], cut or filled up with zeros."""
    return F.pad(edge, (start, size - edge.size(1) - start))


def _sums(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A depthwise convolution of x: [B, t, C] without padding, as a sum of products: [B, t - K + 1, C]."""
    weight = convolution.weight.squeeze(1).t().contiguous()
    windows = x.unfold(1, weight.size(0), 1).transpose(2, 3)  # [B, t - K + 1, K, C]
    return (windows * weight).sum(2) + convolution.bias


class ConvolutionModule(nn.Module):
    """Gate, chunk-causal convolution, SwooshR."""

    def __init__(self, config: StackConfig, clock: Clock):
        super().__init__()
        dim = config.dim
        self.in_proj = nn.Linear(dim, 2 * dim)
        self.depthwise_conv = ChunkCausalConvolution(dim, config.kernel)
        self.out_proj = scaled_linear(dim, dim, 0.05)
        self.balancer1 = self.balancer2 = self.whiten = nn.Identity()
        if config.balancers:
            least, most = Schedule(((0, 0.05), (8000, 0.025))), Schedule(((0, 5.0), (8000, 10.0)), default=1.0)
            self.balancer1 = Balancer(clock, (least, 1.0), (1.5, most))
            least, size = Schedule(((0, 0.1), (8000, 0.05))), Schedule(((0, 0.2), (20_000, 0.5)))
            self.balancer2 = Balancer(clock, (least, 1.0), (size, 10.0))
        if config.whiten:
            self.whiten = Whiten(clock, whitening_limit(7.5))

    def forward(self, x: Tensor, past: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        """x: [B, T, C]; past: [B, K // 2, C]. Returns [B, T, C] and the past of the next call."""
        x, gate = self.in_proj(x).chunk(2, dim=2)
        x = x * torch.sigmoid(self.balancer1(gate))
        if windows.valid is not None:
            x = x * windows.valid
        x, past = self.depthwise_conv(x, past, windows)
        return self.out_proj(swoosh_r(self.whiten(self.balancer2(x)))), past
