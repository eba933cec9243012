"""Options of the decoder that writes chunk after chunk, and of a whole model with it."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from echostream_plugin.config import (
    CTCHeadConfig,
    EncoderConfig,
    check_options,
    model_from_dict,
    option,
    require,
    whole_model,
)

ALL_CHUNKS = -1  # as context_chunks: everything before
TEXTS = ("source_text", "target_text")
TOKENS_PER_FRAME = 3  # of 40 ms, more than any speech has
# 160 ms, eight frames of the 50 Hz at which an encoder may work inside: no segment of any encoder is shorter
CHUNK_STEP = 4


@dataclass(frozen=True)
class SpeechLLMConfig:
    """The decoder: RMSNorm, rotary position, SwiGLU. The paper's has 12 layers and 92 M parameters."""

    vocab: int = option(6000, "size of the dictionary of the text that is written; its </s> ends a chunk")
    target: str = option("source_text", "which text is written: transcript or translation", choices=TEXTS)
    encoder_dim: int = option(256, "dimension of the encoder output")
    dim: int = option(768, "decoder dimension")
    layers: int = option(12, "decoder layers", maximum=1000)
    heads: int = option(12, "attention heads")
    ffn_dim: int = option(2048, "hidden size of the feed-forward module (SwiGLU: three maps of it)")
    chunk_frames: int = option(
        32,
        f"encoder frames of 40 ms whose text is written together, a multiple of {CHUNK_STEP} and of the encoder's "
        "segment; 0: the whole utterance",
        minimum=0,
        maximum=10_000,
    )
    context_chunks: int = option(
        4, "chunks before its own that a position attends to; -1: all, in memory that grows", minimum=ALL_CHUNKS,
        maximum=10_000,
    )  # fmt: skip
    max_tokens: int = option(
        64, "most tokens that are written for a chunk; fewer where it is short (3 for a frame)", maximum=10_000
    )
    tie_embeddings: bool = option(True, "input and output embeddings are the same")
    dropout: float = option(0.1, "dropout of residual branches and attention weights", maximum=1.0)

    def __post_init__(self):
        check_options(self)
        require(self.dim % self.heads == 0, f"dim {self.dim} must be divisible by heads {self.heads}")
        head_dim = self.dim // self.heads
        require(
            head_dim % 2 == 0,
            f"heads {self.heads}: the dimension of a head, dim / heads = {head_dim}, must be even (rotary position)",
        )
        require(
            self.chunk_frames % CHUNK_STEP == 0,
            f"chunk_frames {self.chunk_frames} must be a multiple of {CHUNK_STEP} encoder frames of 40 ms (eight of "
            "20 ms)",
        )

    @property
    def bounded(self) -> bool:
        """Do work and memory of a chunk not grow with the chunks before?"""
        return self.chunk_frames > 0 and self.context_chunks != ALL_CHUNKS

    def most_tokens(self, frames: int) -> int:
        """The most tokens that are written for a chunk of so many encoder frames. For a whole utterance it is one for a
        frame, the most that CTC can spell."""
        return min(self.max_tokens, TOKENS_PER_FRAME * frames) if self.chunk_frames else frames


@whole_model
@dataclass(frozen=True)
class SpeechLLMModelConfig:
    """A model that writes text in chunks: an encoder, its two CTC heads, and the decoder `llm`."""

    kind: ClassVar[str] = "speechllm"
    in_chunks: ClassVar[bool] = True

    encoder: object = field(default_factory=EncoderConfig)
    asr: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    st: CTCHeadConfig = field(default_factory=CTCHeadConfig)
    llm: SpeechLLMConfig = field(default_factory=SpeechLLMConfig)

    def __post_init__(self):
        dim, segment = self.encoder.dim, self.encoder.segment_frames
        for name in ("asr", "st"):
            require(getattr(self, name).dim == dim, f"{name}.dim must equal encoder.dim {dim}")
        require(self.llm.encoder_dim == dim, f"llm.encoder_dim must equal encoder.dim {dim}")
        head = "asr" if self.transcribes else "st"
        require(
            self.llm.vocab == getattr(self, head).vocab,
            f"llm.vocab {self.llm.vocab} must equal {head}.vocab {getattr(self, head).vocab}: its head aligns the text",
        )
        require(
            not segment or self.llm.chunk_frames % segment == 0,
            f"llm.chunk_frames {self.llm.chunk_frames} must be a multiple of encoder.segment_frames {segment}",
        )

    @property
    def transcribes(self) -> bool:
        """Is it the source text that is written?"""
        return self.llm.target == "source_text"

    @property
    def vocabularies(self) -> tuple:
        """(side, option, size) of every part that reads or writes subwords."""
        side = "source" if self.transcribes else "target"
        sizes = ("source", "asr.vocab", self.asr.vocab), ("target", "st.vocab", self.st.vocab)
        return *sizes, (side, "llm.vocab", self.llm.vocab)

    def to_dict(self) -> dict:
        """What `config.read_model` reads."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict) -> "SpeechLLMModelConfig":
        """As `ModelConfig.from_dict`."""
        return model_from_dict(cls, values)
