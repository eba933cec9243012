"""Text to units: the T2U encoder over MT decoder states, then the CTC unit decoder over upsampled states."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from echostream_plugin.config import UnitDecoderConfig
from echostream_plugin.decoders.masks import check_unit_wait, visible_states
from echostream_plugin.decoders.transformer import (
    KeyValues,
    Positions,
    TransformerLayer,
    sinusoidal_positions,
    tied_projection,
)
from echostream_plugin.modules.streaming import StreamState

# scale of the learned offsets at the start; the states they are added to have unit variance
OFFSET_STD = 0.3


@dataclass(frozen=True)
class T2UState(StreamState):
    """Keys and values of the MT states so far, or of the newest, per layer."""

    past: tuple[KeyValues, ...]


class T2UEncoder(nn.Module):
    """Transformer layers over MT decoder states; causal unless the configuration says otherwise."""

    def __init__(self, config: UnitDecoderConfig):
        super().__init__()
        self.config = config
        window = config.window_tokens if config.causal_encoder else 0
        self.layers = nn.ModuleList(_layer(config, window=window) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x: [B, U, D] MT states; padding_mask: bool [B, U], True = padded, on the right; returns [B, U, D]."""
        causal, visible = self.config.causal_encoder, None
        if padding_mask is not None and not causal:
            visible = ~padding_mask[:, None, None]
        for layer in self.layers:
            x, _ = layer(x, visible=visible, causal=causal)
        return self.layer_norm(x)

    def initial_state(self, batch_size: int = 1) -> T2UState:
        """No states yet."""
        return T2UState(tuple(layer.self_attn.empty(batch_size) for layer in self.layers))

    def step(self, x: Tensor, state: T2UState) -> tuple[Tensor, T2UState]:
        """x: [B, u, D] new MT states -> [B, u, D] and the state."""
        return self.step_together([(x, state)])[0]

    def step_together(self, pairs: list) -> list:
        """`step` of several streams at once. pairs: (states [B, u, D], state) of each, u and pasts of any lengths."""
        if not self.config.causal_encoder:
            raise ValueError(
                "a T2U encoder with causal_encoder=False cannot stream: use forward, or train a causal one"
            )
        counts, kept = [new.size(1) for new, _ in pairs], []
        x = torch.cat([new for new, _ in pairs], dim=1)
        for index, layer in enumerate(self.layers):
            streams = [Positions(n, s.past[index]) for n, (_, s) in zip(counts, pairs, strict=True)]
            x, pasts = layer.together(x, streams)
            kept.append(pasts)
        states = [T2UState(past) for past in zip(*kept, strict=True)]
        return list(zip(self.layer_norm(x).split(counts, 1), states, strict=True))


@dataclass(frozen=True)
class UnitDecoderState(StreamState):
    """Unit frames and T2U states so far, projected, and the T2U states whose frames still wait for others.

    With a window, frames and source are the newest; `dropped` states came before those in source."""

    frames: tuple[KeyValues, ...]
    source: tuple[KeyValues, ...]
    waiting: Tensor
    k2: int
    n2: int | None
    dropped: int = 0

    @property
    def available(self) -> int:
        """T2U states so far."""
        return self.dropped + self.source[0].length


class UnitDecoder(nn.Module):
    """Each T2U state becomes `upsample` frames; causal self-attention over frames, attention over the states.

    With the wait (k2, n2), the frames of token i see the first (i // n2 + 1) * n2 + k2 states; n2 None: all. Of states
    and frames before their token they see those of the newest `window_tokens` tokens, its own included.
    """

    # what every frame gets without time positions: the row StreamSpeech's first sample of a batch gets
    constant_position = 0

    def __init__(self, config: UnitDecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.dim)
        nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
        if config.offset_embedding:
            self.embed_offsets = nn.Embedding(config.upsample, config.dim)
            nn.init.normal_(self.embed_offsets.weight, std=OFFSET_STD)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            _layer(config, source_dim=config.dim, window=config.window_tokens, group=config.upsample)
            for _ in range(config.layers)
        )
        self.layer_norm = nn.LayerNorm(config.dim)
        self.output_projection = tied_projection(self.embed_tokens)

    def forward(
        self,
        t2u: Tensor,
        padding_mask: Tensor | None = None,
        k2: int = 0,
        n2: int | None = 1,
        batch_positions: bool = False,
    ) -> Tensor:
        """t2u: [B, U, D]; padding_mask: bool [B, U], True = padded, on the right; batch_positions: sample b of the
        batch gets the constant position b (StreamSpeech's training). Returns logits [B, U * upsample, V].

        Frames of padded states are computed and mean nothing.
        """
        check_unit_wait(k2, n2)
        tokens, visible = t2u.size(1), None
        if n2 is not None or 0 < self.config.window_tokens < tokens:
            visible = self._visible(0, visible_states(0, tokens, tokens, k2, n2, t2u.device), 0, tokens)[None, None]
        if padding_mask is not None:
            real = ~padding_mask[:, None, None]
            visible = real if visible is None else visible & real
        x = self._frames(t2u, 0, batch_positions)
        for layer in self.layers:
            # padding is on the right, so causal self-attention keeps it out of every real frame
            x, _ = layer(x, source=layer.encoder_attn.project(t2u), source_visible=visible)
        return self.output_projection(self.layer_norm(x))

    def initial_state(self, batch_size: int = 1, k2: int = 0, n2: int | None = 1) -> UnitDecoderState:
        """No states yet; (k2, n2) is the lag, n2 None waits for `finish`."""
        check_unit_wait(k2, n2)
        return UnitDecoderState(
            frames=tuple(layer.self_attn.empty(batch_size) for layer in self.layers),
            source=tuple(layer.encoder_attn.empty(batch_size) for layer in self.layers),
            waiting=self.embed_tokens.weight.new_zeros(batch_size, 0, self.config.dim),
            k2=k2,
            n2=n2,
        )

    def step(self, t2u: Tensor, state: UnitDecoderState) -> tuple[Tensor, UnitDecoderState]:
        """t2u: [B, u, D] new states -> logits [B, f, V] of the frames that became final, and the state."""
        return self.step_together([(t2u, state)])[0]

    def finish(self, state: UnitDecoderState) -> Tensor:
        """Logits [B, f, V] of the frames that still waited; no more states come."""
        return self.finish_together([(None, state)])[0]

    def step_together(self, pairs: list) -> list:
        """`step` of several streams at once. pairs: (T2U states [B, u, D], state) of each, all of any lengths."""
        states = self._hear([t2u for t2u, _ in pairs], [state for _, state in pairs])
        return self._decode([self._ready(state) for state in states], states)

    def finish_together(self, pairs: list) -> list:
        """`finish` of several streams at once. pairs: (None, state) of each."""
        states = [state for _, state in pairs]
        return [logits for logits, _ in self._decode([state.waiting.size(1) for state in states], states)]

    def _hear(self, t2u: list, states: list) -> list:
        """The states once new T2U states [B, u, D] of each stream are known."""
        counts, x = [new.size(1) for new in t2u], torch.cat(t2u, dim=1)
        projected = [layer.encoder_attn.project(x).split(counts) for layer in self.layers]
        return [
            replace(
                state,
                source=tuple(past.append(more) for past, more in zip(state.source, new, strict=True)),
                waiting=torch.cat((state.waiting, own), 1),
            )
            for state, own, new in zip(states, t2u, zip(*projected, strict=True), strict=True)
        ]

    def _ready(self, state: UnitDecoderState) -> int:
        """How many of the waiting T2U states have all that their frames see."""
        if state.n2 is None:
            return 0
        count = state.waiting.size(1)
        needed = visible_states(state.available - count, count, state.available + 1, state.k2, state.n2)
        return int((needed <= state.available).sum())

    def _decode(self, tokens: list, states: list) -> list:
        """Of each stream the logits of the frames of its first so many waiting states, and its state then."""
        first = states[0].waiting
        none = first.new_zeros(first.size(0), 0, self.config.vocab)
        decoded = [(none, state) for state in states]
        chosen = [index for index, count in enumerate(tokens) if count]
        if not chosen:
            return decoded
        tokens, states = [tokens[index] for index in chosen], [states[index] for index in chosen]
        pairs = list(zip(tokens, states, strict=True))
        visible = [self._seen(*pair) for pair in pairs]
        x = torch.cat([self._frames(s.waiting[:, :n], s.available - s.waiting.size(1)) for n, s in pairs], dim=1)
        kept, counts = [], [n * self.config.upsample for n in tokens]
        for index, layer in enumerate(self.layers):
            parts = zip(counts, states, visible, strict=True)
            streams = [Positions(n, s.frames[index], None, s.source[index], seen) for n, s, seen in parts]
            x, pasts = layer.together(x, streams)
            kept.append(pasts)
        logits = self.output_projection(self.layer_norm(x)).split(counts, 1)
        for index, own, past, pair in zip(chosen, logits, zip(*kept, strict=True), pairs, strict=True):
            decoded[index] = own, self._after(pair[0], past, pair[1])
        return decoded

    def _seen(self, tokens: int, state: UnitDecoderState) -> Tensor:
        """Which T2U states the frames of the first `tokens` waiting ones see, of those that the state keeps."""
        available, first = state.available, state.available - state.waiting.size(1)
        seen = visible_states(first, tokens, available, state.k2, state.n2, state.waiting.device)
        return self._visible(first, seen, state.dropped, available)

    def _after(self, tokens: int, frames: tuple[KeyValues, ...], state: UnitDecoderState) -> UnitDecoderState:
        """The state when so many waiting states were decoded: what the next ones see."""
        waiting, source = state.waiting[:, tokens:].clone(), state.source
        if self.config.window_tokens:
            source = tuple(each.last(waiting.size(1) + self.config.window_tokens - 1) for each in source)
        dropped = state.available - source[0].length
        return replace(state, frames=frames, source=source, waiting=waiting, dropped=dropped)

    def _visible(self, first: int, seen: Tensor, start: int, stop: int) -> Tensor:
        """Which of the T2U states start .. stop - 1 the frames of tokens first, first + 1, .. see.

        seen: [tokens] how many, but for the window, counted from state 0; bool [tokens * upsample, stop - start]."""
        state = torch.arange(start, stop, device=seen.device)
        shown = state < seen[:, None]
        if self.config.window_tokens:
            token = torch.arange(first, first + len(seen), device=seen.device)
            shown &= state > token[:, None] - self.config.window_tokens
        return shown.repeat_interleave(self.config.upsample, dim=0)

    def _frames(self, t2u: Tensor, first_token: int, batch_positions: bool = False) -> Tensor:
        """t2u: [B, U, D] from token `first_token` on -> inputs of their frames [B, U * upsample, D]."""
        config = self.config
        first, count = first_token * config.upsample, t2u.size(1) * config.upsample
        if config.time_positions:
            added = sinusoidal_positions(first, count, config.dim, t2u.device)
        elif batch_positions:
            added = sinusoidal_positions(0, t2u.size(0), config.dim, t2u.device).unsqueeze(1)
        else:
            added = sinusoidal_positions(self.constant_position, 1, config.dim, t2u.device)
        added = added.to(t2u.dtype)
        if config.offset_embedding:
            added = added + self.embed_offsets.weight.repeat(t2u.size(1), 1)
        return self.dropout(t2u.repeat_interleave(config.upsample, dim=1) + added)


def _layer(config: UnitDecoderConfig, **more) -> TransformerLayer:
    return TransformerLayer(
        config.dim,
        config.heads,
        config.ffn_dim,
        config.dropout,
        config.attention_dropout,
        config.activation_dropout,
        **more,
    )
