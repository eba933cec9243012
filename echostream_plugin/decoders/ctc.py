"""CTC heads on the encoder (source transcript, target text) and greedy decoding, at once or as frames arrive."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from echostream_plugin.config import CTCHeadConfig
from echostream_plugin.decoders.transformer import KeyValues, TransformerLayer
from echostream_plugin.modules.streaming import StreamState

# pad and unk are outputs of fairseq's dictionaries and never targets
FORBIDDEN = (1, 3)
# forward takes long input in blocks, so that its memory is linear in time
BLOCK_FRAMES = 256
# 160 ms, in which hardly a word is said: what a head writes in the first so many frames of an utterance it guesses
FIRST_FRAMES = 4


@dataclass(frozen=True)
class CTCState(StreamState):
    """The newest `left_context_frames` keys and values of each layer, and how many of them are real, int64 [B]."""

    seen: Tensor
    past: tuple[KeyValues, ...] = ()


class CTCHead(nn.Module):
    """Linear map to the dictionary, after causal Transformer layers with limited left context where configured."""

    def __init__(self, config: CTCHeadConfig):
        super().__init__()
        self.config = config
        if config.layers:
            dropout = config.dropout
            self.layers = nn.ModuleList(
                TransformerLayer(config.dim, config.heads, config.ffn_dim, dropout, dropout, dropout, rotary=True)
                for _ in range(config.layers)
            )
            self.layer_norm = nn.LayerNorm(config.dim)
        self.proj = nn.Linear(config.dim, config.vocab)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x: [B, S, C] encoder frames -> logits [B, S, V].

        lengths: [B], not needed: no frame sees what is to its right, so padding there changes no real frame.
        """
        if not self.config.layers:
            return self.proj(x)
        state, logits = self.initial_state(x.size(0)), []
        for block in x.split(BLOCK_FRAMES, dim=1):
            out, state = self.step(block, state)
            logits.append(out)
        return torch.cat(logits, dim=1)

    def initial_state(self, batch_size: int = 1) -> CTCState:
        """Nothing seen; the state's size never changes."""
        seen = torch.zeros(batch_size, dtype=torch.long, device=self.proj.bias.device)
        if not self.config.layers:
            return CTCState(seen)
        left = self.config.left_context_frames
        return CTCState(seen, tuple(layer.self_attn.empty(batch_size, left) for layer in self.layers))

    def step(self, x: Tensor, state: CTCState) -> tuple[Tensor, CTCState]:
        """x: [B, s, C] new encoder frames -> logits [B, s, V] and the state."""
        if not self.config.layers or x.size(1) == 0:
            return self.proj(x), state
        left, pasts = self.config.left_context_frames, []
        visible = self._visible(x.size(1), state.seen)
        for layer, past in zip(self.layers, state.past, strict=True):
            x, attended = layer(x, past, visible)
            pasts.append(attended.last(left))
        seen = (state.seen + x.size(1)).clamp(max=left)
        return self.proj(self.layer_norm(x)), CTCState(seen, tuple(pasts))

    def _visible(self, frames: int, seen: Tensor) -> Tensor:
        """Bool [B, 1, frames, left + frames]: a frame sees itself and at most `left` real frames before it."""
        left = self.config.left_context_frames
        query = torch.arange(left, left + frames, device=seen.device)[:, None]
        key = torch.arange(left + frames, device=seen.device)
        window = (key <= query) & (key >= query - left)
        return window & (key >= left - seen.view(-1, 1, 1, 1))


@dataclass(frozen=True)
class CollapseState(StreamState):
    """The symbol of the newest frame (-1: none yet) and the number of frames so far, int64 [1] each."""

    last: Tensor
    frames: Tensor

    @classmethod
    def initial(cls) -> "CollapseState":
        """Before the first frame."""
        return cls(torch.tensor([-1]), torch.tensor([0]))


def collapse_step(
    logits: Tensor, state: CollapseState, blank: int = 0, forbidden: tuple[int, ...] = FORBIDDEN
) -> tuple[list[int], list[int], CollapseState]:
    """Greedy CTC over the frames that follow those of `state`.

    logits: [s, V] of one stream; blank: index (negative counts from the end); forbidden: symbols never chosen.
    Returns the new tokens, the frame at which each starts, counted from the stream's start, and the state.
    """
    if logits.dim() != 2:
        raise ValueError(f"greedy CTC takes the logits [frames, symbols] of one stream, got {list(logits.shape)}")
    blank = blank % logits.size(1)
    if forbidden:
        logits = logits.index_fill(1, torch.tensor(forbidden, device=logits.device), float("-inf"))
    first, previous = int(state.frames), int(state.last)
    tokens, frames = [], []
    for frame, symbol in enumerate(logits.argmax(1).tolist()):
        if symbol != previous and symbol != blank:
            tokens.append(symbol)
            frames.append(first + frame)
        previous = symbol
    return tokens, frames, CollapseState(torch.tensor([previous]), torch.tensor([first + logits.size(0)]))


def greedy_collapse(
    logits: Tensor, blank: int = 0, forbidden: tuple[int, ...] = FORBIDDEN
) -> tuple[list[int], list[int]]:
    """Greedy CTC of a whole utterance: logits [S, V] -> tokens and the frame at which each starts."""
    tokens, frames, _ = collapse_step(logits, CollapseState.initial(), blank, forbidden)
    return tokens, frames


def greedy_collapse_batch(
    logits: Tensor, lengths: Tensor | None = None, blank: int = 0, forbidden: tuple[int, ...] = FORBIDDEN
) -> list[tuple[list[int], list[int]]]:
    """`greedy_collapse` of each row: logits [B, S, V], lengths [B] valid frames."""
    counts = [logits.size(1)] * logits.size(0) if lengths is None else lengths.tolist()
    return [greedy_collapse(row[:count], blank, forbidden) for row, count in zip(logits, counts, strict=True)]
