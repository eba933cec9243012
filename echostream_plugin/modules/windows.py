"""What the windows of a call to Emformer attention look like: masks, rotary tables, weights of the summary.

Shapes: B streams, N consecutive segments, C segment frames, R right-context frames, L left-context frames, M memory
vectors, H heads, D channels. All frames are encoder frames of 40 ms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from echostream_plugin.modules.rotary import rotary_table


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
