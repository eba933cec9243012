"""The beginning of Whisper's encoder (Radford et al., arXiv 2212.04356), causal: two convolutions and a position.

Both convolutions are padded on the past side only, so that every frame comes 20 ms (one frame) later than in Whisper:
frame i is Whisper's frame i - 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.lengths import pad_to_bucket
from echostream_plugin.modules.streaming import StreamState

KERNEL = 3
STRIDE = 2
POSITIONS = 1500  # rows of Whisper's table: 30 s of frames of 20 ms
LONGEST_TURN = 200  # of the sinusoids that a stream goes on turning: 4 s
STILL_AT = 100  # the frame at which the slower ones stand


@dataclass(frozen=True)
class FrontState(StreamState):
    """What the convolutions have yet to read again, and how many frames there were.

    features: [B, 2, F] feature frames; hidden: [B, 2..3, D] outputs of the first convolution; frames: [B] of 20 ms."""

    features: Tensor
    hidden: Tensor
    frames: Tensor


class WhisperFront(nn.Module):
    """Feature frames of 10 ms to frames of 20 ms: T frames give ceil(T / 2).

    cyclic: add `cyclic_positions`; a training draws where each utterance begins. Otherwise add Whisper's table as it
    stands at one frame, the same at all times.
    """

    def __init__(self, input_dim: int, dim: int, cyclic: bool):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, dim, KERNEL, stride) for inputs, stride in ((input_dim, 1), (dim, STRIDE))
        )
        self.cyclic = cyclic
        with torch.device("cpu"):  # the meta device would load torch's compiler for it
            table = cyclic_positions(dim)
        table = table.to(self.convolutions[0].weight.device)
        self.register_buffer("positions", table if cyclic else table[STILL_AT : STILL_AT + 1], persistent=False)

    @staticmethod
    def output_lengths(lengths):
        """Frames of 20 ms of so many feature frames (Tensor or int): ceil(lengths / 2)."""
        return (lengths + 1) // 2

    def initial_state(self, batch_size: int = 1) -> FrontState:
        """The zeros before the first feature frame."""
        weight = self.convolutions[0].weight
        return FrontState(
            features=weight.new_zeros(batch_size, KERNEL - 1, weight.size(1)),
            hidden=weight.new_zeros(batch_size, KERNEL - 1, weight.size(0)),
            frames=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
        )

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, T, F]; returns [B, ceil(T / 2), D]."""
        state = self.initial_state(features.size(0))
        if self.training and self.cyclic:
            state = FrontState(state.features, state.hidden, torch.randint_like(state.frames, POSITIONS))
        return self.step(features, state)[0]

    def step(self, features: Tensor, state: FrontState) -> tuple[Tensor, FrontState]:
        """features: [B, t, F], any t; returns the frames [B, s, D] that they complete, and the next state."""
        first, features = self._convolve(0, torch.cat([state.features, features], dim=1))
        frames, hidden = self._convolve(1, torch.cat([state.hidden, first], dim=1))
        if self.cyclic:
            places = state.frames.unsqueeze(1) + torch.arange(frames.size(1), device=frames.device)
            frames = frames + self.positions[places % POSITIONS].to(frames.dtype)
        else:
            frames = frames + self.positions.to(frames.dtype)
        return frames, FrontState(features, hidden, state.frames + frames.size(1))

    def whole(self, features: Tensor) -> Tensor:
        """Frames of at most 30 s of features [B, T, F] as Whisper has them, which are padded on both sides:
        [B, ceil(T / 2), D] without delay, for a teacher."""
        x = features.transpose(1, 2)
        for convolution in self.convolutions:
            x = F.gelu(F.conv1d(x, convolution.weight, convolution.bias, convolution.stride, KERNEL // 2))
        x = x.transpose(1, 2)
        return x + sinusoids(x.size(1), x.size(2)).to(x)

    def _convolve(self, index: int, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: [B, t, channels]; returns the complete outputs and the inputs that the next output reads."""
        convolution = self.convolutions[index]
        stride = convolution.stride[0]
        count = max(0, (inputs.size(1) - KERNEL) // stride + 1)
        if count == 0:
            return inputs.new_zeros(inputs.size(0), 0, convolution.out_channels), inputs
        window = inputs[:, : (count - 1) * stride + KERNEL].transpose(1, 2)
        outputs = convolution(pad_to_bucket(window, 2, count, stride))[:, :, :count].transpose(1, 2)
        return F.gelu(outputs), inputs[:, count * stride :].clone()


def cyclic_positions(dim: int) -> Tensor:
    """Whisper's table for streams without end, [1500, dim]: row 0 follows the last one as any row follows another.

    Sinusoids of up to 4 s turn a whole number of times in 30 s, the slower ones, which tell where in its 30 s a frame
    lies, stand still. Whisper's features depend on that place more than a little (a third of their energy), which a
    stream cannot have; with this table they are nearer to what is left when the place's share is taken away."""
    rates = _rates(dim)
    turns = (rates * POSITIONS / (2 * math.pi)).round()
    turning = rates >= 2 * math.pi / LONGEST_TURN
    cyclic = torch.arange(POSITIONS).unsqueeze(1) * (2 * math.pi / POSITIONS) * turns
    angles = torch.where(turning, cyclic, STILL_AT * rates)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's table of positions [length, dim]: sines, then cosines, of periods from 2 pi to 20000 pi frames."""
    angles = torch.arange(length).unsqueeze(1) * _rates(dim)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _rates(dim: int) -> Tensor:
    """[dim / 2] radians per frame."""
    return torch.exp(-math.log(10000.0) / (dim // 2 - 1) * torch.arange(dim // 2))
