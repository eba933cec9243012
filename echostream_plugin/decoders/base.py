"""What every MT decoder offers: a parallel form, and steps from a state; and the decoders by kind."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from echostream_plugin.config import decoder_config
from echostream_plugin.modules.streaming import StreamState

DECODERS = {}  # kind -> class; see register_decoder


def register_decoder(decoder):
    """Class decorator: `decoder` and its configuration are found by their kind, by `--mt-decoder`, in checkpoints and
    in bundles. To add one, write such a class in a file of this folder and import it in `decoders/__init__.py`."""
    DECODERS[decoder.Config.kind] = decoder
    decoder_config(decoder.Config)
    return decoder


class StreamingDecoder(nn.Module, ABC):
    """Target tokens and the source that they may see, to the states that predict the next tokens.

    For tokens that come one by one while the source grows, the states of `step` are those of `forward` under the mask
    that shows each token the source which was there. The T2U encoder reads the states too.

    Class attributes:
        Config: the dataclass of its options. Those with names of `TextDecoderConfig` are set by the same flags, others
            by `--mt-<name>`. It must have `vocab`, `dim` and `encoder_dim`, on which other parts depend.
    An object has:
        embed_tokens: nn.Embedding of [vocab, dim], whose weight is the map of `logits` too.
    A state has the field `source`, the encoder frames so far, apart from the tokens.
    """

    Config: ClassVar[type]
    embed_tokens: nn.Embedding

    @abstractmethod
    def forward(
        self,
        prev_tokens: Tensor,
        source: Tensor,
        source_padding_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing.

        prev_tokens: [B, U] `</s> t1 .. tn`, padded on the right; source: [B, S, encoder_dim]; source_padding_mask:
        bool [B, S]; source_mask: bool [B, U, S], True = masked in both. Returns [B, U, dim]."""

    def attach_ctc_head(self, head: nn.Module) -> None:
        """Called when a model is built, with the source's CTC head: a decoder that reads the transcript keeps it."""

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [B, U, dim] -> [B, U, V]."""
        return nn.functional.linear(hidden, self.embed_tokens.weight)

    @abstractmethod
    def initial_state(self, batch_size: int = 1) -> StreamState:
        """The state before the first frame and the first token."""

    @abstractmethod
    def add_source(self, frames: Tensor, state: StreamState) -> StreamState:
        """frames: [B, s, encoder_dim] new encoder frames: final ones, or provisional ones for a state that is thrown
        away afterwards."""

    @abstractmethod
    def step(
        self,
        tokens: Tensor,
        state: StreamState,
        provisional: Tensor | None = None,
        attention: list | None = None,
    ) -> tuple[Tensor, StreamState]:
        """Consume tokens, with the source so far.

        tokens: [B, u] (usually one); provisional: [B, p, encoder_dim] frames that this step sees after the committed
        ones and that are not kept; attention: takes the weights of the step over the source, [B, layers, heads, u, S],
        for policies that ask what a token attends to. Returns [B, u, dim], and the state."""

    def propose(self, tokens: Tensor, state: StreamState) -> tuple[tuple[Tensor, Tensor], StreamState]:
        """`step` of tokens [B, u], and what comes next: the state [B, 1, dim] that predicts it, its scores [B, V]."""
        hidden, state = self.step(tokens, state)
        return (hidden[:, -1:], self.logits(hidden[:, -1:])[:, 0]), state

    def propose_together(self, pairs: list) -> list:
        """`propose` of several streams, whose pasts and sources differ in length. pairs: (tokens, state) of each. One
        after the other, unless a decoder can do better."""
        return [self.propose(*pair) for pair in pairs]

    def without_source(self) -> StreamState:
        """The state of a text that has no source, which text to speech begins with: of one frame of zeros."""
        weight = self.embed_tokens.weight
        return self.add_source(weight.new_zeros(1, 1, self.config.encoder_dim), self.initial_state())
