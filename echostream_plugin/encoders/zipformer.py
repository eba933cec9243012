"""Zipformer (Yao et al., arXiv 2310.11230, ICLR 2024) as a streaming encoder.

Names of parameters are those of icefall's recipe, so that its state dicts load. Frames of 20 ms inside, of 40 ms
outside. What is added: a memory bank, a choice of look-ahead, and streaming that equals the parallel form at every end.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from echostream_plugin.config import ConfigError, check_options, check_value, option, require
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.encoders.base import BASE_DECODERS, TINY_DECODERS, StreamingEncoder, register_encoder
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.zipformer.attention import StackConfig
from echostream_plugin.modules.zipformer.front import FrontState, ZipformerFront
from echostream_plugin.modules.zipformer.schedule import Clock
from echostream_plugin.modules.zipformer.zipformer import BLOCK, FACTORS, Zipformer, ZipformerState

STACKS = len(FACTORS)
HALVES = 2  # frames of 20 ms in an encoder frame
UNIT = BLOCK // HALVES  # encoder frames of which a chunk has a multiple
_PER_STACK = {
    "stack_dims": 4096, "layers": 100, "ffn_dim": 16384, "heads": 64, "conv_kernel": 999, "unmasked_dims": 4096
}  # fmt: skip


@dataclass(frozen=True)
class ZipformerConfig:
    """A Zipformer of six stacks; the defaults are icefall's medium model. Lengths count encoder frames of 40 ms."""

    features: ClassVar[str] = "kaldi-fbank"

    kind: str = option("zipformer", "which encoder this is")
    input_dim: int = option(80, "mel bins of a feature frame (10 ms)", minimum=11)
    dim: int = option(512, "encoder output dimension, the largest of stack_dims")
    stack_dims: tuple = option((192, 256, 384, 512, 384, 256), "channels of each of the six stacks")
    layers: tuple = option((2, 2, 3, 4, 3, 2), "layers of each stack")
    ffn_dim: tuple = option((512, 768, 1024, 1536, 1024, 768), "hidden size of each stack's feed-forward modules")
    heads: tuple = option((4, 4, 4, 8, 4, 4), "attention heads of each stack")
    conv_kernel: tuple = option((31, 31, 15, 15, 15, 31), "kernels of each stack's convolutions, odd")
    query_dim: int = option(32, "channels of a head's queries and keys", maximum=1024)
    value_dim: int = option(12, "channels of a head's values", maximum=1024)
    position_head_dim: int = option(4, "channels of a head's positions", maximum=1024)
    position_dim: int = option(48, "channels of the encoding of a relative position, even", maximum=1024)
    segment_frames: int = option(
        8, "chunk in encoder frames of 40 ms, a multiple of 4; 0 is the whole utterance", minimum=0, maximum=5_000
    )
    left_context_frames: int = option(
        64, "encoder frames of left context, rounded down to chunks but to one at least", minimum=0, maximum=5_000
    )
    left_context_choices: tuple = option(
        (0,), "a training draws the left context of each batch from these encoder frames; 0: left_context_frames"
    )
    memory_size: int = option(
        0, "memory bank: means of how many chunks before the left context are attended", minimum=0, maximum=10_000
    )
    lookahead_frames: int = option(0, "encoder frames after a chunk that the front end reads", minimum=0, maximum=1)
    silence: float = option(0.0, "value of the features before and after an utterance", minimum=-100, maximum=100)
    dropout: float = option(0.1, "dropout, three times as much when a training begins", maximum=0.9)
    scaled_scores: bool = option(
        False, "divide attention scores by the root of query_dim, with first weights as much larger: for plain Adam"
    )
    bypass_clamp: bool = option(True, "keep the scales of bypasses from 0.9 (later 0.2) to 1 while training")
    layer_drop: bool = option(True, "leave out layers of random sequences, many when a training begins")
    module_skip: bool = option(True, "leave out attention, convolutions and feed-forwards of random sequences")
    feature_mask: bool = option(True, "mask the channels above unmasked_dims of random sequences while training")
    unmasked_dims: tuple = option((192, 192, 256, 256, 256, 192), "channels of each stack that are never masked")
    balancers: bool = option(False, "correct gradients of channels whose mean or size is out of bounds")
    whiten: bool = option(False, "correct gradients of channels that are too much alike")
    batches_per_update: float = option(
        1.0, "the schedules of training count batches of 600 s of audio; an update is so many of them", maximum=1000.0
    )

    def __post_init__(self):
        check_options(self)
        require(self.kind == "zipformer", f"a Zipformer's configuration cannot be of kind '{self.kind}'")
        for name, most in _PER_STACK.items():
            values = getattr(self, name)
            require(len(values) == STACKS, f"{name} {_shown(values)}: expected {STACKS} numbers, one for each stack")
            for value in values:
                check_value(name, value, int, {"minimum": 1, "maximum": most})
        widest = max(self.stack_dims)
        require(self.dim == widest, f"dim {self.dim} must be the largest of stack_dims, {widest}")
        for dim, unmasked in zip(self.stack_dims, self.unmasked_dims, strict=True):
            require(dim % 4 == 0, f"stack_dims {_shown(self.stack_dims)}: each must be divisible by 4, not {dim}")
            fits = unmasked <= dim or not self.feature_mask
            require(fits, f"unmasked_dims {_shown(self.unmasked_dims)}: {unmasked} is more than its stack's {dim}")
        odd = all(kernel % 2 for kernel in self.conv_kernel)
        require(odd, f"conv_kernel {_shown(self.conv_kernel)}: each must be odd")
        require(self.position_dim % 2 == 0, f"position_dim {self.position_dim} must be even")
        for frames in self.left_context_choices:
            check_value("left_context_choices", frames, int, {"minimum": 0, "maximum": 5_000})
        require(self.left_context_choices, "left_context_choices must not be empty")
        check_segment(self.segment_frames)
        whole_remembers = self.memory_size and not self.segment_frames
        require(not whole_remembers, f"memory_size {self.memory_size} needs chunks: segment_frames must not be 0")

    def stack(self, index: int) -> StackConfig:
        """The options of a stack."""
        return StackConfig(
            dim=self.stack_dims[index],
            layers=self.layers[index],
            heads=self.heads[index],
            ffn_dim=self.ffn_dim[index],
            kernel=self.conv_kernel[index],
            factor=FACTORS[index],
            query_dim=self.query_dim,
            value_dim=self.value_dim,
            position_head_dim=self.position_head_dim,
            position_dim=self.position_dim,
            memory_size=self.memory_size,
            dropout=self.dropout,
            scaled_scores=self.scaled_scores,
            bypass_clamp=self.bypass_clamp,
            layer_drop=self.layer_drop,
            module_skip=self.module_skip,
            balancers=self.balancers,
            whiten=self.whiten,
        )


def check_segment(segment_frames: int) -> None:
    """Raise ConfigError for a segment that the stack of 6.25 frames a second cannot divide."""
    if segment_frames < 0 or segment_frames % UNIT:
        raise ConfigError(
            f"segment_frames {segment_frames}: a chunk of this encoder is a multiple of {UNIT} encoder frames "
            f"({UNIT * FRAME_MS} ms, {BLOCK} frames of 20 ms, one of its slowest stack), or 0 for the whole utterance"
        )


def _shown(values: tuple) -> str:
    return ",".join(map(str, values))[:60]


@dataclass(frozen=True)
class ZipformerEncoderState(StreamState):
    """One or several streams between two steps."""

    front: FrontState
    zipformer: ZipformerState


_SMALL = {
    "encoder_layers": (2, 2, 2, 2, 2, 2),
    "encoder_ffn_embed_dim": (512, 768, 768, 768, 768, 768),
    "encoder_embed_dim": 256,
    "stack_dims": (192, 256, 256, 256, 256, 256),
    "unmasked_dims": (192,) * 6,
    "scaled_scores": True,  # fairseq's Adam; --no-scaled-scores for ScaledAdam and for icefall's weights
}
_TINY = {
    "encoder_layers": (1,) * 6,
    "encoder_ffn_embed_dim": (384, 512, 512, 512, 512, 512),
    "encoder_embed_dim": 192,
    "stack_dims": (144, 192, 192, 192, 192, 192),
    "unmasked_dims": (96,) * 6,
    "encoder_attention_heads": (4,) * 6,
    "query_dim": 24,
    "scaled_scores": True,
    "left_context_frames": 32,
    **TINY_DECODERS,
}


@register_encoder
class ZipformerEncoder(StreamingEncoder):
    """Zipformer over log-mel features.

    Its frames depend on the audio up to the end of their own chunk and `lookahead_frames` frames more, and on nothing
    later. Inside a chunk every frame sees every other: the stacks below 50 Hz join up to eight frames, so that nothing
    finer than a chunk can be causal.
    """

    Config = ZipformerConfig
    parameter = "encoder_embed."
    architectures = {
        # icefall's small, medium and, on the decoders of echostream_base, the one between
        "echostream_zipformer": {"scaled_scores": True},
        "echostream_zipformer_medium": {"scaled_scores": True, **BASE_DECODERS},
        "echostream_zipformer_small": {**_SMALL, **BASE_DECODERS},
        # of the quickstart's size, with the decoders of echostream_tiny
        "echostream_zipformer_tiny": _TINY,
    }

    @staticmethod
    def context_ms(config: ZipformerConfig) -> dict:
        segment = config.segment_frames * FRAME_MS or None
        left = left_chunks(config.segment_frames, config.left_context_frames) * (segment or 0)
        return {
            "segment": segment,
            "left_context": left if segment else None,
            "right_context": config.lookahead_frames * FRAME_MS,
            "memory": config.memory_size * segment if segment else 0,
        }

    def __init__(self, config: ZipformerConfig):
        super().__init__()
        self.config = config
        self.clock = Clock()
        self.encoder_embed = ZipformerFront(
            config.input_dim,
            config.stack_dims[0],
            config.silence,
            config.lookahead_frames,
            config.dropout,
            self.clock,
            config.balancers,
            config.whiten,
            config.module_skip,
        )
        unmasked = config.unmasked_dims if config.feature_mask else None
        self.encoder = Zipformer([config.stack(index) for index in range(STACKS)], self.clock, unmasked)

    def set_num_updates(self, num_updates: int) -> None:
        """How far a training is, for the schedules; fairseq calls this before each update."""
        self.clock.batches = num_updates * self.config.batches_per_update

    def check_training_segment(self, segment_frames: int) -> None:
        check_segment(segment_frames)

    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int): ceil(lengths / 4)."""
        return (lengths + 3) // 4

    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F] of 10 ms; lengths: [B] valid feature frames; segment_frames: encoder
        frames of 40 ms per chunk, None for the configuration's, 0 for the whole utterance.

        Returns [B, ceil(T / 4), C] and its valid lengths [B]; frames beyond them are meaningless but finite."""
        frames = self.encoder_embed(features, lengths)
        valid = self.encoder_embed.output_lengths(lengths)
        return self.encoder(frames, valid, *self._view(segment_frames)), self.output_lengths(lengths)

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> ZipformerEncoderState:
        """The state before the first feature frame; segment_frames as in `forward`."""
        return ZipformerEncoderState(
            self.encoder_embed.initial_state(batch_size),
            self.encoder.initial_state(batch_size, *self._view(segment_frames)),
        )

    def step(self, features: Tensor, state: ZipformerEncoderState) -> tuple[Tensor, ZipformerEncoderState]:
        """features: [B, t, F] of 10 ms, any t, the same for all streams; returns the encoder frames [B, s, C] of the
        chunks that are now complete (s may be 0) and the next state. Streams may differ in age by whole chunks."""
        frames, front = self.encoder_embed.step(features, state.front)
        out, zipformer = self.encoder.step(frames, state.zipformer)
        return out, replace(state, front=front, zipformer=zipformer)

    def finish(self, state: ZipformerEncoderState) -> Tensor:
        """The encoder frames [B, r, C] still missing if the utterance ended here (r may be 0); state stays valid."""
        return self.encoder.finish(self.encoder_embed.finish(state.front), state.zipformer)

    def record_steps(self) -> None:
        """From now on the steps of front end and stacks can be recorded, within `modules.recording.record_calls`; for
        inference."""
        self.encoder_embed.record_steps()
        self.encoder.record_steps()

    def _view(self, segment_frames: int | None) -> tuple[int, int, int]:
        """What a frame sees: chunk in frames of 20 ms, chunks of left context, memory vectors."""
        config = self.config
        segment = config.segment_frames if segment_frames is None else segment_frames
        check_segment(segment)
        left = config.left_context_frames
        if self.training and any(config.left_context_choices):
            choices = config.left_context_choices
            left = choices[int(torch.randint(len(choices), ()))] or left
        return HALVES * segment, left_chunks(segment, left), config.memory_size


def left_chunks(segment_frames: int, left_context_frames: int) -> int:
    """Whole chunks in the left context, one at least where there is any, as in icefall's training."""
    if not segment_frames or not left_context_frames:
        return 0
    return max(1, left_context_frames // segment_frames)
