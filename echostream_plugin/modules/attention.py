"""Emformer attention (section 2 of arXiv 2010.10759): every segment is one window over a shared sequence of keys.

Shapes: B streams, N consecutive segments, C segment frames, R right-context frames, L left-context frames, M memory
vectors, H heads, D channels. All frames are encoder frames of 40 ms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rotary import rotary_table, rotate


@dataclass(frozen=True)
class Windows:
    """What the windows of one call look like, the same for all layers.

    mask: [B * N, 1, C + R + 1, M + L + C + R], True where a query may look; the last query is the summary. None: every
    query sees every key.
    summary_weights: [B or 1, N, 1, C] averages the valid frames of a segment.
    query_table, key_table: rotary tables over the window, None without rotary position.
    """

    segment_frames: int
    mask: Tensor | None
    summary_weights: Tensor
    query_table: tuple[Tensor, Tensor] | None
    key_table: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class WindowShape:
    """Sizes of the windows of one call: N segments of C frames with L, R frames around them and M memory vectors."""

    segments: int
    segment_frames: int
    left_frames: int
    right_frames: int
    memory_size: int

    def windows(self, past_segments: Tensor, lengths: Tensor | None, head_dim: int | None, dtype) -> Windows:
        """Masks and tables of a call.

        past_segments: [B] segments done before this call; lengths: [B] valid frames of this call counted from its first
        segment, None if all are; head_dim: channels to rotate per head, None without rotary position.
        """
        device = past_segments.device
        valid = None if lengths is None else self._valid_frames(lengths)
        weights = torch.ones(1, self.segments, 1, self.segment_frames, device=device, dtype=dtype)
        if valid is not None:
            weights = valid[:, :, None, : self.segment_frames].to(dtype)
        weights = weights / weights.sum(-1, keepdim=True)
        tables = self._rotary_tables(head_dim, dtype, device) if head_dim else (None, None)
        return Windows(self.segment_frames, self._mask(past_segments, valid), weights, *tables)

    def _valid_frames(self, lengths: Tensor) -> Tensor:
        """[B, N, C + R]: which frames exist. A segment wholly in the padding sees itself, as a softmax needs a key."""
        starts = torch.arange(self.segments, device=lengths.device) * self.segment_frames
        within = torch.arange(self.segment_frames + self.right_frames, device=lengths.device)
        left_over = lengths[:, None, None] - starts[:, None]
        return (within < left_over) | ((left_over <= 0) & (within < self.segment_frames))

    def _mask(self, past_segments: Tensor, valid: Tensor | None) -> Tensor | None:
        """[B * N, 1, Q, K], see Windows."""
        if valid is None and not self.memory_size and not self.left_frames:
            return None
        batch_size = past_segments.size(0)
        device = past_segments.device
        done = past_segments[:, None, None] + torch.arange(self.segments, device=device)[:, None]  # [B, N, 1]
        memory = torch.arange(self.memory_size, device=device) >= self.memory_size - done
        left = torch.arange(self.left_frames, device=device) >= self.left_frames - done * self.segment_frames
        width = self.segment_frames + self.right_frames
        if valid is None:
            valid = torch.ones(batch_size, self.segments, width, dtype=torch.bool, device=device)
        frames = torch.cat([memory, left, valid], dim=-1)
        summary = torch.cat([torch.zeros_like(memory), left, valid], dim=-1)  # the summary does not read the memory
        mask = torch.cat([frames.unsqueeze(2).expand(-1, -1, width, -1), summary.unsqueeze(2)], dim=2)
        return mask.flatten(0, 1).unsqueeze(1)

    def _rotary_tables(self, head_dim: int, dtype, device) -> tuple:
        """Positions count from the segment's first frame; memory and summary stand there, unrotated."""
        frames = torch.arange(-self.left_frames, self.segment_frames + self.right_frames, device=device)
        origin = frames.new_zeros(1)
        queries = torch.cat([frames[self.left_frames :], origin])
        keys = torch.cat([origin.expand(self.memory_size), frames])
        return rotary_table(queries, head_dim, dtype), rotary_table(keys, head_dim, dtype)


class EmformerAttention(nn.Module):
    """Multi-head attention of segments over [memory | left context | segment | right context].

    Args:
        dim, heads: channels and attention heads.
        dropout: of the attention weights.
        memory_kind: 'attention' writes what the summary vector (the segment's mean) attends to, 'mean' the mean itself.
        tanh_on_memory: bound memory vectors by tanh instead of clamping them to [-10, 10].
        gain: of the Xavier initialisation of query, key and value weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float, memory_kind: str, tanh_on_memory: bool, gain: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.memory_kind = memory_kind
        self.tanh_on_memory = tanh_on_memory
        self.key_value = nn.Linear(dim, 2 * dim)
        self.query = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.key_value.weight, gain=gain)
        nn.init.xavier_uniform_(self.query.weight, gain=gain)

    def forward(self, frames: Tensor, memory: Tensor | None, left_context: Tensor, bank: Tensor, windows: Windows):
        """Attention of all segments of a call at once.

        frames: [B, N, C + R, D]; memory: [B, N, D] vectors that the layer below wrote for these segments (None: there
        is no memory); left_context: [B, L, 2D] projected keys and values of the frames before; bank: [B, M, 2D] those
        of the memory before. Returns outputs [B, N, C + R, D], memory for the layer above [B, N, D] or None, and the
        next left context and bank.
        """
        batch_size, segments, width, dim = frames.shape
        count = windows.segment_frames
        summary = None if memory is None else windows.summary_weights @ frames[:, :, :count]
        attends = summary is not None and self.memory_kind == "attention"
        query = self._split(self.query(torch.cat([frames, summary], dim=2) if attends else frames), 1)[0]

        projected = self.key_value(frames)
        sequence = torch.cat([left_context, projected[:, :, :count].reshape(batch_size, -1, 2 * dim)], dim=1)
        parts = [sequence.unfold(1, left_context.size(1) + count, count).transpose(2, 3)]
        if memory is not None:
            bank = torch.cat([bank, self.key_value(memory)], dim=1)
            memory_size = bank.size(1) - segments
            parts.insert(0, bank[:, :-1].unfold(1, memory_size, 1).transpose(2, 3))
            bank = bank[:, segments:]
        if width > count:
            parts.append(projected[:, :, count:])
        key, value = self._split(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0], 2)
        out = self._attend(query, key, value, windows).view(batch_size, segments, -1, dim)
        out = self.output(out)
        written = self._written(out[:, :, -1] if attends else summary.squeeze(2)) if summary is not None else None
        return out[:, :, :width], written, sequence[:, segments * count :], bank

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """[B, N, X, parts * D] to [parts, B * N, H, X, D / H]."""
        batch_size, segments, frames, _ = x.shape
        return x.reshape(batch_size * segments, frames, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, windows: Windows) -> Tensor:
        """query: [B * N, H, Q, D / H]; key, value: [B * N, H, K, D / H]; returns [B * N, Q, D]."""
        queries = query.size(2)
        if windows.query_table is not None:
            query = rotate(query, tuple(table[:queries] for table in windows.query_table))
            key = rotate(key, windows.key_table)
        mask = None if windows.mask is None else windows.mask[:, :, :queries]
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).flatten(2)

    def _written(self, memory: Tensor) -> Tensor:
        return torch.tanh(memory) if self.tanh_on_memory else memory.clamp(-10, 10)
