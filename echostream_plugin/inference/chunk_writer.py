"""The text of one sentence by a decoder that writes chunk after chunk (SpeechLLM-XL)."""

from bisect import bisect_left
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echostream_plugin.constants import EOS, FRAME_MS
from echostream_plugin.decoders.speechllm.search import Found, allowed, search_chunk
from echostream_plugin.inference.errors import SessionError
from echostream_plugin.inference.stages import MT
from echostream_plugin.inference.work import Call
from echostream_plugin.model import SpeechLLMModel

if TYPE_CHECKING:  # both import this module
    from echostream_plugin.inference.bundle import Bundle
    from echostream_plugin.inference.options import SessionOptions


class ChunkWriter:
    """Encoder frames in, tokens out: those of a chunk at once, when all of it was heard. They are never revised.

    tokens, and for each in `starts` a frame of the stream: a decoder does not say where in its chunk a word was, so
    those of a chunk are spread over it evenly. capped: chunks whose text was cut at the most tokens; beam: hypotheses
    inside a chunk, 1 is greedy and lets the steps of many streams run as one. Methods that compute are generators of
    calls (`work.Call`)."""

    SAVED = ("tokens", "starts", "capped", "_frame", "_waiting", "_state")

    def __init__(self, model: SpeechLLMModel, beam: int = 1):
        self.decoder, self.beam = model.chunk_decoder, beam
        self.tokens, self.starts = [], []
        self.capped = 0
        self._frame = None  # of the stream, the first that was not read yet
        self._waiting = []  # [1, s, C] frames of the chunk that is not complete
        self._state = self.decoder.initial_state()

    def hear(self, frames: Tensor, first_frame: int = 0):
        """frames: [1, s, C] that will not change any more; first_frame: where they begin in the stream, of which a
        sentence hears all that come after its first."""
        if self._frame is None:
            self._frame = first_frame
        if frames.size(1):
            self._waiting.append(frames)

    def write(self):
        """The text of the chunks that are complete."""
        size = self.decoder.config.chunk_frames
        while size and sum(piece.size(1) for piece in self._waiting) >= size:
            waiting = torch.cat(self._waiting, dim=1)
            self._waiting = [waiting[:, size:].clone()]
            yield from self._read(waiting[:, :size])

    def finish(self):
        """No more frames come: the text of the short chunk that is left too."""
        yield from self.write()
        waiting, self._waiting = self._waiting, []
        if sum(piece.size(1) for piece in waiting):
            yield from self._read(torch.cat(waiting, dim=1))

    def count_before(self, frame: int) -> int:
        """How many of the tokens start before that frame."""
        return bisect_left(self.starts, frame)

    def _read(self, frames: Tensor):
        """frames: [1, s, C], all of a chunk."""
        logits, state = yield Call(self.decoder.hear, frames, self._state, part=MT)
        most = self.decoder.config.most_tokens(frames.size(1))
        if self.beam > 1:
            found = search_chunk(self.decoder, logits, state, self.beam, most)
        else:
            found = yield from self._greedy(logits, state, most)
        end = torch.tensor([[EOS]], device=logits.device)
        _, self._state = yield Call(self.decoder.write, end, found.state, part=MT)
        self.tokens += found.tokens
        count = len(found.tokens)
        self.starts += [self._frame + place * frames.size(1) // count for place in range(count)]
        self.capped += not found.ended
        self._frame += frames.size(1)

    def _greedy(self, logits: Tensor, state, most: int):
        tokens = []
        while len(tokens) < most:
            token = int(allowed(logits[0, -1]).argmax())
            if token == EOS:
                return Found(tokens, True, state)
            tokens.append(token)
            inputs = torch.tensor([[token]], device=logits.device)
            logits, state = yield Call(self.decoder.write, inputs, state, part=MT)
        return Found(tokens, False, state)


def check_chunks(bundle: "Bundle", options: "SessionOptions", writes_in_chunks: bool) -> None:
    """Raise SessionError where a model that writes in chunks cannot do what the options ask for, or where they ask
    another model to. writes_in_chunks: the translator does."""
    config = bundle.config
    if not config.in_chunks:
        if options.translate and writes_in_chunks:
            raise SessionError(
                f"decoding '{options.decoding}': the bundle's model does not write in chunks; train one with "
                "--arch speechllm_xl, or use decoding='incremental'"
            )
        return
    if options.translate and config.transcribes:
        raise SessionError("the bundle's model writes the source text alone: use translate=False")
    if options.translate and not writes_in_chunks:
        raise SessionError(f"decoding '{options.decoding}': the bundle's model writes in chunks; use decoding='chunks'")
    if options.revise:
        raise SessionError("revise: the bundle's model writes in chunks, and has no other decoder; use revise=False")
    if options.reads_text and config.transcribes:
        raise SessionError(
            f"endpointer '{options.endpointer}': where the bundle's model writes the source text in chunks, its words "
            "come too late to end sentences; use endpointer='energy'"
        )
    chunk_ms = config.llm.chunk_frames * FRAME_MS
    if options.chunk_ms and chunk_ms % options.chunk_ms:
        raise SessionError(
            f"chunk_ms {options.chunk_ms}: the bundle's model writes for chunks of {chunk_ms} ms "
            f"(llm.chunk_frames {config.llm.chunk_frames}), which must be a multiple of it"
        )
