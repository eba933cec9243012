"""The model's options, each declared once.

Flags of ``fairseq-train``, the json of a bundle and the tables of the documentation come from these dataclasses.
Every length of the encoder counts **encoder frames of 40 ms**; unit frames are positions of the unit decoder.
"""

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import ClassVar

from echostream_plugin.constants import SPECIALS

# more than a sentence has: 20 s of fast speech are some 100 subwords, the quickstart's longest of 1600 sentences 52, so
# models that were trained without a window compute the same within one
WINDOW_TOKENS = 128


class ConfigError(ValueError):
    """An option, file or dictionary that cannot be used; the message names it and the fix."""


LAYERS = 1_000  # at most
MOST = 1_000_000  # of anything that is counted, where an option does not say another bound


def option(default, help, minimum=None, maximum=None, choices=None):
    """A dataclass field whose help text becomes the flag's ``--help``, and whose values `check_options` checks.

    minimum: default 1 for whole numbers, 0 for others; maximum: default `MOST`; choices: the strings that are
    allowed."""
    bounds = {"minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata={"help": help, **bounds})


def option_of(config, name: str, **changes):
    """The option of another configuration again, with its help and bounds; changes: arguments of `option`."""
    own = next(f for f in dataclasses.fields(config) if f.name == name)
    return option(**{"default": own.default, **own.metadata, **changes})


def check_options(options):
    """Raise ConfigError for the first field of a dataclass made of `option`s whose value is not of the annotated type,
    not finite, or out of its bounds; called by each `__post_init__`."""
    kinds = typing.get_type_hints(type(options))
    for f in dataclasses.fields(options):
        if "minimum" in f.metadata:
            check_value(f.name, getattr(options, f.name), kinds[f.name], f.metadata)


def check_value(name: str, value, kind, bounds: dict):
    """One value for `check_options`; kind: a type or a union of types."""
    kinds = (tuple,) if typing.get_origin(kind) is tuple else typing.get_args(kind) or (kind,)
    fits = type(value) in kinds or (float in kinds and type(value) is int)
    words = " or ".join("none" if k is type(None) else TYPES.get(k, k.__name__) for k in kinds)
    _require(fits, f"{name}: expected {words}, got {_shown(value)}")
    if isinstance(value, str) and bounds.get("choices"):
        _require(value in bounds["choices"], f"{name} '{value[:40]}': use {' or '.join(bounds['choices'])}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    whole = isinstance(value, int)
    least, most = bounds.get("minimum"), bounds.get("maximum")
    least = (1 if whole and float not in kinds else 0) if least is None else least
    most = MOST if most is None else most
    finite = whole or math.isfinite(value)
    _require(finite, f"{name} must be at least {least} and a finite number, got {value}")
    _require(value >= least, f"{name} must be at least {least}, got {_shown(value)}")
    _require(value <= most, f"{name} must be at most {most}, got {_shown(value)}")


TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", dict: "a mapping"}


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


ENCODERS = {}  # kind -> configuration; `encoders.base.register_encoder` adds those that do not stand here
MODELS = {}  # kind -> configuration of a whole model


def encoder_config(kind):
    """Class decorator: the configuration of an encoder, found by its `kind` in a bundle's json."""
    ENCODERS[kind.kind] = kind
    return kind


DECODERS = {}  # kind -> configuration of an MT decoder; `decoders.base.register_decoder` adds those not here


def decoder_config(kind):
    """Class decorator: the configuration of an MT decoder, found by its `kind` in a bundle's json."""
    DECODERS[kind.kind] = kind
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
    layers: int = option(16, "number of Emformer layers", maximum=LAYERS)
    heads: int = option(4, "attention heads")
    ffn_dim: int = option(1024, "hidden size of the feed-forward module")
    subsampling_channels: int = option(64, "channels of the two causal Conv2d layers that subsample time by 4")
    segment_frames: int = option(
        8, "segment length in encoder frames of 40 ms; 0 is the whole utterance", minimum=0, maximum=10_000
    )
    left_context_frames: int = option(
        30, "encoder frames of left context whose keys and values are cached", minimum=0, maximum=10_000
    )
    right_context_frames: int = option(
        0, "encoder frames of right context (lookahead), hard copied", minimum=0, maximum=10_000
    )
    memory_size: int = option(
        8, "memory bank: summaries of how many past segments are attended; 0 is none", minimum=0, maximum=10_000
    )
    memory_kind: str = option(
        "attention", "memory vectors: 'attention' (the paper's) or 'mean' of the segment", choices=("attention", "mean")
    )
    tanh_on_memory: bool = option(False, "bound memory vectors by tanh instead of clamping them to [-10, 10]")
    rotary: bool = option(True, "rotary position inside the attention window")
    conv_kernel: int = option(
        15, "kernel of the causal depthwise convolution module in frames; 0 is none", minimum=0, maximum=10_000
    )
    dropout: float = option(0.1, "dropout of residual branches", maximum=1.0)
    attention_dropout: float = option(0.1, "dropout of attention weights", maximum=1.0)
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        _require(self.kind == "emformer", f"an Emformer's configuration cannot be of kind '{self.kind}'")
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        _require((self.dim // self.heads) % 2 == 0, "the dimension of an attention head must be even (rotary position)")


@encoder_config
@dataclass(frozen=True)
class ChunkConformerConfig:
    """StreamSpeech's encoder: a Conformer with relative positions, attention and convolutions in chunks."""

    features: ClassVar[str] = "kaldi-fbank"

    kind: str = option("chunk_conformer", "which encoder this is")
    input_dim: int = option(80, "mel bins of a feature frame (10 ms)")
    dim: int = option(256, "encoder embedding dimension")
    layers: int = option(12, "number of Conformer layers", maximum=LAYERS)
    heads: int = option(4, "attention heads")
    ffn_dim: int = option(2048, "hidden size of the feed-forward modules")
    conv_channels: int = option(1024, "channels of the first subsampling convolution, before its gate")
    depthwise_kernel: int = option(31, "kernel of the depthwise convolution in frames, odd")
    segment_frames: int = option(
        8,
        "chunk of attention and convolutions in encoder frames of 40 ms; 0 is the whole",
        minimum=0,
        maximum=10_000_000,  # StreamSpeech's offline scripts say 999999
    )
    dropout: float = option(0.1, "dropout of residual branches, activations and attention weights", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        _require(self.kind == "chunk_conformer", f"a chunk Conformer's configuration cannot be of kind '{self.kind}'")
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        _require(self.dim % 2 == 0, f"dim {self.dim} must be even (sinusoidal positions)")
        _require(self.conv_channels % 2 == 0, f"conv_channels {self.conv_channels} must be even (gates)")
        _require(self.depthwise_kernel % 2 == 1, f"depthwise_kernel {self.depthwise_kernel} must be odd (centred)")


@dataclass(frozen=True)
class CTCHeadConfig:
    """A CTC head on the encoder: linear, or causal Transformer layers before the linear map."""

    vocab: int = option(6000, "dictionary size; index 0 is the blank")
    dim: int = option(256, "encoder dimension")
    layers: int = option(0, "causal layers before the projection; 0 is a linear head", minimum=0, maximum=LAYERS)
    heads: int = option(4, "attention heads of the causal layers")
    ffn_dim: int = option(1024, "feed-forward size of the causal layers")
    left_context_frames: int = option(
        64, "encoder frames that the causal layers see to their left", minimum=0, maximum=10_000
    )
    dropout: float = option(0.1, "dropout of the causal layers", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        fits = not self.layers or self.dim % self.heads == 0
        _require(fits, f"dim {self.dim} must be divisible by heads {self.heads}")


@decoder_config
@dataclass(frozen=True)
class TextDecoderConfig:
    """The MT decoder: fairseq's pre-norm Transformer decoder with tied embeddings."""

    kind: str = option("transformer", "which MT decoder this is")
    vocab: int = option(6000, "target dictionary size")
    dim: int = option(512, "decoder dimension")
    encoder_dim: int = option(256, "dimension of the encoder output")
    layers: int = option(4, "decoder layers", maximum=LAYERS)
    heads: int = option(8, "attention heads")
    ffn_dim: int = option(2048, "feed-forward size")
    window_tokens: int = option(
        WINDOW_TOKENS,
        "newest target tokens that the MT decoder's self-attention sees; 0: all, in memory that grows",
        minimum=0,
    )
    dropout: float = option(0.1, "dropout", maximum=1.0)
    attention_dropout: float = option(0.1, "dropout of attention weights", maximum=1.0)
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        _require(self.kind == type(self).kind, f"a Transformer's configuration cannot be of kind '{self.kind}'")
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")


@dataclass(frozen=True)
class UnitDecoderConfig:
    """Text-to-unit: T2U encoder over MT decoder states, then the CTC unit decoder."""

    vocab: int = option(1005, "K units + 4 special symbols + <blank> (the last index)")
    dim: int = option(512, "dimension of T2U encoder and unit decoder")
    encoder_layers: int = option(2, "T2U encoder layers", maximum=LAYERS)
    layers: int = option(2, "unit decoder layers", maximum=LAYERS)
    heads: int = option(8, "attention heads")
    ffn_dim: int = option(2048, "feed-forward size")
    upsample: int = option(25, "unit decoder frames per target token")
    window_tokens: int = option(
        WINDOW_TOKENS,
        "newest target tokens, and frames of them, that unit decoder and causal T2U encoder see; 0: all, in memory "
        "that grows",
        minimum=0,
    )
    causal_encoder: bool = option(True, "T2U encoder sees only states to its left (--uni-encoder)")
    time_positions: bool = option(True, "unit decoder positions run over time (False: StreamSpeech's constant row)")
    batch_positions: bool = option(
        False, "without time positions, training gives sample b of a batch the constant row b, as StreamSpeech does"
    )
    offset_embedding: bool = option(True, "learned embedding of a frame's offset inside its token")
    dropout: float = option(0.1, "dropout", maximum=1.0)
    attention_dropout: float = option(0.1, "dropout of attention weights", maximum=1.0)
    activation_dropout: float = option(0.1, "dropout after the feed-forward activation", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        _require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        _require(
            not (self.time_positions and self.batch_positions),
            "time_positions and batch_positions exclude each other",
        )

    @property
    def units(self) -> int:
        """K, the number of units: of the vocabulary without special symbols and blank."""
        return self.vocab - len(SPECIALS) - 1


def whole_model(kind):
    """Class decorator: the configuration of a whole model, found by its `kind` in a bundle's json."""
    MODELS[kind.kind] = kind
    return kind


def read_model(values: dict):
    """The configuration of a whole model from nested dicts, as `to_dict` gives them; `kind` says which one it is, a
    `ModelConfig` where it is left out."""
    kind = values.get("kind", ModelConfig.kind) if isinstance(values, dict) else ModelConfig.kind
    fits = isinstance(kind, str) and kind in MODELS
    _require(fits, f"kind: unknown model {_shown(kind)}; known: {', '.join(MODELS)}")
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if name != "kind"}
    return MODELS[kind].from_dict(values)


@whole_model
@dataclass(frozen=True)
class ModelConfig:
    """A whole speech-to-speech model; `asr` and `st` are the CTC heads, `mt` the text decoder."""

    kind: ClassVar[str] = "speech_to_speech"
    in_chunks: ClassVar[bool] = False  # text comes of a decoder of its own for chunks of audio

    encoder: object = field(default_factory=EncoderConfig)  # of one of the kinds in ENCODERS
    asr: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    st: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    mt: object = field(default_factory=TextDecoderConfig)  # of one of the kinds in DECODERS
    unit: UnitDecoderConfig = field(default_factory=UnitDecoderConfig)

    def __post_init__(self):
        for name in ("asr", "st"):
            fits = getattr(self, name).dim == self.encoder.dim
            _require(fits, f"{name}.dim must equal encoder.dim {self.encoder.dim}")
        _require(self.mt.encoder_dim == self.encoder.dim, f"mt.encoder_dim must equal encoder.dim {self.encoder.dim}")
        _require(self.unit.dim == self.mt.dim, f"unit.dim must equal mt.dim {self.mt.dim}")
        fits = getattr(self.mt, "source_vocab", self.asr.vocab) == self.asr.vocab
        _require(fits, f"mt.source_vocab must equal asr.vocab {self.asr.vocab}")

    @property
    def vocabularies(self) -> tuple:
        """(side, option, size) of every part that reads or writes subwords."""
        sizes = ("source", "asr.vocab", self.asr.vocab), ("target", "mt.vocab", self.mt.vocab)
        return *sizes, ("target", "st.vocab", self.st.vocab)

    def to_dict(self) -> dict:
        """What `read_model` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "ModelConfig":
        """Build from nested dicts; an unknown or ill-typed key raises ConfigError that names it. `encoder.kind` and
        `mt.kind` say which encoder and MT decoder it is, an Emformer and a Transformer where they are left out."""
        return model_from_dict(cls, values)


def model_from_dict(cls, values: dict):
    """The `from_dict` of a whole model's configuration, whose parts are the fields of `cls`."""
    _require(isinstance(values, dict), f"model: expected a mapping of options, got {type(values).__name__}")
    parts = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(parts))
    _require(not unknown, f"unknown model option(s) {', '.join(unknown)}; known: {', '.join(parts)}")
    parts["encoder"] = _of_kind(ENCODERS, values.get("encoder"), "encoder.kind: unknown encoder")
    if "mt" in parts:
        parts["mt"] = _of_kind(DECODERS, values.get("mt"), "mt.kind: unknown MT decoder")
    return cls(**{name: _from_dict(parts[name], values.get(name, {}), name) for name in parts})


def _of_kind(known: dict, values, unknown: str):
    """The configuration class that the `kind` of some values names; the first one where they name none."""
    default = next(iter(known))
    kind = values.get("kind", default) if isinstance(values, dict) else default
    _require(isinstance(kind, str) and kind in known, f"{unknown} {kind!r}; known: {', '.join(known)}")
    return known[kind]


def _from_dict(kind, values: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _require(isinstance(values, dict), f"{where}: expected a mapping of options, got {type(values).__name__}")
    for name in values:
        _require(name in fields, f"{where}.{name}: unknown option; known: {', '.join(fields)}")
    try:
        return kind(**with_tuples(kind, values))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def with_tuples(kind, values: dict) -> dict:
    """Options of a dataclass by name, lists as tuples where their defaults are: json knows no tuples."""
    tuples = {f.name for f in dataclasses.fields(kind) if isinstance(f.default, tuple)}
    lists = {name: value for name, value in values.items() if name in tuples and isinstance(value, list)}
    return values | {name: tuple(value) for name, value in lists.items()}


def _require(condition, message):
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


require = _require  # for encoders' own configurations
