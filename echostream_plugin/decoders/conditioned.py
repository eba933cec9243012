"""An MT decoder that reads the transcript too: the prediction of the source's CTC head is added to the encoder frames.

As in self-conditioned CTC (Nozaki and Komatsu, arXiv 2104.02724) the head's distribution over subwords is embedded and
added to the frames, here to those that the MT decoder attends to. What it attends to is then half text, so that it can
first learn to translate from text alone, of which there is more than speech (`scripts/pretrain_mt.py`).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.config import TextDecoderConfig, option
from echostream_plugin.constants import BLANK
from echostream_plugin.decoders.base import register_decoder
from echostream_plugin.decoders.ctc import CTCHead, CTCState
from echostream_plugin.decoders.text import TextDecoder, TextDecoderState
from echostream_plugin.decoders.transformer import KeyValues, sinusoids
from echostream_plugin.modules.streaming import StreamState

HISTORY = 3  # subwords whose embeddings a frame is given: the one that is heard and those before it
FIRST_GAIN = 0.3  # of the encoder's frames, while the transcript is all that the decoder knows


@dataclass(frozen=True)
class ConditionedDecoderConfig(TextDecoderConfig):
    """A Transformer decoder whose source is conditioned on the transcript."""

    kind: str = option("ctc_conditioned", "which MT decoder this is")
    source_vocab: int = option(6000, "source dictionary size")


@dataclass(frozen=True)
class Transcript(StreamState):
    """What the CTC head has heard in the frames so far, of B streams.

    head: the head's own state; last: int64 [B], the symbol of the newest frame; tokens: int64 [B, HISTORY], the newest
    subwords, 0 where there were none; count: int64 [B], how many there were."""

    head: CTCState
    last: Tensor
    tokens: Tensor
    count: Tensor


@dataclass(frozen=True)
class ConditionedSource(StreamState):
    """Keys and values of each layer, found by its number, and the transcript of their frames."""

    layers: tuple[KeyValues, ...]
    transcript: Transcript

    def __getitem__(self, layer: int) -> KeyValues:
        return self.layers[layer]


class TranscriptEmbedding(nn.Module):
    """What a subword, those before it and its place in the sentence add to a frame."""

    def __init__(self, vocab: int, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.full((dim,), FIRST_GAIN))
        self.embed = nn.ModuleList(nn.Embedding(vocab, dim) for _ in range(HISTORY))
        for before, table in enumerate(self.embed):
            nn.init.normal_(table.weight, std=0.3 if before else 1.0)

    def likely(self, probabilities: Tensor) -> Tensor:
        """[B, S, C] of a head's probabilities [B, S, V]: the embeddings of all subwords, each as far as it is heard."""
        table = self.embed[0].weight
        return F.pad(probabilities[..., BLANK + 1 :], (BLANK + 1, 0)).to(table.dtype) @ table

    def forward(self, frames: Tensor, now: Tensor, heard: Tensor, history: Tensor, places: Tensor) -> Tensor:
        """frames: [B, S, C] of the encoder; now: [B, S, C] of what is heard in each, and heard: [B, S] how probable it
        is that it is anything; history: int64 [B, S, HISTORY - 1], the subwords before it, the newest first; places:
        int64 [B, S], how many there were up to it."""
        before = sinusoids(places, frames.size(2)).to(now.dtype)
        for table, tokens in zip(self.embed[1:], history.unbind(-1), strict=True):
            before = before + table(tokens) * tokens.ne(BLANK).unsqueeze(-1)
        return self.gain * frames + now + heard.to(now.dtype).unsqueeze(-1) * before


@register_decoder
class ConditionedDecoder(TextDecoder):
    """`TextDecoder` over frames to which the transcript was added, each as far as the head has heard by then."""

    Config = ConditionedDecoderConfig

    def __init__(self, config: ConditionedDecoderConfig):
        super().__init__(config)
        self.transcript = TranscriptEmbedding(config.source_vocab, config.encoder_dim)
        self.attach_ctc_head(None)

    def attach_ctc_head(self, head: CTCHead | None) -> None:
        object.__setattr__(self, "_head", head)  # its parameters are the model's, not this decoder's

    def forward(
        self,
        prev_tokens: Tensor,
        source: Tensor,
        source_padding_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        source, _ = self.condition(source, self._nothing_heard(source.size(0)))
        return super().forward(prev_tokens, source, source_padding_mask, source_mask)

    def forward_text(self, prev_tokens: Tensor, tokens: Tensor, frames: Tensor, padding: Tensor) -> Tensor:
        """Teacher forcing from text alone, as `forward`: a head that is sure of everything.

        tokens: int64 [B, S] what is heard in each frame, 0: nothing; frames: [B, S, encoder_dim] in place of the
        encoder's; padding: bool [B, S]."""
        heard = tokens.ne(BLANK)
        now = self.transcript.embed[0](tokens) * heard.unsqueeze(-1)
        source, _ = self._add(frames, now, heard, tokens, self._nothing_heard(tokens.size(0)))
        return super().forward(prev_tokens, source, padding)

    def initial_state(self, batch_size: int = 1) -> TextDecoderState:
        state = super().initial_state(batch_size)
        return TextDecoderState(state.targets, ConditionedSource(state.source, self._nothing_heard(batch_size)))

    def condition(self, frames: Tensor, before: Transcript) -> tuple[Tensor, Transcript]:
        """Add the transcript to frames [B, s, encoder_dim] that follow those of `before`."""
        if self._head is None:
            raise ValueError("the decoder has no CTC head to read the transcript from: call attach_ctc_head first")
        with torch.no_grad():  # the head learns from the transcripts, not from the translations
            logits, head = self._head.step(frames, before.head)
            likely = logits.float().softmax(-1)
        now, heard = self.transcript.likely(likely), 1 - likely[..., BLANK]
        source, after = self._add(frames, now, heard, logits.argmax(-1), before)
        return source, Transcript(head, after.last, after.tokens, after.count)

    def _add(self, frames, now, heard, symbols: Tensor, before: Transcript) -> tuple[Tensor, Transcript]:
        """frames, now, heard: as for `TranscriptEmbedding`; symbols: int64 [B, s], the likeliest of each frame;
        `before.head` is kept."""
        if not frames.size(1):
            return frames, before
        previous = torch.cat([before.last[:, None], symbols[:, :-1]], dim=1)
        begins = symbols.ne(BLANK) & symbols.ne(previous)
        found = begins.cumsum(1)
        # the newest subwords of before, then those that begin here; what begins nothing is written behind them all
        written = F.pad(before.tokens, (0, symbols.size(1) + 1))
        behind = torch.full_like(found, written.size(1) - 1)
        written = written.scatter(1, torch.where(begins, HISTORY - 1 + found, behind), symbols)
        history = torch.stack([written.gather(1, found + HISTORY - 2 - back) for back in range(HISTORY - 1)], dim=-1)
        newest = found[:, -1:] + torch.arange(HISTORY, device=found.device)
        count = before.count + found[:, -1]
        source = self.transcript(frames, now, heard, history, before.count[:, None] + found)
        return source, Transcript(before.head, symbols[:, -1].clone(), written.gather(1, newest), count)

    def _extend(self, source: ConditionedSource, frames: Tensor) -> ConditionedSource:
        frames, transcript = self.condition(frames, source.transcript)
        return ConditionedSource(super()._extend(source.layers, frames), transcript)

    def _nothing_heard(self, batch_size: int) -> Transcript:
        nothing = torch.zeros(batch_size, dtype=torch.long, device=self.embed_tokens.weight.device)
        head = CTCState(nothing) if self._head is None else self._head.initial_state(batch_size)
        return Transcript(head, nothing - 1, nothing[:, None].repeat(1, HISTORY), nothing)
