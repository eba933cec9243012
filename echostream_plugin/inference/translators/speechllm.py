"""Translation by a decoder that writes target text for chunks of audio (SpeechLLM-XL with target_text)."""

from dataclasses import dataclass

from torch import Tensor

from echostream_plugin.config import option
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.guards import without_repeats
from echostream_plugin.inference.translators.base import Translator, Written, register_translator


@dataclass(frozen=True)
class ChunkOptions:
    """How text is found for a chunk, transcript or translation."""

    chunk_beam: int = option(
        1, "for models that write in chunks: hypotheses of the beam search inside a chunk; 1: greedy", maximum=1000
    )


@register_translator
class ChunkTranslator(Translator):
    """For models that write text in chunks (SpeechLLM-XL): each chunk's text when all of its audio was heard.

    The chunk is the policy: the session's policy is not asked."""

    name = "chunks"
    Options = ChunkOptions
    SAVED = ("policy", "writer")
    hears_provisional = False
    in_chunks = True

    def __init__(self, bundle, options, listener, context=None):
        super().__init__(bundle, options, listener)
        self.writer = ChunkWriter(bundle.model, options.chunk_beam)

    @property
    def tokens(self) -> list:
        return without_repeats(self.writer.tokens, self.options.max_repeats)

    def hear(self, frames: Tensor):
        self.writer.hear(frames)

    def decide(self, provisional: Tensor | None = None, source_text: str = ""):
        written = len(self.writer.tokens)
        yield from self.writer.write()
        return Written(self.tokens) if len(self.writer.tokens) > written else None

    def finish(self, source_text: str = ""):
        yield from self.writer.finish()
        return Written(self.tokens)
