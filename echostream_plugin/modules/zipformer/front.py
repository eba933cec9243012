"""The front end of a Zipformer: features of 10 ms to frames of 20 ms, without look-ahead.

icefall's frame i reads the features 2i - 6 to 2i + 14. Here the utterance begins 13 feature frames late, which are
silence, so that frame i reads 2i - 19 to 2i + 1 with the same weights; `lookahead_frames` gives some of that back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.lengths import pad_to_bucket
from echostream_plugin.modules.recording import Recorder
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.zipformer.parts import BiasNorm, SwooshL, SwooshR
from echostream_plugin.modules.zipformer.regularisers import Balancer, Whiten
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, SharedDropout, sequence_mask

CHANNELS = (8, 32, 128)
KERNEL = 7  # of the ConvNeXt block, in time and frequency
AROUND = KERNEL // 2
SPAN, STRIDE = 9, 2  # feature frames that the convolutions read for a frame, and from frame to frame
DELAY = 13  # feature frames of silence in front
LAYER_SKIP = Schedule(((0, 0.2), (20_000, 0.015)))


@dataclass(frozen=True)
class FrontState(StreamState):
    """What has to be read again. features: [B, 7..8, F] feature frames; hidden: [B, 128, 6, F'] outputs of the
    convolutions (fewer before the first frame, with look-ahead)."""

    features: Tensor
    hidden: Tensor


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.scale, None


class SmallerGradient(nn.Module):
    """The identity; gradients become a fifth, which in half precision the first convolution's need."""

    def forward(self, x: Tensor) -> Tensor:
        return _ScaledGradient.apply(x, 0.2) if self.training else x


class ConvNeXt(nn.Module):
    """A depthwise convolution and two linear maps of the channels, around which the input goes too."""

    def __init__(self, channels: int, clock: Clock, balancers: bool, whiten: bool, skips: bool):
        super().__init__()
        self.clock, self.skips = clock, skips
        self.depthwise_conv = nn.Conv2d(channels, channels, KERNEL, padding=(0, AROUND), groups=channels)
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.activation = SwooshL()
        self.pointwise_conv2 = nn.Conv2d(3 * channels, channels, 1)
        with torch.no_grad():
            self.pointwise_conv2.weight.mul_(0.01)
            nn.init.uniform_(self.pointwise_conv2.bias, -0.001, 0.001)
        self.hidden_balancer = self.out_balancer = self.out_whiten = nn.Identity()
        if balancers:
            self.hidden_balancer = Balancer(clock, (0.3, 1.0), (0.75, 5.0), channel=1)
            self.out_balancer = Balancer(clock, (0.4, 0.6), (1.0, 6.0), channel=1)
        if whiten:
            self.out_whiten = Whiten(clock, 5.0)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """x: [B, C, count + 6 or more, F]; returns [B, C, count, F]."""
        y = self.depthwise_conv(x)
        y = self.pointwise_conv2(self.activation(self.hidden_balancer(self.pointwise_conv1(y))))[:, :, :count]
        if self.training and self.skips and (probability := LAYER_SKIP.at(self.clock)) > 0:
            y = y * sequence_mask(y, probability).unsqueeze(3)
        y = self.out_balancer(x[:, :, AROUND : AROUND + count] + y)
        return self.out_whiten(y.transpose(1, 3)).transpose(1, 3)


class ZipformerFront(nn.Module):
    """Feature frames of 10 ms to frames of 20 ms: T frames give ceil(T / 2).

    silence: the value of features before, after and where an odd utterance lacks one; lookahead_frames: encoder frames
    of 40 ms after a frame that it reads.
    """

    def __init__(self, input_dim, dim, silence, lookahead_frames, dropout, clock, balancers, whiten, skips):
        super().__init__()
        self.input_dim, self.silence, self.ahead = input_dim, silence, 4 * lookahead_frames
        first, second, third = CHANNELS
        balanced = (Balancer(clock, sizes=(0.2, most), channel=1) if balancers else nn.Identity() for most in (1, 4, 4))
        self.conv = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=(0, 1)),
            SmallerGradient(),
            next(balanced),
            SwooshR(),
            nn.Conv2d(first, second, 3, stride=2),
            next(balanced),
            SwooshR(),
            nn.Conv2d(second, third, 3, stride=(1, 2)),
            next(balanced),
            SwooshR(),
        )
        self.convnext = ConvNeXt(third, clock, balancers, whiten, skips)
        self.width = ((input_dim - 1) // 2 - 1) // 2
        self.out = nn.Linear(self.width * third, dim)
        limit = Schedule(((0, 4.0), (20_000, 8.0)), default=4.0)
        self.out_whiten = Whiten(clock, limit, scale=0.02) if whiten else nn.Identity()
        self.out_norm = BiasNorm(dim)
        self.dropout = SharedDropout(dropout, clock)
        self._recorder = None

    @staticmethod
    def output_lengths(lengths):
        """Frames of 20 ms of so many feature frames (Tensor or int): ceil(lengths / 2)."""
        return (lengths + 1) // 2

    def record_steps(self) -> None:
        """As `zipformer.Zipformer.record_steps`."""
        self._recorder = Recorder(self, self._compute)

    def initial_state(self, batch_size: int = 1) -> FrontState:
        """The silence before the first feature frame."""
        like = self.out_norm.bias
        features = like.new_full((batch_size, DELAY - self.ahead, self.input_dim), self.silence)
        hidden = like.new_zeros(batch_size, CHANNELS[-1], AROUND, self.width)
        return self._advance(features, hidden)[1]

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """features: [B, T, F]; lengths: [B] valid ones; returns [B, ceil(T / 2), C]."""
        padding = torch.arange(features.size(1), device=features.device) >= lengths.unsqueeze(1)
        features = features.masked_fill(padding.unsqueeze(2), self.silence)
        more = features.size(1) % STRIDE + self.ahead
        features = F.pad(features, (0, 0, 0, more), value=self.silence)
        return self.step(features, self.initial_state(features.size(0)))[0]

    def step(self, features: Tensor, state: FrontState) -> tuple[Tensor, FrontState]:
        """features: [B, t, F], any t; returns the frames [B, s, C] that they complete, and the next state."""
        return self._advance(torch.cat([state.features, features], dim=1), state.hidden)

    def finish(self, state: FrontState) -> Tensor:
        """The frames [B, r, C] still missing if the utterance ended here."""
        batch_size, waiting = state.features.size(0), state.features.size(1)
        missing = (waiting + 1) % STRIDE + self.ahead  # after an even number of features 7 wait
        silence = state.features.new_full((batch_size, missing, self.input_dim), self.silence)
        return self.step(silence, state)[0]

    def _advance(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, FrontState]:
        new = max(0, (features.size(1) - SPAN) // STRIDE + 1)
        count = max(0, hidden.size(2) + new - 2 * AROUND)
        rest = features[:, new * STRIDE :].clone()
        if count:
            run = self._recorder or self._compute
            frames, hidden = run((new, count), features, hidden)
        else:
            frames = features.new_zeros(features.size(0), 0, self.out.out_features)
            hidden = torch.cat([hidden, self._convolve(features, new)], dim=2) if new else hidden
        return frames, FrontState(rest, hidden)

    def _compute(self, counts: tuple[int, int], features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """counts: new outputs of the convolutions, and frames. Returns the frames [B, s, C] and the next `hidden`."""
        new, count = counts
        hidden = torch.cat([hidden, self._convolve(features, new)], dim=2) if new else hidden
        x = self.convnext(pad_to_bucket(hidden, 2, count, 1), count)
        x = self.out_norm(self.out_whiten(self.out(x.transpose(1, 2).flatten(2))))
        return self.dropout(x), hidden[:, :, count:].clone()

    def _convolve(self, features: Tensor, count: int) -> Tensor:
        """features: [B, t, F]; the first `count` outputs [B, 128, count, F']."""
        window = features[:, : (count - 1) * STRIDE + SPAN].unsqueeze(1)
        return self.conv(pad_to_bucket(window, 2, count, STRIDE))[:, :, :count]
