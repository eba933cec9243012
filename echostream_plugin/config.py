"""The model's options, each declared once.

Flags of ``fairseq-train``, the json of a bundle and the tables of the documentation come from these dataclasses.
Every length of the encoder counts **encoder frames of 40 ms**; unit frames are positions of the unit decoder.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import ClassVar


class ConfigError(ValueError):
    """An option, file or dictionary that cannot be used; the message names it and the fix."""


def option(default, help):
    """A dataclass field whose help text becomes the flag's ``--help``."""
    return field(default=default, metadata={"help": help})


ENCODERS = {}  # kind -> configuration; an encoder's file adds its own


def encoder_config(kind):
    """Class decorator: the configuration of an encoder, found by its `kind` in a bundle's json.

    Beside its options, each a flag, the class says which front end makes its `features` (`inference.features`)."""
    ENCODERS[kind.kind] = kind
    return kind


@encoder_config
@dataclass(frozen=True)
class EncoderConfig:
    """The Emformer encoder (Shi et al., arXiv 2010.10759) with EchoStream's options."""

    features: ClassVar[str] = "kaldi-fbank"
    activation: ClassVar[str] = "silu"  # of the feed-forward module
    output_norm: ClassVar[bool] = True  # each layer ends in one

    kind: str = option("emformer", "which encoder this is")
    input_dim: int = option(80, "mel bins of a feature frame (10 ms)")
    dim: int = option(256, "encoder embedding dimension")
    layers: int = option(16, "number of Emformer layers")
    heads: int = option(4, "attention heads")
    ffn_dim: int = option(1024, "hidden size of the feed-forward module")
    subsampling_channels: int = option(64, "channels of the two causal Conv2d layers that subsample time by 4")
    segment_frames: int = option(8, "segment length in encoder frames of 40 ms; 0 is the whole utterance")
    left_context_frames: int = option(30, "encoder frames of left context whose keys and values are cached")
    right_context_frames: int = option(0, "encoder frames of right context (lookahead), hard copied")
    memory_size: int = option(8, "memory bank: summaries of how many past segments are attended; 0 is none")
    memory_kind: str = option("attention", "memory vectors: 'attention' (the paper's) or 'mean' of the segment")
    tanh_on_memory: bool = option(False, "bound memory vectors by tanh instead of clamping them to [-10, 10]")
    rotary: bool = option(True, "rotary position inside the attention window")
    conv_kernel: int = option(15, "kernel of the causal depthwise convolution module in frames; 0 is none")
    dropout: float = option(0.1, "dropout of residual branches")
    attention_dropout: float = option(0.1, "dropout of attention weights")
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation")

    def __post_init__(self):
        _require(self.kind == "emformer", f"an Emformer's configuration cannot be of kind '{self.kind}'")
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        _require((self.dim // self.heads) % 2 == 0, "the dimension of an attention head must be even (rotary position)")
        _require(self.memory_kind in ("attention", "mean"), f"memory_kind '{self.memory_kind}': use attention or mean")
        for name in ("segment_frames", "left_context_frames", "right_context_frames", "memory_size", "conv_kernel"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, got {getattr(self, name)}")


@encoder_config
@dataclass(frozen=True)
class ChunkConformerConfig:
    """StreamSpeech's encoder: a Conformer with relative positions, attention and convolutions in chunks."""

    features: ClassVar[str] = "kaldi-fbank"

    kind: str = option("chunk_conformer", "which encoder this is")
    input_dim: int = option(80, "mel bins of a feature frame (10 ms)")
    dim: int = option(256, "encoder embedding dimension")
    layers: int = option(12, "number of Conformer layers")
    heads: int = option(4, "attention heads")
    ffn_dim: int = option(2048, "hidden size of the feed-forward modules")
    conv_channels: int = option(1024, "channels of the first subsampling convolution, before its gate")
    depthwise_kernel: int = option(31, "kernel of the depthwise convolution in frames, odd")
    segment_frames: int = option(8, "chunk of attention and convolutions in encoder frames of 40 ms; 0 is the whole")
    dropout: float = option(0.1, "dropout of residual branches, activations and attention weights")

    def __post_init__(self):
        _require(self.kind == "chunk_conformer", f"a chunk Conformer's configuration cannot be of kind '{self.kind}'")
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        _require(self.dim % 2 == 0, f"dim {self.dim} must be even (sinusoidal positions)")
        _require(self.conv_channels % 2 == 0, f"conv_channels {self.conv_channels} must be even (gates)")
        _require(self.depthwise_kernel % 2 == 1, f"depthwise_kernel {self.depthwise_kernel} must be odd (centred)")
        _require(self.segment_frames >= 0, f"segment_frames must not be negative, got {self.segment_frames}")


@dataclass(frozen=True)
class CTCHeadConfig:
    """A CTC head on the encoder: linear, or causal Transformer layers before the linear map."""

    vocab: int = option(6000, "dictionary size; index 0 is the blank")
    dim: int = option(256, "encoder dimension")
    layers: int = option(0, "causal layers before the projection; 0 is a linear head")
    heads: int = option(4, "attention heads of the causal layers")
    ffn_dim: int = option(1024, "feed-forward size of the causal layers")
    left_context_frames: int = option(64, "encoder frames that the causal layers see to their left")
    dropout: float = option(0.1, "dropout of the causal layers")


@dataclass(frozen=True)
class TextDecoderConfig:
    """The MT decoder: fairseq's pre-norm Transformer decoder with tied embeddings."""

    vocab: int = option(6000, "target dictionary size")
    dim: int = option(512, "decoder dimension")
    encoder_dim: int = option(256, "dimension of the encoder output")
    layers: int = option(4, "decoder layers")
    heads: int = option(8, "attention heads")
    ffn_dim: int = option(2048, "feed-forward size")
    dropout: float = option(0.1, "dropout")
    attention_dropout: float = option(0.1, "dropout of attention weights")
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation")


@dataclass(frozen=True)
class UnitDecoderConfig:
    """Text-to-unit: T2U encoder over MT decoder states, then the CTC unit decoder."""

    vocab: int = option(1005, "K units + 4 special symbols + <blank> (the last index)")
    dim: int = option(512, "dimension of T2U encoder and unit decoder")
    encoder_layers: int = option(2, "T2U encoder layers")
    layers: int = option(2, "unit decoder layers")
    heads: int = option(8, "attention heads")
    ffn_dim: int = option(2048, "feed-forward size")
    upsample: int = option(25, "unit decoder frames per target token")
    causal_encoder: bool = option(True, "T2U encoder sees only states to its left (--uni-encoder)")
    time_positions: bool = option(True, "unit decoder positions run over time (False: StreamSpeech's constant row)")
    batch_positions: bool = option(
        False, "without time positions, training gives sample b of a batch the constant row b, as StreamSpeech does"
    )
    offset_embedding: bool = option(True, "learned embedding of a frame's offset inside its token")
    dropout: float = option(0.1, "dropout")
    attention_dropout: float = option(0.1, "dropout of attention weights")
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation")

    def __post_init__(self):
        _require(
            not (self.time_positions and self.batch_positions),
            "time_positions and batch_positions exclude each other",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A whole speech-to-speech model; `asr` and `st` are the CTC heads, `mt` the text decoder."""

    encoder: object = field(default_factory=EncoderConfig)  # of one of the kinds in ENCODERS
    asr: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    st: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    mt: TextDecoderConfig = field(default_factory=TextDecoderConfig)
    unit: UnitDecoderConfig = field(default_factory=UnitDecoderConfig)

    def __post_init__(self):
        for name in ("asr", "st"):
            fits = getattr(self, name).dim == self.encoder.dim
            _require(fits, f"{name}.dim must equal encoder.dim {self.encoder.dim}")
        _require(self.mt.encoder_dim == self.encoder.dim, f"mt.encoder_dim must equal encoder.dim {self.encoder.dim}")
        _require(self.unit.dim == self.mt.dim, f"unit.dim must equal mt.dim {self.mt.dim}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Build from nested dicts; an unknown or ill-typed key raises ConfigError that names it. `encoder.kind` says
        which encoder it is, an Emformer where it is left out."""
        parts = {f.name: f.default_factory for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(parts))
        _require(not unknown, f"unknown model option(s) {', '.join(unknown)}; known: {', '.join(parts)}")
        encoder = values.get("encoder")
        kind = encoder.get("kind", "emformer") if isinstance(encoder, dict) else "emformer"
        _require(kind in ENCODERS, f"encoder.kind: unknown encoder {kind!r}; known: {', '.join(ENCODERS)}")
        parts["encoder"] = ENCODERS[kind]
        return cls(**{name: _from_dict(parts[name], values.get(name, {}), name) for name in parts})


def _from_dict(kind, values: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _require(isinstance(values, dict), f"{where}: expected a mapping of options, got {type(values).__name__}")
    for name, value in values.items():
        _require(name in fields, f"{where}.{name}: unknown option; known: {', '.join(fields)}")
        wanted = type(fields[name].default)
        if wanted is tuple and isinstance(value, list):  # json knows no tuples
            values = {**values, name: (value := tuple(value))}
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        _require(fits, f"{where}.{name}: expected {wanted.__name__}, got {value!r}")
    return kind(**values)


def _require(condition, message):
    if not condition:
        raise ConfigError(message)


require = _require  # for encoders' own configurations
