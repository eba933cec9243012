"""The MT decoder: fairseq's pre-norm Transformer decoder, parallel in training, one token at a time in use."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from echostream_plugin.config import TextDecoderConfig
from echostream_plugin.constants import PAD
from echostream_plugin.decoders.base import StreamingDecoder, register_decoder
from echostream_plugin.decoders.masks import build_streaming_mask
from echostream_plugin.decoders.transformer import (
    KeyValues,
    Positions,
    TransformerLayer,
    sinusoidal_positions,
    tied_projection,
)
from echostream_plugin.modules.streaming import StreamState

__all__ = ["TextDecoder", "TextDecoderState", "build_streaming_mask"]


@dataclass(frozen=True)
class TextDecoderState(StreamState):
    """What one stream has heard and said, projected: a pair of keys and values per layer.

    targets: of the newest tokens, where there is a window; `dropped` came before them."""

    targets: tuple[KeyValues, ...]
    source: tuple[KeyValues, ...]
    dropped: int = 0

    @property
    def position(self) -> int:
        """Tokens consumed so far."""
        return self.dropped + self.targets[0].length

    @property
    def source_frames(self) -> int:
        """Committed encoder frames."""
        return self.source[0].length


@register_decoder
class TextDecoder(StreamingDecoder):
    """Transformer decoder whose every target position may see its own part of the source."""

    Config = TextDecoderConfig

    def __init__(self, config: TextDecoderConfig):
        super().__init__()
        self.config = config
        self.embed_scale = math.sqrt(config.dim)
        self.embed_tokens = nn.Embedding(config.vocab, config.dim, padding_idx=PAD)
        nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
        nn.init.zeros_(self.embed_tokens.weight[PAD])
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                config.dim,
                config.heads,
                config.ffn_dim,
                config.dropout,
                config.attention_dropout,
                config.activation_dropout,
                source_dim=config.encoder_dim,
                window=config.window_tokens,
            )
            for _ in range(config.layers)
        )
        self.layer_norm = nn.LayerNorm(config.dim)
        self.output_projection = tied_projection(self.embed_tokens)

    def forward(
        self,
        prev_tokens: Tensor,
        source: Tensor,
        source_padding_mask: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing.

        prev_tokens: [B, U] `</s> t1 .. tn`, padded on the right; source: [B, S, encoder_dim]; source_padding_mask:
        bool [B, S]; source_mask: bool [B, U, S], for all layers and heads; True = masked in both.
        Returns [B, U, D], the states after the final layer norm.
        """
        visible = None
        if source_padding_mask is not None:
            visible = ~source_padding_mask[:, None, None]
        if source_mask is not None:
            shown = ~source_mask[:, None]
            visible = shown if visible is None else visible & shown
        x = self._embed(prev_tokens, 0)
        for layer in self.layers:
            x, _ = layer(x, source=layer.encoder_attn.project(source), source_visible=visible)
        return self.layer_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [B, U, D] -> [B, U, V]."""
        return self.output_projection(hidden)

    def initial_state(self, batch_size: int = 1) -> TextDecoderState:
        """Nothing heard, nothing said."""
        return TextDecoderState(
            targets=tuple(layer.self_attn.empty(batch_size) for layer in self.layers),
            source=tuple(layer.encoder_attn.empty(batch_size) for layer in self.layers),
        )

    def add_source(self, frames: Tensor, state: TextDecoderState) -> TextDecoderState:
        """frames: [B, s, encoder_dim] new encoder frames that will not change any more; projected once, here."""
        return TextDecoderState(state.targets, self._extend(state.source, frames), state.dropped)

    def step(
        self,
        tokens: Tensor,
        state: TextDecoderState,
        provisional: Tensor | None = None,
        attention: list | None = None,
    ) -> tuple[Tensor, TextDecoderState]:
        """Consume tokens with the source heard so far.

        tokens: [B, u] (usually one); provisional: [B, p, encoder_dim] frames that this step sees after the committed
        ones and that are not kept; attention: takes the cross-attention weights of the step, [B, layers, heads, u, S].
        Returns [B, u, D] after the final layer norm, and the state.
        """
        looking = state
        if provisional is not None and provisional.size(1):
            looking = self.add_source(provisional, state)
        ((hidden, after),) = self.step_together([(tokens, looking)], attention)
        return hidden, replace(after, source=state.source)

    def step_together(self, pairs: list, attention: list | None = None) -> list:
        """`step` of several streams at once, each with a past and a source of its own length.

        pairs: (tokens [B, u], state) of each; returns (hidden [B, u, D], state) of each. attention: takes the weights
        of the first."""
        if any(state.source[0].length == 0 for _, state in pairs):
            raise ValueError("the text decoder has no source frames yet: call add_source before step")
        counts, states = [tokens.size(1) for tokens, _ in pairs], [state for _, state in pairs]
        x = torch.cat([self._embed(tokens, state.position) for tokens, state in pairs], dim=1)
        targets, weights = [], None if attention is None else []
        for index, layer in enumerate(self.layers):
            parts = [(s.targets[index], s.source[index]) for s in states]
            streams = [Positions(n, past, source=heard) for n, (past, heard) in zip(counts, parts, strict=True)]
            x, pasts = layer.together(x, streams, weights=weights)
            targets.append(pasts)
        if attention is not None:
            attention.append(torch.stack(weights, dim=1))
        hidden, own = self.layer_norm(x).split(counts, 1), zip(*targets, strict=True)
        return [(one, _after(past, *pair)) for one, past, pair in zip(hidden, own, pairs, strict=True)]

    def propose_together(self, pairs: list) -> list:
        """`propose` of several streams at once, as `step_together`."""
        steps = self.step_together(pairs)
        hidden = torch.cat([states[:, -1:] for states, _ in steps], dim=1)
        scores = zip(hidden.split(1, 1), self.logits(hidden).split(1, 1), strict=True)
        return [((one, each[:, 0]), state) for (one, each), (_, state) in zip(scores, steps, strict=True)]

    def without_source(self) -> TextDecoderState:
        """A frame whose keys and values are zeros, which nothing is projected to."""
        heard = tuple(layer.encoder_attn.empty(1, 1) for layer in self.layers)
        return TextDecoderState(self.initial_state().targets, heard)

    def _embed(self, tokens: Tensor, first: int) -> Tensor:
        positions = sinusoidal_positions(first, tokens.size(1), self.config.dim, tokens.device)
        return self.dropout(self.embed_scale * self.embed_tokens(tokens) + positions.to(self.embed_tokens.weight.dtype))

    def _extend(self, source: tuple[KeyValues, ...], frames: Tensor) -> tuple[KeyValues, ...]:
        pairs = zip(self.layers, source, strict=True)
        return tuple(heard.append(layer.encoder_attn.project(frames)) for layer, heard in pairs)


def _after(targets: tuple, tokens: Tensor, state: TextDecoderState) -> TextDecoderState:
    """The state once tokens [B, u] were consumed; targets: the keys and values of each layer then."""
    return TextDecoderState(targets, state.source, state.position + tokens.size(1) - targets[0].length)
