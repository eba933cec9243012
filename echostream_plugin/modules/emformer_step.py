"""The Emformer's step for one segment, written for speed: what `Emformer._run` does for any number of segments, in as
few tensor operations as it takes; for inference.

The past of all layers is prepared at once, the mask is added to the scores as numbers, a rotation takes three
operations, and the depthwise convolution of a few frames is a product and a sum. `modules/native.py` has the same step
as one compiled operator; this one runs where there is none, and on other devices than a CPU. Shapes as in `windows.py`,
W = C + R.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from echostream_plugin.modules.recording import keep
from echostream_plugin.modules.rotary import rotate_whole, whole_table
from echostream_plugin.modules.windows import WindowShape


@dataclass(frozen=True)
class LayerWindow:
    """Rotated keys, and values, of one layer's window, [B, M + L + W, H, D / H] each; the step fills the last W."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class StepWindow:
    """What the one window of a streaming step looks like, the same for all layers.

    mask: [B, 1, Q, M + L + W], added to the scores; None: every query sees every key. frames: C of the W frames;
    mean: [1, C] weights of the segment's mean;
    own, past: rotary tables of the window's frames [W, 1, D / H] and of memory and left context [M + L, 1, D / H],
    None without rotary position.
    """

    frames: int
    mean: Tensor
    mask: Tensor | None
    own: tuple[Tensor, Tensor] | None
    past: tuple[Tensor, Tensor] | None
    width: int

    @classmethod
    def of(cls, shape: WindowShape, past_segments: Tensor, frames: int, head_dim: int | None, dtype) -> "StepWindow":
        """The window of one segment of `frames` frames, at most `segment_frames`, and the right context given with it.

        past_segments, head_dim: as for `WindowShape.windows`."""
        width = frames + shape.right_frames
        device = past_segments.device
        mask = None
        if shape.memory_size or shape.left_frames:
            done = past_segments[:, None, None]
            size = (past_segments.size(0), width + 1, shape.memory_size + shape.left_frames + width)
            mask = torch.zeros(size, dtype=dtype, device=device)
            left = mask[:, :, shape.memory_size : shape.memory_size + shape.left_frames]
            memory_gap = torch.arange(shape.memory_size, device=device) < shape.memory_size - done
            left_gap = torch.arange(shape.left_frames, device=device) < shape.left_frames - done * shape.segment_frames
            mask[:, :, : shape.memory_size].masked_fill_(memory_gap, -torch.inf)
            left.masked_fill_(left_gap, -torch.inf)
            mask[:, width:, : shape.memory_size] = -torch.inf  # the summary does not read the memory
            mask = mask.unsqueeze(1)
        own = past = None
        if head_dim:
            sizes = frames, width, shape.left_frames, shape.memory_size, head_dim
            own, past = keep(_step_tables(*sizes, dtype, device))
        mean = torch.full((1, frames), 1 / frames, dtype=dtype, device=device)
        return cls(frames, mean, mask, own, past, width)

    def pasts(self, past: Tensor, heads: int) -> list:
        """The windows of all layers from [B, n, M + L, 2D], with room for the step's own frames."""
        key, value = past.unflatten(-1, (2, heads, -1)).unbind(-3)
        if self.past:
            key = rotate_whole(key, self.past)
        room = (0, 0, 0, 0, 0, self.width)
        keys, values = F.pad(key, room).unbind(1), F.pad(value, room).unbind(1)
        return [LayerWindow(*pair) for pair in zip(keys, values, strict=True)]


@lru_cache(maxsize=64)
def _step_tables(frames: int, width: int, left_frames: int, memory_size: int, head_dim: int, dtype, device):
    """Rotary tables of a step, which depend on sizes only; positions count from the segment's start."""
    with torch.inference_mode(False):  # kept longer than the caller's mode
        own = torch.arange(width, device=device)
        left = torch.arange(-left_frames, 0, device=device)
        past = torch.cat([torch.zeros(memory_size, dtype=torch.long, device=device), left])
        return tuple(whole_table(positions.unsqueeze(1), head_dim, dtype) for positions in (own, past))


def one_segment(stack, sizes, x, past_segments, left_context, memory, convolution) -> tuple[Tensor, ...]:
    """The step of a whole `Emformer`. sizes: the segment's frames C and the `WindowShape`; x: [B, W, D], all valid;
    past_segments, left_context, memory, convolution: as in `EmformerState`.

    Returns [B, C, D] and the next left context, memory and convolution inputs."""
    count, shape = sizes
    window = StepWindow.of(shape, past_segments, count, stack.rotary_dim, x.dtype)
    pasts = window.pasts(torch.cat([memory, left_context], dim=2), stack.config.heads)
    written = x[:, :count].mean(1, keepdim=True) if shape.memory_size else None
    projected, gated = [], []
    for layer, past, inputs in zip(stack.layers, pasts, convolution.unbind(1), strict=True):
        x, written, keys_values, depthwise = _layer(layer, x, written, past, inputs, window)
        projected.append(keys_values)
        gated.append(depthwise)

    projected = torch.stack(projected, dim=1)  # [B, n, W (+ 1), 2D]
    left_context = _newest(left_context, projected[:, :, :count])
    if shape.memory_size:
        memory = _newest(memory, projected[:, :, window.width :])
    if stack.config.conv_kernel > 1:
        convolution = _newest(convolution, torch.stack(gated, dim=1)[:, :, :count])
    return x[:, :count], left_context, memory, convolution


def _layer(layer, x: Tensor, memory: Tensor | None, past: LayerWindow, inputs: Tensor, window: StepWindow):
    """`EmformerLayer.forward` for a single window of x: [B, W, D], without dropout; inputs: [B, K - 1, D] of the
    convolution before. Fills `past` with the window's keys and values.

    Returns x, memory for the layer above [B, 1, D] or None, the projected keys and values of this window and of
    `memory`, [B, W (+ 1), 2D], and the inputs of the depthwise convolution [B, W, D] (None without one)."""
    attended, memory, projected = _attention(layer.attention, layer.attention_norm(x), memory, past, window)
    x = x + attended
    gated = None
    if layer.convolution is not None:
        convolved, gated = _convolution(layer.convolution, x, inputs)
        x = x + convolved
    norm, expand, activation, _, contract, _ = layer.feed_forward
    x = layer.output_norm(x + contract(activation(expand(norm(x)))))
    return x, memory, projected, gated


def _attention(attention, x: Tensor, memory: Tensor | None, past: LayerWindow, window: StepWindow):
    """`EmformerAttention.forward` for one window x: [B, W, D] of valid frames, fewer and larger operations, no dropout.

    memory: [B, 1, D] or None; past: this layer's window, its last W places still empty.
    Returns outputs [B, W, D], memory for the layer above [B, 1, D] or None, and the projected keys and values of
    x and of `memory` [B, W (+ 1), 2D], not rotated."""
    width, count, heads = window.width, window.frames, attention.heads
    projected = attention.key_value(x if memory is None else torch.cat([x, memory], dim=1))
    flat = attention.query(x)
    query = flat.unflatten(-1, (heads, -1))
    attends = memory is not None and attention.memory_kind == "attention"
    # the summary is the segment's mean at the segment's start: its query is the mean of the queries, not turned
    summary = (window.mean @ flat[:, :count]).unflatten(-1, (heads, -1)) if attends else None
    key, value = projected[:, :width].unflatten(-1, (2, heads, -1)).unbind(-3)
    if window.own:
        query, key = rotate_whole(query, window.own), rotate_whole(key, window.own)
    past.keys[:, -width:] = key
    past.values[:, -width:] = value
    if attends:
        query = torch.cat([query, summary], dim=1)
    mask = None if window.mask is None else window.mask[:, :, : width + int(attends)]
    parts = (part.transpose(1, 2) for part in (query, past.keys, past.values))
    out = F.scaled_dot_product_attention(*parts, attn_mask=mask)
    out = attention.output(out.transpose(1, 2).flatten(2))
    written = None
    if memory is not None:
        written = attention.written(out[:, width:] if attends else x[:, :count].mean(1, keepdim=True))
    return out[:, :width], written, projected


def _convolution(convolution, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """`CausalConvolution.forward` for one segment and its right context x: [B, W, D], without dropout; past:
    [B, K - 1, D].

    Returns [B, W, D] and the inputs of the depthwise convolution [B, W, D]."""
    gated = F.glu(convolution.gated(convolution.input_norm(x)), dim=-1)
    windows = torch.cat([past, gated], dim=1).unfold(1, convolution.kernel, 1).transpose(2, 3)  # [B, W, K, D]
    # a product and a sum: for so few frames three times as fast as a convolution
    mixed = (windows * convolution.depthwise.weight.squeeze(1).t()).sum(2) + convolution.depthwise.bias
    return convolution.output(F.silu(convolution.norm(mixed))), gated


def _newest(past: Tensor, new: Tensor) -> Tensor:
    """The newest S of [B, n, S, X] and the [B, n, t, X] that follow, in memory of its own."""
    size, added = past.size(2), new.size(2)
    if added >= size:
        return new[:, :, added - size :].clone()
    return torch.cat([past[:, :, added:], new], dim=2)
