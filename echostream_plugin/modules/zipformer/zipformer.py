"""The stacks of a Zipformer, one code path for training and streaming.

The parallel form is a step from the initial state: consecutive chunks, however many, are computed at once, stack by
stack.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules.recording import Recorder, keep
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.zipformer.attention import MASKED, StackConfig, Windows
from echostream_plugin.modules.zipformer.parts import Downsample, position_table, with_channels
from echostream_plugin.modules.zipformer.schedule import Clock
from echostream_plugin.modules.zipformer.stack import DownsampledStack, LayerStack

FACTORS = (1, 2, 4, 8, 4, 2)  # of the stacks: 50, 25, 12.5, 6.25, 12.5 and 25 frames a second
BLOCK = max(FACTORS)  # a chunk has a multiple of so many frames of 20 ms
OUTPUT_FACTOR = 2
DROPPED = 0.125  # of the sequences of a training, twice: the higher half, then all, of a stack's masked channels


@dataclass(frozen=True)
class StackState(StreamState):
    """Of the n layers of a stack: past [B, n, M + L, X], memory and left context, keys and values side by side;
    inputs [B, n, 2, K // 2, C] of the convolutions. Slots are filled from the right, unfilled ones are masked."""

    past: Tensor
    inputs: Tensor


@dataclass(frozen=True)
class ZipformerState(StreamState):
    """What is kept of the chunks before. past_chunks: [B]; pending: [B, p, C] frames of 20 ms of an unfinished chunk;
    chunk: frames of 20 ms, 0 for the whole utterance; left_chunks: so many are attended, memory: and so many means of
    those before."""

    past_chunks: Tensor
    pending: Tensor
    stacks: tuple[StackState, ...]
    chunk: int
    left_chunks: int
    memory: int


class Zipformer(nn.Module):
    """Frames of 20 ms [B, T, dim of the first stack] to frames of 40 ms [B, ceil(T / 2), largest dim].

    A frame sees its own chunk as a whole, the `left_chunks` before it, means of the `memory` chunks before those, and
    through convolutions the whole past.

    configs: of the stacks; unmasked: of each, so many channels are never masked in training; None: nothing is masked.
    """

    def __init__(self, configs: list[StackConfig], clock: Clock, unmasked: tuple | None = None):
        super().__init__()
        self.configs, self.unmasked = configs, unmasked
        self.encoders = nn.ModuleList(
            (LayerStack if config.factor == 1 else DownsampledStack)(config, clock, (place, len(configs)))
            for place, config in enumerate(configs)
        )
        self.downsample_output = Downsample(OUTPUT_FACTOR)
        self.dim = max(config.dim for config in configs)
        self._recorder = None

    def record_steps(self) -> None:
        """From now on streaming steps can be recorded, within `recording.record_calls`; for inference."""
        self._recorder = Recorder(self, self._compute)

    def initial_state(self, batch_size: int, chunk: int, left_chunks: int, memory: int) -> ZipformerState:
        """The state before the first frame; arguments as in `ZipformerState`."""
        like = self.downsample_output.bias
        left, memory = (left_chunks * chunk, memory) if chunk else (0, 0)
        return ZipformerState(
            past_chunks=torch.zeros(batch_size, dtype=torch.long, device=like.device),
            pending=like.new_zeros(batch_size, 0, self.configs[0].dim),
            stacks=tuple(
                StackState(
                    like.new_zeros(batch_size, each.layers, memory + left // each.factor, sum(each.widths)),
                    like.new_zeros(batch_size, each.layers, 2, each.kernel // 2, each.dim),
                )
                for each in self.configs
            ),
            chunk=chunk,
            left_chunks=left_chunks if chunk else 0,
            memory=memory,
        )

    def forward(self, x: Tensor, lengths: Tensor, chunk: int, left_chunks: int, memory: int) -> Tensor:
        """Parallel form. x: [B, T, C]; lengths: [B] valid frames. Returns [B, ceil(T / 2), C']."""
        before = -(-x.size(1) // chunk) - 1 if chunk else 0  # chunks before the last one
        memory = memory if before > left_chunks else 0
        state = self.initial_state(x.size(0), chunk, min(left_chunks, max(before, 0)), memory)
        return self._tail(x, lengths, state)

    def step(self, x: Tensor, state: ZipformerState) -> tuple[Tensor, ZipformerState]:
        """x: [B, t, C], any t; returns [B, s, C'] of the chunks that are now complete, and the next state."""
        pending = torch.cat([state.pending, x], dim=1)
        chunks = pending.size(1) // state.chunk if state.chunk else 0
        if not chunks:
            return x.new_zeros(x.size(0), 0, self.dim), replace(state, pending=pending)
        done, rest = pending[:, : chunks * state.chunk], pending[:, chunks * state.chunk :].clone()
        out, stacks = self._run(done, None, chunks, state, keep_state=True)
        return out, replace(state, past_chunks=state.past_chunks + chunks, pending=rest, stacks=stacks)

    def finish(self, x: Tensor, state: ZipformerState) -> Tensor:
        """The frames [B, r, C'] still missing if the utterance ended with x: [B, t, C]; the state stays valid."""
        return self._tail(torch.cat([state.pending, x], dim=1), None, state)

    def _tail(self, x: Tensor, lengths: Tensor | None, state: ZipformerState) -> Tensor:
        """All frames of x, the last chunk ragged: [B, T, C] to [B, ceil(T / 2), C'].

        Of a ragged chunk that is alone, no more frames are computed than it has."""
        frames, batch_size = x.size(1), x.size(0)
        if not frames:
            return x.new_zeros(batch_size, 0, self.dim)
        chunks = -(-frames // state.chunk) if state.chunk else 1
        size = chunks * state.chunk if chunks > 1 else -(-frames // BLOCK) * BLOCK
        valid = frames if lengths is None and size > frames else lengths
        out, _ = self._run(F.pad(x, (0, 0, 0, size - frames)), valid, chunks, state, keep_state=False)
        return out[:, : (frames + 1) // OUTPUT_FACTOR]

    def _run(self, x: Tensor, lengths: Tensor | int | None, chunks: int, state: ZipformerState, keep_state: bool):
        """N chunks at once. x: [B, T, C], T a multiple of both N and BLOCK; lengths: [B] valid frames of x, one number
        for all streams, or None where all are. Returns [B, T / 2, C'] and the next states of the stacks, if kept."""
        key = chunks, state.chunk, state.left_chunks, state.memory, lengths, keep_state
        tensors = x, state.past_chunks, *(each.past for each in state.stacks), *(s.inputs for s in state.stacks)
        recorded = self._recorder and chunks == 1 and not isinstance(lengths, Tensor)
        out = (self._recorder if recorded else self._compute)(key, *tensors)
        count = len(self.configs)
        stacks = tuple(StackState(*pair) for pair in zip(out[1 : 1 + count], out[1 + count :], strict=True))
        return out[0], stacks

    def _compute(self, key, x: Tensor, past_chunks: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """`_run` on tensors alone, as a recorder needs it."""
        chunks, chunk, left_chunks, memory, lengths, keep_state = key
        if isinstance(lengths, int):
            lengths = torch.full((x.size(0),), lengths, device=x.device)
        shape = _Shape(chunks, x.size(1) // chunks, chunk, left_chunks, memory)
        exists = shape.exists(past_chunks, lengths)
        windows = {config.factor: shape.windows(config, exists, lengths, x) for config in self.configs}
        count, outputs, pasts, kept = len(self.configs), [], [], []
        masks = self._channel_masks(x)
        for i, (config, stack) in enumerate(zip(self.configs, self.encoders, strict=True)):
            x = with_channels(x, config.dim)
            window = windows[config.factor]
            more = () if config.factor == 1 else (lengths,)
            x, added, inputs = stack(x, states[i], states[count + i], window, masks[i], *more)
            outputs.append(x)
            if keep_state:
                pasts.append(window.next_past(states[i], added))
                kept.append(inputs)
        return self.downsample_output(self._all_channels(outputs), lengths), *pasts, *kept

    def _all_channels(self, outputs: list) -> Tensor:
        """The newest output, and for the channels that it lacks those of the newest that has them."""
        pieces = [outputs[-1]]
        have = outputs[-1].size(2)
        for output in reversed(outputs[:-1]):
            if output.size(2) > have:
                pieces.append(output[:, :, have:])
                have = output.size(2)
        return torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]

    def _channel_masks(self, x: Tensor) -> list:
        """Of each stack [B, 1, C]: in training the upper half of the channels that may be masked is zero for about a
        quarter of the sequences, all of them for an eighth, in all stacks the same sequences."""
        if not self.training or self.unmasked is None:
            return [None] * len(self.configs)
        some, more = (torch.rand(2, x.size(0), 1, 1, device=x.device) > DROPPED).to(x.dtype)
        masks = []
        for config, unmasked in zip(self.configs, self.unmasked, strict=True):
            half = (config.dim - unmasked) // 2
            parts = torch.ones_like(some), some, some * more
            sizes = unmasked, half, config.dim - unmasked - half
            masks.append(torch.cat([p.expand(-1, -1, size) for p, size in zip(parts, sizes, strict=True)], dim=2))
        return masks


@dataclass(frozen=True)
class _Shape:
    """Sizes of the windows of one call, in frames of 20 ms: N windows of S, of which a whole chunk has `chunk` (0 for
    the whole utterance), `left_chunks` before each and M memory vectors."""

    chunks: int
    frames: int
    chunk: int
    left_chunks: int
    memory: int

    def exists(self, past_chunks: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which memory vectors [B, N, M] and frames [B, N, L + S] of the windows there are."""
        device, left = past_chunks.device, self.left_chunks * self.chunk
        done = past_chunks[:, None, None] + torch.arange(self.chunks, device=device)[:, None]
        memory = torch.arange(self.memory, device=device) >= self.memory + self.left_chunks - done
        before = torch.arange(left, device=device) >= left - done * self.chunk
        own = torch.ones_like(done, dtype=torch.bool).expand(-1, -1, self.frames)
        if lengths is not None:
            places = torch.arange(self.chunks * self.frames, device=device).view(self.chunks, self.frames)
            own = places < lengths[:, None, None]
        return memory, torch.cat([before, own], dim=2)

    def windows(self, config: StackConfig, exists: tuple, lengths: Tensor | None, like: Tensor) -> Windows:
        """The windows at the rate of a stack. exists: see there; like: any tensor of the call."""
        factor, (memory, frames) = config.factor, exists
        frames = frames[:, :, ::factor]
        size, left = self.frames // factor, self.left_chunks * self.chunk // factor
        there = torch.cat([memory, frames], dim=2).flatten(0, 1)
        mask = torch.zeros(there.shape, dtype=like.dtype, device=like.device).masked_fill(~there, MASKED)
        valid = None
        if lengths is not None:
            valid = frames[:, :, left:].flatten(1).unsqueeze(2).to(like.dtype)
            lengths = (lengths + factor - 1) // factor
        return Windows(
            count=self.chunks,
            frames=size,
            left=left,
            memory=self.memory,
            mask=mask[:, None, None],
            valid=valid,
            lengths=lengths,
            positions=keep(position_table(left, size, config.position_dim, like.dtype, like.device)),
            chunk=self.chunk // factor or None,
        )
