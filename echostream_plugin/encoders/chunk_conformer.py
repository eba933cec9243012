"""StreamSpeech's encoder: convolutional subsampling, then Conformer layers, both in chunks of time.

Parameter names are those of its checkpoints. A frame sees the whole past and the future up to the end of its chunk.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.config import ChunkConformerConfig, ConfigError
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.encoders.base import StreamingEncoder, register_encoder
from echostream_plugin.modules.chunk_convolution import ChunkConv1d
from echostream_plugin.modules.conformer import ConformerLayer, ConformerLayerState
from echostream_plugin.modules.relative_attention import relative_positions
from echostream_plugin.modules.streaming import StreamState

SUBSAMPLING = 4
SUBSAMPLING_KERNEL = 5
CONV_CHUNKS = (8, 16)  # frames of the convolutions' chunks in StreamSpeech's training and agents
ENDLESS = 999  # a convolution chunk of so many frames or more is none
# what StreamSpeech's flags of variants must say if they say anything
RECIPE = {
    "attn_type": "espnet",
    "pos_enc_type": "rel_pos",
    "conv_version": "s2t_transformer",
    "conv_kernel_sizes": "5,5",
}


@dataclass(frozen=True)
class ChunkConformerState(StreamState):
    """One or several streams of the same age between two steps; grows with the source, as attention sees all of it.

    pending: [B, r, F] features of the unfinished block; subsampling: the newest inputs [B, channels, 2] of each
    subsampling convolution before the block; chunk, conv_chunk: encoder frames, 0 for the whole utterance."""

    pending: Tensor
    subsampling: tuple[Tensor, ...]
    layers: tuple[ConformerLayerState, ...]
    chunk: int
    conv_chunk: int

    @property
    def frames(self) -> int:
        """Encoder frames that will not change any more."""
        return self.layers[0].keys.size(2)

    @property
    def block_features(self) -> int:
        """Feature frames after which no output before them changes: where a chunk of attention and one of convolution
        end together; 0 where that is never."""
        return SUBSAMPLING * math.lcm(self.chunk, self.conv_chunk)


class Subsampling(nn.Module):
    """Two gated convolutions of stride 2."""

    def __init__(self, input_dim: int, channels: int, dim: int):
        super().__init__()
        self.conv_layers = nn.ModuleList(
            ChunkConv1d(inputs, outputs, SUBSAMPLING_KERNEL, stride=2)
            for inputs, outputs in ((input_dim, channels), (channels // 2, 2 * dim))
        )

    def forward(self, features: Tensor, pasts: tuple[Tensor, ...], chunk: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """features: [B, T, F]; pasts: of each convolution; chunk: each convolution's, in frames of its own input (so
        that the second one's are twice as long in time). Returns [B, ceil(T / 4), C] and the next pasts."""
        x, after = features.transpose(1, 2), []
        for convolution, past in zip(self.conv_layers, pasts, strict=True):
            x, past = convolution(x, past, chunk)
            x = F.glu(x, dim=1)
            after.append(past)
        return x.transpose(1, 2), tuple(after)


@register_encoder
class ChunkConformerEncoder(StreamingEncoder):
    """The chunk-based Conformer of StreamSpeech (arXiv 2406.03049), offline and incrementally.

    The chunk sizes are `config.segment_frames` for attention and convolutions until `set_chunk_size` says otherwise.
    As in StreamSpeech, padding that follows an utterance in a batch is seen by the convolutions of its last chunk.
    """

    Config = ChunkConformerConfig
    parameter = "conformer_layers."
    architectures = {
        # StreamSpeech's recipe: a chunk-based Conformer of 12 layers of 256, 4-layer MT, 512-wide decoders
        "streamspeech": {
            "uni_encoder": False,
            "unit_time_positions": False,
            "unit_batch_positions": True,
            "unit_offset_embedding": False,
        },
    }
    warm_start = False
    grows = True
    counts_padding = True

    @staticmethod
    def segment_of_chunk(chunk_size: int) -> int:
        return chunk_size

    @staticmethod
    def check_flags(args) -> None:
        for flag, wanted in RECIPE.items():
            given = getattr(args, flag, None)
            if given not in (None, wanted):
                raise ConfigError(
                    f"--{flag.replace('_', '-')} {given}: this variant of StreamSpeech's encoder does not exist here; "
                    f"its recipes use {wanted}"
                )

    @staticmethod
    def context_ms(config) -> dict:
        segment = config.segment_frames * FRAME_MS or None
        return {"segment": segment, "left_context": None, "right_context": 0, "memory": 0}

    def __init__(self, config: ChunkConformerConfig):
        super().__init__()
        self.config = config
        self.subsample = Subsampling(config.input_dim, config.conv_channels, config.dim)
        self.linear = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.conformer_layers = nn.ModuleList(
            ConformerLayer(config.dim, config.heads, config.ffn_dim, config.depthwise_kernel, config.dropout)
            for _ in range(config.layers)
        )
        self.set_chunk_size(config.segment_frames)

    def set_chunk_size(self, chunk_size: int, conv_chunk_size: int | None = None):
        """Chunks of the attention and of every convolution (default: the same) in frames of 40 ms; 0 is the whole
        utterance, and so is a convolution chunk of 999 or more. Raises ConfigError for sizes that lose audio."""
        conv_chunk_size = chunk_size if conv_chunk_size is None else conv_chunk_size
        if chunk_size < 0 or conv_chunk_size < 0:
            raise ConfigError(f"chunk sizes must not be negative, got {chunk_size} and {conv_chunk_size}")
        conv_chunk_size = 0 if conv_chunk_size >= ENDLESS else conv_chunk_size
        _check_conv_chunk(conv_chunk_size)
        self.chunk_size, self.conv_chunk_size = chunk_size, conv_chunk_size

    @property
    def segment_frames(self) -> int:
        return self.chunk_size

    def conv_chunk_of(self, chunk: int) -> int:
        """The convolution chunk that goes with an attention chunk: what StreamSpeech's agent takes from 320 ms on, the
        attention's own below, where that is even."""
        if chunk == 0 or chunk >= ENDLESS:
            return CONV_CHUNKS[-1] if self.conv_chunk_size else 0
        shortest, longest = CONV_CHUNKS
        if chunk >= shortest:
            return longest if chunk >= longest else shortest
        return shortest if chunk % 2 else chunk

    def check_training_segment(self, segment_frames: int) -> None:
        for conv_chunk in _training_conv_chunks(segment_frames):
            _check_conv_chunk(conv_chunk)

    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int): ceil(lengths / 4)."""
        return (lengths + SUBSAMPLING - 1) // SUBSAMPLING

    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F] of 10 ms; lengths: [B] valid feature frames; segment_frames: attention
        chunk in encoder frames of 40 ms, 0 the whole utterance, None what `set_chunk_size` set. In training, the
        convolution chunk that goes with a given segment is drawn, as in StreamSpeech's multi-chunk training;
        ConfigError for an odd one, which loses audio.

        Returns [B, ceil(T / 4), C] and its valid lengths [B]; frames beyond them mean nothing."""
        state, out_lengths = self.initial_state(features.size(0), segment_frames), self.output_lengths(lengths)
        if self.training and segment_frames is not None:
            self.check_training_segment(segment_frames)
            drawn = int(torch.randint(len(CONV_CHUNKS), ()))
            state = _with_chunks(state, state.chunk, _training_conv_chunks(state.chunk)[drawn])
        return self._run(features, state, out_lengths)[0], out_lengths

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> ChunkConformerState:
        """The state before the first feature frame; segment_frames as in `forward`."""
        chunk, conv_chunk = self.chunk_size, self.conv_chunk_size
        if segment_frames is not None:
            chunk, conv_chunk = segment_frames, self.conv_chunk_of(segment_frames)
        return ChunkConformerState(
            pending=self.linear.bias.new_zeros(batch_size, 0, self.config.input_dim),
            subsampling=tuple(conv.initial_past(batch_size) for conv in self.subsample.conv_layers),
            layers=tuple(layer.initial_state(batch_size) for layer in self.conformer_layers),
            chunk=chunk,
            conv_chunk=conv_chunk,
        )

    def step(self, features: Tensor, state: ChunkConformerState) -> tuple[Tensor, ChunkConformerState]:
        """features: [B, t, F] of 10 ms, any t; returns the encoder frames [B, s, C] that will not change any more (s
        may be 0) and the next state. Where the attention chunk is no multiple of the convolution chunk (480 and 960
        ms), frames become final only where both chunks end together."""
        pending = torch.cat([state.pending, features], dim=1)
        block = state.block_features
        count = pending.size(1) // block * block if block else 0
        if count == 0:
            return features.new_zeros(features.size(0), 0, self.config.dim), _with_pending(state, pending)
        out, state = self._run(pending[:, :count], state)
        return out, _with_pending(state, pending[:, count:].clone())

    def finish(self, state: ChunkConformerState) -> Tensor:
        """The encoder frames [B, r, C] after the final ones if the utterance ended here; the state stays valid."""
        if state.pending.size(1) == 0:
            return state.pending.new_zeros(state.pending.size(0), 0, self.config.dim)
        return self._run(state.pending, state)[0]

    def _run(
        self, features: Tensor, state: ChunkConformerState, lengths: Tensor | None = None
    ) -> tuple[Tensor, ChunkConformerState]:
        """Encoder frames of features [B, T, F] that follow the state, and the state after them; lengths: [B] valid
        encoder frames, only from the beginning of the utterance."""
        if features.size(1) == 0:
            return features.new_zeros(features.size(0), 0, self.config.dim), state
        x, subsampling = self.subsample(features, state.subsampling, state.conv_chunk)
        x = self.dropout(self.linear(math.sqrt(self.config.dim) * x))
        past, new = state.frames, x.size(1)
        positions = relative_positions(past, new, self.config.dim, x.device)
        visible = chunk_visible(past, new, state.chunk, x.device)
        if lengths is not None and int(lengths.min()) < new:
            heard = torch.arange(new, device=x.device) < lengths.clamp(min=1)[:, None, None, None]
            visible = heard if visible is None else heard & visible
        layers = []
        for layer, before in zip(self.conformer_layers, state.layers, strict=True):
            x, after = layer(x, before, positions, visible, state.conv_chunk)
            layers.append(after)
        return x, ChunkConformerState(state.pending, subsampling, tuple(layers), state.chunk, state.conv_chunk)


def _training_conv_chunks(chunk: int) -> list[int]:
    """The convolution chunks, one of which a training batch draws, of an attention chunk."""
    return [min(conv_chunk, chunk or conv_chunk) for conv_chunk in CONV_CHUNKS]


def _check_conv_chunk(frames: int) -> None:
    if frames % 2:
        raise ConfigError(f"a convolution chunk of {frames} frames would lose audio: use an even number")


def chunk_visible(past: int, new: int, chunk: int, device=None) -> Tensor | None:
    """Bool [new, past + new]: which frames each of the newest ones sees, all up to the end of its chunk. None: all."""
    if chunk == 0 or chunk >= past + new:
        return None
    frames = torch.arange(past + new, device=device)
    ends = (frames[past:] // chunk + 1) * chunk
    return frames < ends[:, None]


def _with_pending(state: ChunkConformerState, pending: Tensor) -> ChunkConformerState:
    return ChunkConformerState(pending, state.subsampling, state.layers, state.chunk, state.conv_chunk)


def _with_chunks(state: ChunkConformerState, chunk: int, conv_chunk: int) -> ChunkConformerState:
    return ChunkConformerState(state.pending, state.subsampling, state.layers, chunk, conv_chunk)
