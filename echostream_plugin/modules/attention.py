"""Emformer attention (section 2 of arXiv 2010.10759): every segment is one window over a shared sequence of keys.

Shapes as in `windows.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.rotary import rotate
from echostream_plugin.modules.windows import Windows


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
        query = self.query(torch.cat([frames, summary], dim=2) if attends else frames)

        projected = self.key_value(frames)
        sequence = torch.cat([left_context, projected[:, :, :count].reshape(batch_size, -1, 2 * dim)], dim=1)
        right = projected[:, :, count:] if width > count else None
        if memory is not None:
            bank = torch.cat([bank, self.key_value(memory)], dim=1)
        key, value = self._gather(sequence, None if memory is None else bank, right, windows)
        out = self.output(self._attend(query, key, value, windows))

        written = None if summary is None else self.written(out[:, :, -1] if attends else summary.squeeze(2))
        next_bank = bank if memory is None else bank[:, segments:]
        return out[:, :, :width], written, sequence[:, segments * count :], next_bank

    def _gather(self, sequence: Tensor, bank: Tensor | None, right: Tensor | None, windows: Windows):
        """The windows' keys and values, each [B * N, H, M + L + C + R, D / H].

        sequence: [B, L + NC, 2D] of left context and segments; bank: [B, M + N, 2D]; right: [B, N, R, 2D]."""
        count, tables = windows.segment_frames, windows.rotary
        segments = windows.summary_weights.size(1)
        width = sequence.size(1) - (segments - 1) * count
        keys, values = [], []
        if bank is not None:
            memory = bank[:, :-1].unfold(1, bank.size(1) - segments, 1).transpose(2, 3)  # [B, N, M, 2D]
            self._append(keys, values, memory, tables and tables.memory)
        key, value = self._heads(sequence, 2).unbind(-3)
        if tables:  # before the windows are cut: each frame lies in several
            key = rotate(key, tables.frames)
        for parts, part in ((keys, key), (values, value)):
            parts.append(part.unfold(1, width, count).transpose(3, 4))  # [B, N, H, L + C, D / H]
        if right is not None:
            self._append(keys, values, right, tables and tables.right)
        return [torch.cat(parts, dim=3).flatten(0, 1) for parts in (keys, values)]

    def _append(self, keys: list, values: list, part: Tensor, table: tuple[Tensor, Tensor] | None) -> None:
        """Split [B, N, X, 2D] into keys, rotated, and values, both [B, N, H, X, D / H]."""
        key, value = self._heads(part, 2).unbind(-3)
        keys.append((rotate(key, table) if table else key).transpose(2, 3))
        values.append(value.transpose(2, 3))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, windows: Windows) -> Tensor:
        """query: [B, N, Q, D]; key, value: [B * N, H, K, D / H]; returns [B, N, Q, D]."""
        heads = self._heads(query, 1).squeeze(-3)
        queries = heads.size(2)
        if windows.rotary:
            heads = rotate(heads, tuple(table[:, :queries] for table in windows.rotary.query))
        mask = None if windows.mask is None else windows.mask[:, :, :queries]
        dropout = self.dropout if self.training else 0.0
        heads = heads.flatten(0, 1).transpose(1, 2)
        out = F.scaled_dot_product_attention(heads, key, value, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).reshape(query.shape)

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """[..., parts * D] to [..., parts, H, D / H]."""
        return x.unflatten(-1, (parts, self.heads, -1))

    def written(self, memory: Tensor) -> Tensor:
        """What the layer above gets of memory vectors [..., D]: bounded."""
        return torch.tanh(memory) if self.tanh_on_memory else memory.clamp(-10, 10)
