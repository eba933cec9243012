"""Emformer (Shi et al., arXiv 2010.10759), one code path for training and streaming.

The parallel form is a step from the initial state: `run` computes any number of consecutive segments at once, layer by
layer, since the memory that a layer reads was written by the layer below. Shapes as in `attention.py`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import EncoderConfig
from .attention import EmformerAttention, Windows, WindowShape
from .convolution import CausalConvolution
from .streaming import StreamState


@dataclass(frozen=True)
class LayerState(StreamState):
    """What one layer keeps of the segments before; slots are filled from the right, unfilled ones are masked.

    left_context: [B, L, 2D] projected keys and values; memory: [B, M, 2D] projected memory vectors;
    convolution: [B, K - 1, D] last inputs of the depthwise convolution (K - 1 = 0 without one).
    """

    left_context: Tensor
    memory: Tensor
    convolution: Tensor


@dataclass(frozen=True)
class EmformerState(StreamState):
    """State of a stack: layers; past_segments [B] done per stream; pending [B, p, D] frames of unfinished segments."""

    past_segments: Tensor
    pending: Tensor
    layers: tuple
    segment_frames: int


class EmformerLayer(nn.Module):
    """Attention, causal convolution (optional) and feed-forward, each a residual branch, then a norm."""

    def __init__(self, config: EncoderConfig, index: int):
        super().__init__()
        dim = config.dim
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = EmformerAttention(
            dim,
            config.heads,
            config.attention_dropout,
            config.memory_kind,
            config.tanh_on_memory,
            gain=(index + 1) ** -0.5,  # deeper layers start smaller
        )
        self.dropout = nn.Dropout(config.dropout)
        self.convolution = CausalConvolution(dim, config.conv_kernel, config.dropout) if config.conv_kernel else None
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, config.ffn_dim),
            nn.SiLU(),
            nn.Dropout(config.activation_dropout),
            nn.Linear(config.ffn_dim, dim),
            nn.Dropout(config.dropout),
        )
        self.output_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor | None, state: LayerState, windows: Windows):
        """x: [B, N, C + R, D]; memory: [B, N, D] or None; returns x, memory for the layer above and the next state."""
        attended, memory, left_context, bank = self.attention(
            self.attention_norm(x), memory, state.left_context, state.memory, windows
        )
        x = x + self.dropout(attended)
        past = state.convolution
        if self.convolution is not None:
            convolved, past = self.convolution(x, past, windows.segment_frames)
            x = x + convolved
        x = self.output_norm(x + self.feed_forward(x))
        return x, memory, LayerState(left_context, bank, past)


class Emformer(nn.Module):
    """A stack of Emformer layers over encoder frames."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(EmformerLayer(config, index) for index in range(config.layers))

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> EmformerState:
        """Empty state. segment_frames: None takes the configuration's, 0 waits for the whole utterance."""
        config = self.config
        segment_frames = config.segment_frames if segment_frames is None else segment_frames
        if segment_frames < 0:
            raise ValueError(f"segment_frames must be 0 (whole utterance) or more, got {segment_frames}")
        left_frames, memory_size = (config.left_context_frames, config.memory_size) if segment_frames else (0, 0)
        like = next(self.parameters())
        layer = LayerState(
            left_context=like.new_zeros(batch_size, left_frames, 2 * config.dim),
            memory=like.new_zeros(batch_size, memory_size, 2 * config.dim),
            convolution=like.new_zeros(batch_size, max(config.conv_kernel - 1, 0), config.dim),
        )
        return EmformerState(
            past_segments=torch.zeros(batch_size, dtype=torch.long, device=like.device),
            pending=like.new_zeros(batch_size, 0, config.dim),
            layers=(layer,) * config.layers,
            segment_frames=segment_frames,
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, segment_frames: int | None = None) -> Tensor:
        """Parallel form. x: [B, T, D]; lengths: [B] valid frames, None for all; returns [B, T, D]."""
        return self._tail(x, lengths, self.initial_state(x.size(0), segment_frames))

    def step(self, x: Tensor, state: EmformerState) -> tuple[Tensor, EmformerState]:
        """x: [B, t, D], any t; returns [B, kC, D] of the segments that are now complete, and the next state."""
        pending = torch.cat([state.pending, x], dim=1)
        count, right = state.segment_frames, self.config.right_context_frames
        segments = max(pending.size(1) - right, 0) // count if count else 0
        if not segments:
            return pending[:, :0], replace(state, pending=pending)
        out, layers = self._run(pending[:, : segments * count + right], None, segments, count, state)
        state = EmformerState(state.past_segments + segments, pending[:, segments * count :], layers, count)
        return out, state.clone()  # slices of longer tensors would keep those alive

    def finish(self, state: EmformerState) -> Tensor:
        """The frames still pending, [B, p, D], as the parallel form has them when the utterance ends here."""
        return self._tail(state.pending, None, state)

    def _tail(self, x: Tensor, lengths: Tensor | None, state: EmformerState) -> Tensor:
        """All frames of x, the last segment ragged: [B, T, D] to [B, T, D]."""
        frames = x.size(1)
        if not frames:
            return x
        count = state.segment_frames or frames
        segments = -(-frames // count)
        if lengths is None and (segments * count > frames or self.config.right_context_frames):
            lengths = x.new_full((x.size(0),), frames, dtype=torch.long)
        return self._run(x, lengths, segments, count, state)[0][:, :frames]

    def _run(self, x: Tensor, lengths: Tensor | None, segments: int, count: int, state: EmformerState):
        """N segments at once. x: [B, up to NC + R, D]; lengths: [B] valid frames of x or None.

        Returns [B, NC, D] and the next layer states."""
        batch_size, frames, dim = x.shape
        right = self.config.right_context_frames
        left_frames, memory_size = state.layers[0].left_context.size(1), state.layers[0].memory.size(1)
        shape = WindowShape(segments, count, left_frames, right, memory_size)
        head_dim = dim // self.config.heads if self.config.rotary else None
        windows = shape.windows(state.past_segments, lengths, head_dim, x.dtype)

        x = F.pad(x, (0, 0, 0, segments * count + right - frames))
        x = x.unfold(1, count + right, count).transpose(2, 3)  # hard copy of the right context, section 2.2
        memory = (windows.summary_weights @ x[:, :, :count]).squeeze(2) if memory_size else None
        layers = []
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            x, memory, layer_state = layer(x, memory, layer_state, windows)
            layers.append(layer_state)
        return x[:, :, :count].reshape(batch_size, segments * count, dim), tuple(layers)
