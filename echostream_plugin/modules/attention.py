"""Emformer attention (section 2 of arXiv 2010.10759): every segment is one window over a shared sequence of keys.

Shapes: B streams, N consecutive segments, C segment frames, R right-context frames, L left-context frames, M memory
vectors, H heads, D channels. All frames are encoder frames of 40 ms.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .recording import keep
from .rotary import rotary_table, rotate, rotate_whole, whole_table


@dataclass(frozen=True)
class Windows:
    """What the windows of one call look like, the same for all layers.

    mask: [B * N, 1, C + R + 1, M + L + C + R], True where a query may look; the last query is the summary. None: every
    query sees every key.
    summary_weights: [B or 1, N, 1, C] averages the valid frames of a segment.
    rotary: tables by position in the call, None without rotary position.
    """

    segment_frames: int
    mask: Tensor | None
    summary_weights: Tensor
    rotary: "RotaryTables | None"


@dataclass(frozen=True)
class RotaryTables:
    """Rotary tables of a call, counted from its first frame; only distances matter, so any origin does.

    query: [N, C + R + 1, 1, D / 2H], the summary stands at its segment's start; frames: [L + NC, 1, D / 2H] keys of
    left context and segments; memory: [N, 1, 1, D / 2H] puts all memory at the start of the segment that reads it;
    right: [N, R, 1, D / 2H] keys of the right context.
    """

    query: tuple[Tensor, Tensor]
    frames: tuple[Tensor, Tensor]
    memory: tuple[Tensor, Tensor]
    right: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerWindow:
    """Rotated keys, and values, of one layer's window, [B, M + L + W, H, D / H] each; `step` fills the last W."""

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
        tables = self._rotary_tables(head_dim, dtype, device) if head_dim else None
        return Windows(self.segment_frames, self._mask(past_segments, valid), weights, tables)

    def step_window(self, past_segments: Tensor, frames: int, head_dim: int | None, dtype) -> StepWindow:
        """The window of one segment of `frames` frames, at most `segment_frames`, and the right context given with it.

        past_segments, head_dim: as for `windows`."""
        width = frames + self.right_frames
        device = past_segments.device
        mask = None
        if self.memory_size or self.left_frames:
            done = past_segments[:, None, None]
            size = (past_segments.size(0), width + 1, self.memory_size + self.left_frames + width)
            mask = torch.zeros(size, dtype=dtype, device=device)
            left = mask[:, :, self.memory_size : self.memory_size + self.left_frames]
            memory_gap = torch.arange(self.memory_size, device=device) < self.memory_size - done
            left_gap = torch.arange(self.left_frames, device=device) < self.left_frames - done * self.segment_frames
            mask[:, :, : self.memory_size].masked_fill_(memory_gap, -torch.inf)
            left.masked_fill_(left_gap, -torch.inf)
            mask[:, width:, : self.memory_size] = -torch.inf  # the summary does not read the memory
            mask = mask.unsqueeze(1)
        own = past = None
        if head_dim:
            sizes = frames, width, self.left_frames, self.memory_size, head_dim
            own, past = keep(_step_tables(*sizes, dtype, device))
        mean = torch.full((1, frames), 1 / frames, dtype=dtype, device=device)
        return StepWindow(frames, mean, mask, own, past, width)

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

    def _rotary_tables(self, head_dim: int, dtype, device) -> RotaryTables:
        starts = torch.arange(self.segments, device=device).unsqueeze(1) * self.segment_frames
        within = starts + torch.arange(self.segment_frames + self.right_frames, device=device)
        positions = {
            "query": torch.cat([within, starts], dim=1).unsqueeze(2),
            "frames": torch.arange(-self.left_frames, self.segments * self.segment_frames, device=device).unsqueeze(1),
            "memory": starts.unsqueeze(2),
            "right": within[:, self.segment_frames :].unsqueeze(2),
        }
        return RotaryTables(**{name: rotary_table(value, head_dim, dtype) for name, value in positions.items()})


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

        written = None if summary is None else self._written(out[:, :, -1] if attends else summary.squeeze(2))
        next_bank = bank if memory is None else bank[:, segments:]
        return out[:, :, :width], written, sequence[:, segments * count :], next_bank

    def step(self, x: Tensor, memory: Tensor | None, past: LayerWindow, window: StepWindow):
        """`forward` for one window x: [B, W, D] of valid frames, fewer and larger operations, no dropout.

        memory: [B, 1, D] or None; past: this layer's window, its last W places still empty.
        Returns outputs [B, W, D], memory for the layer above [B, 1, D] or None, and the projected keys and values of
        x and of `memory` [B, W (+ 1), 2D], not rotated."""
        width, count = window.width, window.frames
        projected = self.key_value(x if memory is None else torch.cat([x, memory], dim=1))
        flat = self.query(x)
        query = self._heads(flat, 1).squeeze(-3)
        attends = memory is not None and self.memory_kind == "attention"
        # the summary is the segment's mean at the segment's start: its query is the mean of the queries, not turned
        summary = self._heads(window.mean @ flat[:, :count], 1).squeeze(-3) if attends else None
        key, value = self._heads(projected[:, :width], 2).unbind(-3)
        if window.own:
            query, key = rotate_whole(query, window.own), rotate_whole(key, window.own)
        past.keys[:, -width:] = key
        past.values[:, -width:] = value
        if attends:
            query = torch.cat([query, summary], dim=1)
        mask = None if window.mask is None else window.mask[:, :, : width + int(attends)]
        heads = (part.transpose(1, 2) for part in (query, past.keys, past.values))
        out = F.scaled_dot_product_attention(*heads, attn_mask=mask)
        out = self.output(out.transpose(1, 2).flatten(2))
        written = None
        if memory is not None:
            written = self._written(out[:, width:] if attends else x[:, :count].mean(1, keepdim=True))
        return out[:, :width], written, projected

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

    def _written(self, memory: Tensor) -> Tensor:
        return torch.tanh(memory) if self.tanh_on_memory else memory.clamp(-10, 10)
