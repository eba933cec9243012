"""Emformer (Shi et al., arXiv 2010.10759): the general form, one code path for training and streaming.

The parallel form is a step from the initial state: `_run` computes any number of consecutive segments at once, layer by
layer, since the memory that a layer reads was written by the layer below. Streaming in inference takes the faster form
of `emformer_step.py` for one segment; tests compare the two. Shapes as in `windows.py`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.config import EncoderConfig
from echostream_plugin.modules import dense_attention, native
from echostream_plugin.modules.attention import EmformerAttention
from echostream_plugin.modules.convolution import CausalConvolution
from echostream_plugin.modules.emformer_step import one_segment
from echostream_plugin.modules.native_linear import pack_native
from echostream_plugin.modules.native_step import NativeStep
from echostream_plugin.modules.recomputing import keep, recompute
from echostream_plugin.modules.recording import Recorder
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.windows import Windows, WindowShape


@dataclass(frozen=True)
class EmformerState(StreamState):
    """What a stack keeps of the segments before, all its layers (n) in one tensor of each kind.

    past_segments: [B] done per stream; pending: [B, p, D] frames of unfinished segments; left_context: [B, n, L, 2D]
    projected keys and values, not rotated; memory: [B, n, M, 2D] projected memory vectors; convolution:
    [B, n, K - 1, D] last inputs of the depthwise convolutions (K - 1 = 0 without them). Slots are filled from the
    right, unfilled ones are masked.
    """

    past_segments: Tensor
    pending: Tensor
    left_context: Tensor
    memory: Tensor
    convolution: Tensor
    segment_frames: int


ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU}


class EmformerLayer(nn.Module):
    """Attention, causal convolution (optional) and feed-forward, each a residual branch, then a norm (optional)."""

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
            ACTIVATIONS[config.activation](),
            nn.Dropout(config.activation_dropout),
            nn.Linear(config.ffn_dim, dim),
            nn.Dropout(config.dropout),
        )
        self.output_norm = nn.LayerNorm(dim) if config.output_norm else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor | None, past: tuple[Tensor, Tensor, Tensor], windows: Windows):
        """x: [B, N, C + R, D]; memory: [B, N, D] or None; past: this layer's left context, memory and convolution
        inputs; returns x, memory for the layer above and the next past."""
        left_context, bank, inputs = past
        attended, memory, left_context, bank = self.attention(
            self.attention_norm(x), memory, left_context, bank, windows
        )
        x = x + self.dropout(attended)
        if self.convolution is not None:
            convolved, inputs = self.convolution(x, inputs, windows.segment_frames)
            x = x + convolved
        x = self.output_norm(x + self.feed_forward(x))
        return x, memory, (left_context, bank, inputs)

    def dense(self, x: Tensor, mask: Tensor, rotary: bool) -> Tensor:
        """`forward` for whole utterances x: [B, T, D] without memory, right context and convolution; see
        `dense_attention`."""
        attended = dense_attention.dense_attention(self.attention, self.attention_norm(x), mask, rotary)
        x = x + self.dropout(attended)
        return self.output_norm(x + self.feed_forward(x))


class Emformer(nn.Module):
    """A stack of Emformer layers over encoder frames."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(EmformerLayer(config, index) for index in range(config.layers))
        self._recorder = self._native = None
        self._kept = keep

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """In training, keep only the inputs of each layer for the backward pass and compute the rest again there: less
        memory, more time, the same gradients."""
        self._kept = recompute if enabled else keep

    def compile_steps(self) -> bool:
        """From now on steps are taken by the compiled operator, where it was built; for inference on a CPU.

        Returns whether they are. The weights of linear layers are packed for it."""
        path = native.instructions()
        if path is not None:
            pack_native(self, path)
            self._native = NativeStep(self, path)
            self._native.tables(next(self.parameters()))
        return path is not None

    def record_steps(self) -> None:
        """From now on streaming steps can be recorded, within `recording.record_calls`; for inference."""
        self._recorder = Recorder(self, self._one_segment)

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> EmformerState:
        """Empty state. segment_frames: None takes the configuration's, 0 waits for the whole utterance."""
        config = self.config
        segment_frames = config.segment_frames if segment_frames is None else segment_frames
        if segment_frames < 0:
            raise ValueError(f"segment_frames must be 0 (whole utterance) or more, got {segment_frames}")
        left_frames, memory_size = (config.left_context_frames, config.memory_size) if segment_frames else (0, 0)
        like = next(self.parameters())
        layers, dim, inputs = config.layers, config.dim, max(config.conv_kernel - 1, 0)
        return EmformerState(
            past_segments=torch.zeros(batch_size, dtype=torch.long, device=like.device),
            pending=like.new_zeros(batch_size, 0, dim),
            left_context=like.new_zeros(batch_size, layers, left_frames, 2 * dim),
            memory=like.new_zeros(batch_size, layers, memory_size, 2 * dim),
            convolution=like.new_zeros(batch_size, layers, inputs, dim),
            segment_frames=segment_frames,
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, segment_frames: int | None = None) -> Tensor:
        """Parallel form. x: [B, T, D]; lengths: [B] valid frames, None for all; returns [B, T, D]."""
        config = self.config
        count = config.segment_frames if segment_frames is None else segment_frames
        plain = not (config.memory_size or config.right_context_frames or config.conv_kernel)
        if plain and count > 0 and dense_attention.pays(x.size(1), count, config.left_context_frames):
            mask = dense_attention.segment_mask(x.size(1), count, config.left_context_frames, lengths, x.device)
            for layer in self.layers:
                x = layer.dense(x, mask, config.rotary)
            return x
        return self._tail(x, lengths, self.initial_state(x.size(0), segment_frames))

    def step(self, x: Tensor, state: EmformerState) -> tuple[Tensor, EmformerState]:
        """x: [B, t, D], any t; returns [B, kC, D] of the segments that are now complete, and the next state."""
        pending = torch.cat([state.pending, x], dim=1)
        count, right = state.segment_frames, self.config.right_context_frames
        segments = max(pending.size(1) - right, 0) // count if count else 0
        if not segments:
            return pending[:, :0], replace(state, pending=pending)
        window = pending[:, : segments * count + right]
        if segments == 1 and not self._differentiable:
            out, kept = self._step(window, count, state)
        else:
            out, kept = self._run(window, None, segments, count, state)
        rest = pending[:, segments * count :].clone()  # a slice of a longer tensor would keep that alive
        return out, EmformerState(state.past_segments + segments, rest, *kept, count)

    def finish(self, state: EmformerState) -> Tensor:
        """The frames still pending, [B, p, D], as the parallel form has them when the utterance ends here."""
        frames = state.pending.size(1)
        if 0 < frames <= (state.segment_frames or frames) and not self._differentiable:
            return self._step(state.pending, frames, state, keeps=False)[0]
        return self._tail(state.pending, None, state)

    def _apply(self, *args, **kwargs):
        if self._native is not None:
            self._native.forget()
        return super()._apply(*args, **kwargs)

    @property
    def _differentiable(self) -> bool:
        return self.training or torch.is_grad_enabled()

    def _tail(self, x: Tensor, lengths: Tensor | None, state: EmformerState) -> Tensor:
        """All frames of x, the last segment ragged: [B, T, D] to [B, T, D]."""
        frames = x.size(1)
        if not frames:
            return x
        count = state.segment_frames or frames
        segments = -(-frames // count)
        if lengths is None and (segments * count > frames or self.config.right_context_frames):
            lengths = x.new_full((x.size(0),), frames, dtype=torch.long)
        return self._run(x, lengths, segments, count, state, keeps=False)[0][:, :frames]

    def _run(
        self, x: Tensor, lengths: Tensor | None, segments: int, count: int, state: EmformerState, keeps: bool = True
    ):
        """N segments at once. x: [B, up to NC + R, D]; lengths: [B] valid frames of x or None.

        Returns [B, NC, D] and the next left context, memory and convolution inputs of all layers; None for these, and
        no memory for them, unless it `keeps` them."""
        batch_size, frames, dim = x.shape
        right = self.config.right_context_frames
        left_frames, memory_size = state.left_context.size(2), state.memory.size(2)
        shape = WindowShape(segments, count, left_frames, right, memory_size)
        windows = shape.windows(state.past_segments, lengths, self.rotary_dim, x.dtype)

        x = F.pad(x, (0, 0, 0, segments * count + right - frames))
        x = x.unfold(1, count + right, count).transpose(2, 3)  # hard copy of the right context, section 2.2
        memory = (windows.summary_weights @ x[:, :, :count]).squeeze(2) if memory_size else None
        kept = [] if keeps else None
        pasts = zip(state.left_context.unbind(1), state.memory.unbind(1), state.convolution.unbind(1), strict=True)
        for layer, past in zip(self.layers, pasts, strict=True):
            x, memory, past = self._kept(layer, x, memory, past, windows)
            if keeps:
                kept.append(past)
        if keeps:
            kept = tuple(torch.stack(tensors, dim=1) for tensors in zip(*kept, strict=True))
        return x[:, :, :count].reshape(batch_size, segments * count, dim), kept

    def _step(self, x: Tensor, count: int, state: EmformerState, keeps: bool = True):
        """`_run` for one segment in fewer operations. x: [B, count + up to R, D], all of it valid; returns
        [B, count, D] and what `_run` returns with it, which may be None unless the caller `keeps` it."""
        if self._native is not None and (tables := self._native.tables(x)) is not None:
            return tables.step(x, count, state, keeps)
        left_frames, memory_size = state.left_context.size(2), state.memory.size(2)
        shape = WindowShape(1, state.segment_frames or count, left_frames, x.size(1) - count, memory_size)
        step = self._recorder or self._one_segment
        out, *kept = step((count, shape), x, state.past_segments, state.left_context, state.memory, state.convolution)
        return out, tuple(kept)

    def _one_segment(self, *arguments) -> tuple[Tensor, ...]:
        return one_segment(self, *arguments)

    @property
    def rotary_dim(self) -> int | None:
        """Channels to rotate per head, None without rotary position."""
        return self.config.dim // self.config.heads if self.config.rotary else None
