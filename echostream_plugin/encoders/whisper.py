"""Whisper's encoder (Radford et al., arXiv 2212.04356) as a streaming encoder.

Its convolutions are causal, its layers an Emformer stack, with segments, left context and memory bank as every Emformer
here. It hears frames of 20 ms inside and gives frames of 40 ms: after `halve_after` layers, frames are joined in pairs.
Related: CarelessWhisper (arXiv 2508.12301).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from echostream_plugin.config import LAYERS, EncoderConfig, check_options, option, option_of, require
from echostream_plugin.encoders.base import BASE_DECODERS, StreamingEncoder, register_encoder
from echostream_plugin.modules.emformer import Emformer, EmformerState
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.whisper_front import FrontState, WhisperFront

PAIR = 2  # frames of 20 ms in one of 40 ms


@dataclass(frozen=True)
class WhisperConfig:
    """Whisper's encoder, its layers limited to segments and left context; the defaults are those of whisper-base."""

    features: ClassVar[str] = "whisper-log-mel"
    right_context_frames: ClassVar[int] = 0

    kind: str = option("whisper", "which encoder this is")
    input_dim: int = option_of(EncoderConfig, "input_dim")
    dim: int = option_of(EncoderConfig, "dim")
    inner_dim: int = option(512, "width of Whisper's layers: 384 in tiny, 512 in base, 768 in small")
    layers: int = option(6, "number of Whisper's layers, the first ones", maximum=LAYERS)
    halve_after: int = option(2, "after how many layers frames of 20 ms are joined to frames of 40 ms, 1 to all")
    heads: int = option_of(EncoderConfig, "heads", default=8)
    ffn_dim: int = option_of(EncoderConfig, "ffn_dim", default=2048)
    segment_frames: int = option_of(EncoderConfig, "segment_frames", maximum=5_000)
    left_context_frames: int = option_of(EncoderConfig, "left_context_frames", default=48, maximum=5_000)
    memory_size: int = option_of(EncoderConfig, "memory_size", default=0)
    memory_kind: str = option_of(EncoderConfig, "memory_kind", default="mean")
    position: str = option(
        "cyclic",
        "'cyclic': Whisper's table of positions, its slow sinusoids stopped; 'rotary': distances inside the window",
        choices=("cyclic", "rotary"),
    )
    dropout: float = option_of(EncoderConfig, "dropout")
    attention_dropout: float = option_of(EncoderConfig, "attention_dropout")
    activation_dropout: float = option_of(EncoderConfig, "activation_dropout")

    def __post_init__(self):
        check_options(self)
        require(self.kind == "whisper", f"a Whisper encoder's configuration cannot be of kind '{self.kind}'")
        require(self.inner_dim % 2 == 0, f"inner_dim {self.inner_dim} must be even (sinusoidal positions)")
        require(self.halve_after <= self.layers, f"halve_after {self.halve_after}: use 1 to layers {self.layers}")
        self.stack(1, PAIR)  # checks the rest

    def stack(self, layers: int, frames: int) -> EncoderConfig:
        """The options of a part of the layers, for an Emformer; frames: of that part in an encoder frame."""
        return _WhisperStack(
            dim=self.inner_dim,
            layers=layers,
            heads=self.heads,
            ffn_dim=self.ffn_dim,
            segment_frames=frames * self.segment_frames,
            left_context_frames=frames * self.left_context_frames,
            memory_size=self.memory_size,
            memory_kind=self.memory_kind,
            rotary=self.position == "rotary",
            conv_kernel=0,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
        )


class _WhisperStack(EncoderConfig):
    activation = "gelu"
    output_norm = False


@dataclass(frozen=True)
class WhisperState(StreamState):
    """One or several streams between two steps. fine: the layers of 20 ms frames; odd: [B, 1, D] the frame that waits
    for its pair; coarse: the layers of 40 ms frames, None where there are none."""

    front: FrontState
    fine: EmformerState
    odd: Tensor
    coarse: EmformerState | None


@register_encoder
class WhisperEncoder(StreamingEncoder):
    """Whisper's encoder over its own log-mel features, streaming.

    Encoder frame t joins the frames 2t - 1 and 2t of 20 ms, which are Whisper's frames 2t - 2 and 2t - 1; it depends on
    the audio up to the end of its own segment and on nothing later.
    """

    Config = WhisperConfig
    parameter = "front."
    architectures = {
        "echostream_whisper": BASE_DECODERS,
        "echostream_whisper_tiny": {
            "encoder_layers": 2,
            "inner_dim": 64,
            "encoder_attention_heads": 2,
            "encoder_ffn_embed_dim": 128,
            "encoder_embed_dim": 64,
            "halve_after": 1,
            "left_context_frames": 16,
            "translation_decoder_layers": 1,
            "synthesizer_encoder_layers": 1,
            "decoder_layers": 1,
            "decoder_embed_dim": 64,
            "decoder_attention_heads": 2,
            "decoder_ffn_embed_dim": 128,
            "ctc_upsample_rate": 6,
        },
    }
    weights_flag = (
        "load_whisper_encoder",
        "first values of the encoder: a model.bin of faster-whisper (whisper-base) or its folder, 'auto' for that of "
        "the package, or what scripts/adapt_encoder.py wrote; not read again when the training resumes",
    )

    new_parts = ("projection.", "output_norm.")

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.config = config
        dim, coarse = config.inner_dim, config.layers - config.halve_after
        self.front = WhisperFront(config.input_dim, dim, config.position == "cyclic")
        self.dropout = nn.Dropout(config.dropout)
        self.fine = Emformer(config.stack(config.halve_after, PAIR))
        self.join = self.coarse = None
        if coarse:
            self.join = _mean_of_pairs(dim)
            self.coarse = Emformer(config.stack(coarse, 1))
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim if coarse else PAIR * dim, config.dim)
        self.output_norm = nn.LayerNorm(config.dim)

    def lowest(self, layers: int) -> list[nn.Module]:
        """The front and the first so many layers. Raises ConfigError where there are fewer."""
        stacks = [*self.fine.layers, *(self.coarse.layers if self.coarse is not None else ())]
        require(layers <= len(stacks), f"the encoder has {len(stacks)} layers, not {layers}")
        joined = [self.join] if layers > len(self.fine.layers) else []
        return [self.front, *stacks[:layers], *joined]

    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int): ceil(lengths / 4)."""
        return (lengths + 3) // 4

    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F] of 10 ms; lengths: [B] valid feature frames; segment_frames: encoder
        frames of 40 ms per segment, None for the configuration's, 0 for the whole utterance.

        Returns [B, ceil(T / 4), C] and its valid lengths [B]; frames beyond them are meaningless but finite."""
        hidden, _ = self.hidden(features, lengths, segment_frames)
        return self.project(hidden), self.output_lengths(lengths)

    def project(self, hidden: Tensor) -> Tensor:
        """Encoder frames [B, ceil(T / 4), C] of what `hidden` gives."""
        return self._output(hidden if self.coarse is not None else _pairs(self._with_odd(hidden))[0])

    def hidden(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """What Whisper's encoder itself gives, before the projection: [B, S, D] in frames of 20 ms if all layers are,
        else of 40 ms, and its valid lengths [B]. Arguments as in `forward`."""
        segment = self.segment_frames if segment_frames is None else segment_frames
        frames, valid = self.front(features), self.front.output_lengths(lengths)
        frames = self.dropout(_without_padding(frames, valid))
        frames = self.fine(frames, valid, PAIR * segment)
        if self.coarse is not None:
            valid = self.output_lengths(lengths)
            frames = self.join(_pairs(self._with_odd(frames))[0])
            frames = self.coarse(_without_padding(frames, valid), valid, segment)
        return self.norm(frames), valid

    def whole(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What Whisper computes of at most 30 s, with nothing limited and nothing delayed, where all layers are of
        20 ms: [B, ceil(T / 2), D] and valid lengths [B]. With Whisper's weights a teacher."""
        valid = self.front.output_lengths(lengths)
        frames = _without_padding(self.front.whole(features), valid)
        return self.norm(self.fine(frames, valid, 0)), valid

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> WhisperState:
        """The state before the first feature frame; segment_frames as in `forward`."""
        segment = self.segment_frames if segment_frames is None else segment_frames
        return WhisperState(
            front=self.front.initial_state(batch_size),
            fine=self.fine.initial_state(batch_size, PAIR * segment),
            odd=self.norm.weight.new_zeros(batch_size, 1, self.config.inner_dim),
            coarse=None if self.coarse is None else self.coarse.initial_state(batch_size, segment),
        )

    def step(self, features: Tensor, state: WhisperState) -> tuple[Tensor, WhisperState]:
        """features: [B, t, F] of 10 ms, any t, the same for all streams; returns the encoder frames [B, s, C] of the
        segments that are now complete (s may be 0) and the next state. Streams may differ in age by whole segments."""
        frames, front = self.front.step(features, state.front)
        frames, fine = self.fine.step(self.dropout(frames), state.fine)
        pairs, odd = _pairs(torch.cat([state.odd, self._fine_output(frames)], dim=1))
        coarse = state.coarse
        if coarse is not None:
            pairs, coarse = self.coarse.step(self.join(pairs), coarse)
            pairs = self.norm(pairs)
        return self._output(pairs), WhisperState(front, fine, odd.clone(), coarse)

    def finish(self, state: WhisperState) -> Tensor:
        """The encoder frames [B, r, C] still missing if the utterance ended here (r may be 0); state stays valid."""
        frames = self._fine_output(self.fine.finish(state.fine))
        pairs, _ = _pairs(torch.cat([state.odd, frames], dim=1))
        if state.coarse is not None:
            pairs = self.norm(self.coarse.finish(replace(state.coarse, pending=self.join(pairs))))
        return self._output(pairs)

    def compile_steps(self) -> bool:
        """From now on steps are taken by the compiled operator (`modules.native`); for inference on a CPU.

        Returns whether they are: False where it was not built."""
        return all([stack.compile_steps() for stack in (self.fine, self.coarse) if stack is not None])

    def record_steps(self) -> None:
        """From now on the layers' steps can be recorded, within `modules.recording.record_calls`; for inference."""
        for stack in (self.fine, self.coarse):
            if stack is not None:
                stack.record_steps()

    def _fine_output(self, frames: Tensor) -> Tensor:
        return self.norm(frames) if self.coarse is None else frames

    def _with_odd(self, frames: Tensor) -> Tensor:
        return torch.cat([frames.new_zeros(frames.size(0), 1, frames.size(2)), frames], dim=1)

    def _output(self, frames: Tensor) -> Tensor:
        return self.output_norm(self.projection(frames))


def _pairs(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours side by side, [B, t // 2, 2D], and the last frame where it has none, [B, 0..1, D]."""
    count = frames.size(1) // PAIR
    pairs = frames[:, : PAIR * count].reshape(frames.size(0), count, PAIR * frames.size(2))
    return pairs, frames[:, PAIR * count :]


def _without_padding(frames: Tensor, lengths: Tensor) -> Tensor:
    padding = torch.arange(frames.size(1), device=frames.device) >= lengths.unsqueeze(1)
    return frames.masked_fill(padding.unsqueeze(2), 0.0)


def _mean_of_pairs(dim: int) -> nn.Linear:
    """A linear map of two frames to one that begins as their mean."""
    linear = nn.Linear(PAIR * dim, dim)
    with torch.no_grad():
        linear.weight.zero_()
        for first in linear.weight.split(dim, dim=1):
            first.diagonal().fill_(1 / PAIR)
        linear.bias.zero_()
    return linear
