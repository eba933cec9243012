"""Subsampling in time by 4, causal: encoder frame t (40 ms) sees feature frames (10 ms) up to 4t and none after."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from echostream_plugin.modules import native
from echostream_plugin.modules.lengths import pad_to_bucket
from echostream_plugin.modules.native_linear import pack_native
from echostream_plugin.modules.native_subsampling import NativeSubsampling
from echostream_plugin.modules.streaming import StreamState

KERNEL = 3
STRIDE = 2


@dataclass(frozen=True)
class SubsamplingState(StreamState):
    """What the two convolutions have yet to read again: one or two of their last inputs.

    features: [B, 1..2, F] feature frames; hidden: [B, channels, 1..2, F/2] outputs of the first convolution.
    """

    features: Tensor
    hidden: Tensor


class CausalSubsampling(nn.Module):
    """Two Conv2d of kernel 3 and stride 2, padded on the past side only, then a linear map to the encoder dimension.

    T feature frames give ceil(T / 4) encoder frames. Nothing of the future is read, so padding that follows an
    utterance in a batch cannot reach it.
    """

    def __init__(self, input_dim: int, channels: int, dim: int):
        super().__init__()
        self.input_dim = input_dim
        self.channels = channels
        self.bands = _halve(input_dim)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, channels, KERNEL, STRIDE, padding=(0, 1)) for inputs in (1, channels)
        )
        self.projection = nn.Linear(channels * _halve(self.bands), dim)
        self.norm = nn.LayerNorm(dim)
        self._native = None

    def compile_steps(self) -> bool:
        """From now on steps are taken by the compiled operator, where it was built; for inference on a CPU.

        Returns whether they are. The weights of the projection are packed for it."""
        path = native.instructions()
        if path is not None:
            pack_native(self, path)
            self._native = NativeSubsampling(self, path)
        return path is not None

    @staticmethod
    def output_lengths(lengths):
        """Encoder frames of so many feature frames (Tensor or int): ceil(lengths / 4)."""
        return (lengths + 3) // 4

    def initial_state(self, batch_size: int = 1) -> SubsamplingState:
        """The zeros that each convolution is padded with before its first input."""
        like = self.projection.bias
        return SubsamplingState(
            features=like.new_zeros(batch_size, KERNEL - 1, self.input_dim),
            hidden=like.new_zeros(batch_size, self.channels, KERNEL - 1, self.bands),
        )

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, T, F]; returns [B, ceil(T / 4), C]."""
        return self.step(features, self.initial_state(features.size(0)))[0]

    def step(self, features: Tensor, state: SubsamplingState) -> tuple[Tensor, SubsamplingState]:
        """features: [B, t, F], any t; returns the encoder frames [B, s, C] that they complete, and the next state."""
        features = torch.cat([state.features, features], dim=1)
        if self._native is not None and not torch.is_grad_enabled():
            if (tables := self._native.tables(features)) is not None:
                return self._compiled_step(tables, features, state.hidden)
        first, rest = self._convolve(0, features.unsqueeze(1))
        hidden = torch.cat([state.hidden, first], dim=2)
        second, hidden = self._convolve(1, hidden)
        batch_size, _, frames, _ = second.shape
        flat = second.transpose(1, 2).reshape(batch_size, frames, self.projection.in_features)
        # copies: slices of a longer piece would keep it alive
        return self.norm(self.projection(flat)), SubsamplingState(rest.squeeze(1).clone(), hidden.clone())

    def _compiled_step(self, tables, features: Tensor, hidden: Tensor) -> tuple[Tensor, SubsamplingState]:
        """`step` with the compiled operator, of all frames that have not been read for the last time."""
        first = _complete(features.size(1))
        inner = hidden.size(2) + first
        count = _complete(inner)
        out, rest = tables.step(features, hidden, count, inner - STRIDE * count)
        return out, SubsamplingState(features[:, STRIDE * first :].clone(), rest)

    def _apply(self, *args, **kwargs):
        self._forget()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args):
        self._forget()
        super()._load_from_state_dict(*args)

    def _forget(self):
        if self._native is not None:
            self._native.forget()

    def _convolve(self, index: int, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs: [B, channels, t, bands]; returns the complete outputs and the inputs that the next output reads."""
        convolution = self.convolutions[index]
        count = _complete(inputs.size(2))
        if count:
            window = inputs[:, :, : (count - 1) * STRIDE + KERNEL]
            outputs = torch.relu_(convolution(pad_to_bucket(window, 2, count, STRIDE)))[:, :, :count]
        else:
            outputs = inputs.new_zeros(inputs.size(0), self.channels, 0, _halve(inputs.size(3)))
        return outputs, inputs[:, :, count * STRIDE :]


def _complete(frames: int) -> int:
    """How many outputs of a convolution so many inputs complete."""
    return max((frames - KERNEL) // STRIDE + 1, 0)


def _halve(bands: int) -> int:
    return (bands + 1) // STRIDE
