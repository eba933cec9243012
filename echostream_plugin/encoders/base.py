"""What every streaming encoder offers: a parallel form and the three verbs of a state; and the encoders by kind."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from echostream_plugin.config import encoder_config
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.modules.streaming import StreamState

WHOLE_CHUNK = 999  # a --chunk-size from here on is the whole utterance, as in StreamSpeech (its offline script: 999999)
ENCODERS = {}  # kind -> class; see register_encoder

# flags of decoders that several architectures have: half as wide as StreamSpeech's, and the quickstart's
BASE_DECODERS = {"decoder_embed_dim": 256, "decoder_attention_heads": 4, "decoder_ffn_embed_dim": 1024}
TINY_DECODERS = {
    "translation_decoder_layers": 2,
    "synthesizer_encoder_layers": 1,
    "decoder_layers": 2,
    "decoder_embed_dim": 192,
    "decoder_attention_heads": 4,
    "decoder_ffn_embed_dim": 768,
    "ctc_upsample_rate": 10,
}


def register_encoder(encoder):
    """Class decorator: `encoder` and its configuration are found by their kind, on command lines, in checkpoints and in
    bundles. To add one, write such a class in a file of this folder and import it in `encoders/__init__.py`."""
    ENCODERS[encoder.Config.kind] = encoder
    encoder_config(encoder.Config)
    return encoder


def encoder_of(names) -> type["StreamingEncoder"]:
    """The encoder whose parameters are among the names of a model's state dict; an Emformer where none is."""
    for encoder in ENCODERS.values():
        if any(name.startswith(f"encoder.{encoder.parameter}") for name in names):
            return encoder
    return ENCODERS["emformer"]


class StreamingEncoder(nn.Module, ABC):
    """Features of 10 ms to encoder frames of 40 ms.

    For any cutting of an utterance into steps, the outputs of `step` followed by that of `finish` are those of
    `forward` with the same segment length. The module holds parameters, the state holds the utterance.
    T feature frames give ceil(T / 4) encoder frames, whatever the encoder.

    Class attributes:
        Config: the dataclass of its options, each a flag; its `features` name the front end (`inference.frontends`).
        parameter: how those of its parameters begin that no other encoder has, to know it in a checkpoint.
        architectures: fairseq's names (`--arch`) with their flags, where they are not the options' defaults; the first
            one is that of a bundle's checkpoint.
        warm_start: offers `--load-streamspeech-decoders`.
        weights_flag: name and help of a flag for its own first values, which `load_weights` reads and of which
            `lowest` gives the layers that may be frozen; None for none.
        new_parts: beginnings of names of parameters that those first values lack.
        grows: the state grows with the source.
        counts_padding: the padded frames of a batch count in the lags of training, as in StreamSpeech.
    """

    Config: ClassVar[type]
    parameter: ClassVar[str]
    architectures: ClassVar[dict]
    warm_start: ClassVar[bool] = True
    weights_flag: ClassVar[tuple | None] = None
    new_parts: ClassVar[tuple] = ()
    grows: ClassVar[bool] = False
    counts_padding: ClassVar[bool] = False

    @staticmethod
    def segment_of_chunk(chunk_size: int) -> int:
        """`segment_frames` of a --chunk-size."""
        return 0 if chunk_size >= WHOLE_CHUNK else chunk_size

    @staticmethod
    def check_flags(args) -> None:
        """Raise ConfigError for flags of a command line that this encoder cannot follow."""

    @staticmethod
    def context_ms(config) -> dict:
        """What an encoder frame depends on, in ms: the segment it is computed with, what lies before and after it, and
        the memory. None: everything there is."""
        segment = config.segment_frames * FRAME_MS or None
        return {
            "segment": segment,
            "left_context": config.left_context_frames * FRAME_MS,
            "right_context": config.right_context_frames * FRAME_MS,
            "memory": config.memory_size * segment if segment else 0,
        }

    @property
    def segment_frames(self) -> int:
        """The segment length in encoder frames where none is given; 0 is the whole utterance."""
        return self.config.segment_frames

    def check_training_segment(self, segment_frames: int) -> None:
        """Raise ConfigError where this encoder cannot be trained with a segment of so many encoder frames."""

    def load_weights(self, path) -> str:
        """Take the first values that `weights_flag` names; returns a line that says what was taken. Raises ConfigError
        where they do not fit."""
        raise NotImplementedError

    def lowest(self, layers: int) -> list[nn.Module]:
        """What reads the features and the first so many layers. Raises ConfigError where there are fewer."""
        raise NotImplementedError

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F]; lengths: [B] valid feature frames; segment_frames: segment length in
        encoder frames, None for the configuration's, 0 for the whole utterance. Returns [B, S, C] and [B]."""

    @abstractmethod
    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int)."""

    @abstractmethod
    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> StreamState:
        """The state before the first feature frame."""

    @abstractmethod
    def step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """features: [B, t, F], any t; returns the encoder frames [B, s, C] of complete segments and the next state."""

    @abstractmethod
    def finish(self, state: StreamState) -> Tensor:
        """The remaining encoder frames [B, r, C] if the utterance ended here. The state stays valid: called before
        the end, this gives provisional frames of an unfinished segment."""
