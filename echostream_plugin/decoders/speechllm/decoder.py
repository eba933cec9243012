"""The decoder of SpeechLLM-XL (Jia et al., arXiv 2410.03752) over a sequence of audio and text, packed for training,
piece by piece in use."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.constants import PAD
from echostream_plugin.decoders.speechllm.config import SpeechLLMConfig
from echostream_plugin.decoders.speechllm.packing import pack, visible_positions
from echostream_plugin.decoders.transformer import KeyValues, MultiHeadAttention, tied_projection
from echostream_plugin.modules.streaming import StreamState

NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class SpeechLLMState(StreamState):
    """What one stream has heard and written: unrotated keys and values of each layer, the newest position last.

    lengths: int64 [B, b + 1] positions of the chunks that the present one may attend to, the oldest first, itself
    last; [B, 1] of all together where all are kept. With bounded context the keys have a fixed size, and what of them
    lies before the positions that are counted is forgotten."""

    lengths: Tensor
    past: tuple[KeyValues, ...]


class SwiGLU(nn.Module):
    """Gated feed-forward module (Shazeer, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        for linear in (self.gate, self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class SpeechLLMLayer(nn.Module):
    """Self-attention and feed-forward, each after an RMSNorm, without biases."""

    def __init__(self, config: SpeechLLMConfig):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        self.attention = MultiHeadAttention(config.dim, config.heads, config.dropout, rotary=True, bias=False)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        self.ffn = SwiGLU(config.dim, config.ffn_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor | None, past: KeyValues | None = None) -> tuple[Tensor, KeyValues]:
        """x: [B, n, D] the positions after `past`; visible: bool, to [B, heads, n, P + n], None: everything. Returns
        [B, n, D], and their own keys and values."""
        normed = self.attention_norm(x)
        own = self.attention.project(normed)
        attended = own if past is None else past.append(own)
        x = x + self.dropout(self.attention(normed, attended, visible))
        return x + self.dropout(self.ffn(self.ffn_norm(x))), own


class SpeechLLMDecoder(nn.Module):
    """Reads the encoder frames of a chunk (`hear`), then writes its text and the `</s>` that ends it (`write`)."""

    def __init__(self, config: SpeechLLMConfig):
        super().__init__()
        self.config = config
        self.adapter = nn.Linear(config.encoder_dim, config.dim)
        self.embed_tokens = nn.Embedding(config.vocab, config.dim, padding_idx=PAD)
        nn.init.normal_(self.embed_tokens.weight, std=config.dim**-0.5)
        nn.init.zeros_(self.embed_tokens.weight[PAD])
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(SpeechLLMLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=NORM_EPSILON)
        if config.tie_embeddings:
            self.output_projection = tied_projection(self.embed_tokens)
        else:
            self.output_projection = nn.Linear(config.dim, config.vocab, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor, targets: Tensor, chunk_of_token: Tensor):
        """Teacher forcing. frames: [B, S, encoder_dim]; the rest as of `packing.pack`. Returns logits [M, V] of the
        M = U + K tokens of all utterances, ends of chunks included, and these tokens [M]."""
        packing = pack(lengths, targets, chunk_of_token, self.config.chunk_frames)
        embedded = self.embed(packing.tokens)
        x = packing.join(self.adapter(frames[:, : packing.audio.size(1)]).to(embedded.dtype), embedded)
        hidden, tokens = packing.predictions(self.hidden(self.dropout(x), packing.chunks))
        return self.output_projection(hidden), tokens

    def hidden(self, x: Tensor, chunks: Tensor) -> Tensor:
        """x: [B, T, D] packed sequences; chunks: [B, T] of their positions; returns [B, T, D] after the last norm."""
        visible = visible_positions(chunks, self.config.context_chunks)
        for layer in self.layers:
            x, _ = layer(x, visible)
        return self.norm(x)

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens: [B, n] -> [B, n, D]."""
        return math.sqrt(self.config.dim) * self.embed_tokens(tokens)

    @property
    def slots(self) -> int:
        """Positions whose keys a state keeps; 0: all."""
        config = self.config
        if not config.bounded:
            return 0
        return (config.context_chunks + 1) * (config.chunk_frames + config.most_tokens(config.chunk_frames) + 1)

    def initial_state(self, batch_size: int = 1) -> SpeechLLMState:
        """Nothing heard."""
        config, like = self.config, self.embed_tokens.weight
        zeros = like.new_zeros(batch_size, config.heads, self.slots, config.dim // config.heads)
        past = tuple(KeyValues(zeros.clone(), zeros.clone()) for _ in self.layers)
        chunks = config.context_chunks + 1 if config.bounded else 1
        return SpeechLLMState(torch.zeros(batch_size, chunks, dtype=torch.long, device=like.device), past)

    def hear(self, frames: Tensor, state: SpeechLLMState) -> tuple[Tensor, SpeechLLMState]:
        """frames: [B, s, encoder_dim], s > 0, all of the next chunk; returns the logits [B, 1, V] of the first token of
        its text, and the state."""
        hidden, state = self.step(self.adapter(frames), self.begin_chunk(state))
        return self.output_projection(hidden[:, -1:]), state

    def write(self, tokens: Tensor, state: SpeechLLMState) -> tuple[Tensor, SpeechLLMState]:
        """tokens: [B, u] that were written in the present chunk, `</s>` the last of all; returns the logits [B, u, V]
        of those that follow each, and the state."""
        hidden, state = self.step(self.embed(tokens), state)
        return self.output_projection(hidden), state

    def begin_chunk(self, state: SpeechLLMState) -> SpeechLLMState:
        """What comes next is another chunk: the oldest is forgotten, where only so many are kept."""
        if not self.config.bounded:
            return state
        lengths = torch.cat((state.lengths[:, 1:], torch.zeros_like(state.lengths[:, :1])), 1)
        return replace(state, lengths=lengths)

    def step(self, x: Tensor, state: SpeechLLMState) -> tuple[Tensor, SpeechLLMState]:
        """x: [B, n, D] the next positions, all of the present chunk; returns [B, n, D] after the last norm."""
        new, slots, known = x.size(1), self.slots, state.lengths.sum(1)
        kept = state.past[0].length
        window = min(kept, int(known.max())) if slots else kept
        visible = _visible_window(known.clamp(max=window) if slots else None, new, window, x.device)
        pasts = []
        for layer, past in zip(self.layers, state.past, strict=True):
            seen = KeyValues(past.keys[:, :, kept - window :], past.values[:, :, kept - window :])
            x, own = layer(x, visible, seen)
            pasts.append(past.append(own).last(slots) if slots else past.append(own))
        lengths = state.lengths.clone()
        lengths[:, -1] += new
        return self.norm(x), SpeechLLMState(lengths, tuple(pasts))


def _visible_window(known: Tensor | None, new: int, window: int, device) -> Tensor | None:
    """Bool [B or 1, 1, new, window + new]: a new position sees the newest `known` [B] of the window (None: all of it)
    and the new ones up to itself; None where every one sees everything."""
    whole = known is None or bool((known == window).all())
    if whole and new == 1:
        return None
    key = torch.arange(window + new, device=device)
    visible = (key <= key[window:, None])[None, None]
    return visible if whole else visible & (key >= window - known.view(-1, 1, 1, 1))
