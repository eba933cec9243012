"""A Transformer that says which mark follows each word of a stream, and how the word is cased.

After the controllable time-delay Transformer (Chen et al., arXiv 2003.01309): layers see the past only, but for the
last one, which also sees the next `delay` words. The mark of a word therefore depends on the words before it and on
`delay` words after it, and on nothing else; the delay is drawn in training and chosen at run time. As in FunASR's
variant, attention is joined by a memory, a depthwise convolution over the values of the last words (SANM, arXiv
2006.01713). What differs: attention looks at a window of `left_words`, with rotary positions, so that a stream has no
longest length and needs no restart; and a word is its own vector and the mean of those of its character n-grams, all of
one hashed table, so that a word that no text had, or that was recognised with an error, still has a meaning.
"""

import dataclasses
import zlib
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.config import ConfigError, option
from echostream_plugin.modules.rotary import rotary_table, rotate
from echostream_plugin.modules.streaming import StreamState

MARKS = ("", ",", ".", "?")
CASES = ("lower", "capital", "upper")
NGRAMS = (2, 3, 4)  # characters; a word's begin and end count as one
MOST_NGRAMS = 16  # of one word, the word itself among them
LONGEST_WORD = 64  # characters; of a longer one its beginning and its end count
NO_NGRAM = 0  # embedding row of the padding
ROWS_STD = 0.1  # of the embeddings before training


@dataclass(frozen=True)
class PunctuatorConfig:
    """Sizes count words."""

    languages: tuple[str, ...] = option(("en", "es"), "languages that the model was trained on")
    buckets: int = option(8192, "rows of the table that character n-grams are hashed to")
    dim: int = option(128, "width of the layers")
    layers: int = option(3, "Transformer layers; only the last one looks ahead")
    heads: int = option(4, "attention heads")
    ffn_dim: int = option(512, "hidden size of the feed-forward module")
    left_words: int = option(48, "words of left context that each layer attends to")
    right_words: int = option(16, "the longest delay: words after the present one that the last layer can attend to")
    kernel: int = option(11, "words that the memory's convolution sees, the present one included")
    dropout: float = option(0.1, "dropout in training")

    def __post_init__(self):
        object.__setattr__(self, "languages", tuple(self.languages))
        for name in ("buckets", "dim", "layers", "heads", "ffn_dim", "left_words", "kernel"):
            value = getattr(self, name)
            least = 2 if name == "buckets" else 1  # one of them is the padding's
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"punctuator: {name} must be a whole number of at least {least}, got {value!r}")
        if not self.languages or not all(isinstance(name, str) for name in self.languages):
            raise ConfigError(f"punctuator: languages must be names such as 'es', got {self.languages!r}")
        if len(set(self.languages)) < len(self.languages):
            raise ConfigError(f"punctuator: languages must differ from each other, got {' '.join(self.languages)}")
        if self.dim % (2 * self.heads):
            raise ConfigError(f"punctuator: dim {self.dim} must be divisible by twice the heads {self.heads}")
        if not isinstance(self.right_words, int) or not 0 <= self.right_words <= 64:
            raise ConfigError(f"punctuator: right_words must be a whole number of 0 to 64, got {self.right_words!r}")
        if self.kernel > self.left_words + 1:
            raise ConfigError(f"punctuator: kernel {self.kernel} needs left_words of at least {self.kernel - 1}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"punctuator: dropout must be at least 0 and below 1, got {self.dropout!r}")

    def delay_of(self, delay: int | None) -> int:
        """A delay in words as it is used: None is the longest. Raises ConfigError for one that cannot be had."""
        if delay is None:
            return self.right_words
        if not isinstance(delay, int) or isinstance(delay, bool) or not 0 <= delay <= self.right_words:
            raise ConfigError(f"punctuation delay {delay!r}: use 0 to {self.right_words} words")
        return delay

    def language_of(self, language: str) -> int:
        """The number of a language. Raises ConfigError where the model was not trained on it."""
        if language not in self.languages:
            raise ConfigError(f"the punctuator knows {', '.join(self.languages)}, not '{language}'")
        return self.languages.index(language)


def ngrams_of(word: str, buckets: int) -> tuple[int, ...]:
    """Rows of a word and of its character n-grams, at most MOST_NGRAMS; the ends of a long word come first."""
    framed = f"<{word}>"
    grams = [framed[i : i + n] for n in NGRAMS for i in range(len(framed) - n + 1)]
    grams.sort(key=lambda gram: (not framed.endswith(gram), not framed.startswith(gram)))
    rows = dict.fromkeys([f"={word}", *grams])
    return tuple(1 + zlib.crc32(row.encode()) % (buckets - 1) for row in rows)[:MOST_NGRAMS]


@lru_cache(maxsize=16384)  # some megabytes, however many different words a stream has
def _word_row(word: str, buckets: int) -> Tensor:
    found = ngrams_of(word, buckets)
    return torch.tensor(found + (NO_NGRAM,) * (MOST_NGRAMS - len(found)))


def word_rows(words: list[str], buckets: int) -> Tensor:
    """[T, MOST_NGRAMS] rows of the embedding table, padded with NO_NGRAM."""
    if not words:
        return torch.full((0, MOST_NGRAMS), NO_NGRAM)
    return torch.stack([_word_row(_shortened(word), buckets) for word in words])


def _shortened(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else word[: LONGEST_WORD // 2] + word[-LONGEST_WORD // 2 :]


@lru_cache(maxsize=256)
@torch.inference_mode(False)
@torch.no_grad()
def word_turns(count: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> tuple:
    """The rotary table of words 0 to count - 1."""
    return rotary_table(torch.arange(count, device=device), head_dim, dtype)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
@torch.no_grad()
def band(first: int, count: int, keys: int, left: int, ahead: int, device: torch.device) -> Tensor:
    """[count, keys] which words those from `first` on see: so many before and ahead of themselves."""
    words = torch.arange(keys, device=device)
    distance = words[None] - words[first : first + count, None]
    return (distance >= -left) & (distance <= ahead)


@dataclass(frozen=True)
class PunctuatorState(StreamState):
    """One stream between two pushes.

    keys, values: of each layer, [1, H, n, d] of the newest words (n <= left_words, and in the last layer the undecided
    words besides); pending: [1, p, C] inputs of the last layer of the newest p words, whose marks are not decided."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    pending: Tensor


class PunctuatorLayer(nn.Module):
    """Pre-norm block: windowed attention with a memory, then a feed-forward module."""

    def __init__(self, config: PunctuatorConfig):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.qkv, self.out = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.memory = nn.Conv1d(config.dim, config.dim, config.kernel, groups=config.dim, bias=False)
        self.fc1, self.fc2 = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: [B, T, C]; queries, keys and values, each [B, H, T, d], without position."""
        parts = self.qkv(self.attention_norm(x)).view(*x.shape[:2], 3, self.heads, self.head_dim)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, first: int, visible: Tensor) -> Tensor:
        """x: [B, Q, C] block inputs of consecutive words, of which the first is word `first` of those that keys and
        values [B, H, K, d] are of; visible: [Q, K] or [B, 1, Q, K]. Returns [B, Q, C]."""
        turns = word_turns(keys.size(2), self.head_dim, x.dtype, x.device)
        queries = rotate(queries, tuple(part[first : first + x.size(1)] for part in turns))
        attended = F.scaled_dot_product_attention(queries, rotate(keys, turns), values, attn_mask=visible)
        attended = attended.transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(attended) + self._memory(values, first, x.size(1)))
        return x + self.dropout(self.fc2(F.relu(self.fc1(self.ffn_norm(x)))))

    def _memory(self, values: Tensor, first: int, count: int) -> Tensor:
        """[B, count, C]: the values of the last words at `count` words from `first` on."""
        taps = self.memory.weight.size(-1)
        past = max(0, first - taps + 1)
        flat = values[:, :, past : first + count].transpose(1, 2).flatten(2).transpose(1, 2)  # [B, C, past + count]
        padded = F.pad(flat, (taps - 1 - (first - past), 0))
        if count == 1:  # one word of a stream: a product is quicker than a convolution
            mixed = (padded * self.memory.weight[:, 0]).sum(-1, keepdim=True)
        else:
            mixed = self.memory(padded)
        return (mixed + flat[..., first - past :]).transpose(1, 2)


class Punctuator(nn.Module):
    """Words to logits of their marks and cases, in parallel and as a stream."""

    def __init__(self, config: PunctuatorConfig):
        super().__init__()
        self.config = config
        self.words = nn.EmbeddingBag(config.buckets, config.dim, mode="mean", padding_idx=NO_NGRAM)
        self.language = nn.Embedding(len(config.languages), config.dim)
        self.layers = nn.ModuleList(PunctuatorLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.marks, self.cases = nn.Linear(config.dim, len(MARKS)), nn.Linear(config.dim, len(CASES))
        for table in (self.words, self.language):  # small, so that a row that training never had says little
            nn.init.normal_(table.weight, std=ROWS_STD)

    def embed(self, rows: Tensor, language: Tensor) -> Tensor:
        """rows: [B, T, MOST_NGRAMS]; language: [B]; returns [B, T, C]."""
        grams = self.words(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
        words = grams + F.embedding(rows[..., 0], self.words.weight)  # of which the first is the word itself
        return self.dropout(words + self.language(language).unsqueeze(1))

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of marks and of cases from states x: [..., D]."""
        x = self.norm(x)
        return self.marks(x), self.cases(x)

    def forward(self, rows: Tensor, language: Tensor, lengths: Tensor, delay: int) -> tuple[Tensor, Tensor]:
        """Parallel form. rows: [B, T, MOST_NGRAMS]; language: [B]; lengths: [B] valid words; delay: words. Returns
        logits of marks [B, T, 4] and cases [B, T, 3]; those beyond a length mean nothing."""
        x = self.embed(rows, language)
        words = x.size(1)
        valid = torch.arange(words, device=x.device)[None] < lengths[:, None]
        for number, layer in enumerate(self.layers):
            ahead = delay if number == len(self.layers) - 1 else 0
            visible = band(0, words, words, self.config.left_words, ahead, x.device) & valid[:, None, None]
            visible = visible | torch.eye(words, dtype=torch.bool, device=x.device)  # padding sees itself
            x = layer(x, *layer.project(x), 0, visible)
        return self.head(x)

    def initial_state(self) -> PunctuatorState:
        """The state before the first word."""
        config, like = self.config, self.norm.weight
        empty = like.new_zeros(1, config.heads, 0, config.dim // config.heads)
        return PunctuatorState(*((empty,) * config.layers,) * 2, like.new_zeros(1, 0, config.dim))

    def step(
        self, words: list[str], language: int, state: PunctuatorState, delay: int
    ) -> tuple[Tensor, Tensor, PunctuatorState]:
        """Take one or more words; returns logits of marks [n, 4] and cases [n, 3] of the n undecided words that now
        have `delay` words after them, and the next state."""
        config, keys, values = self.config, [], []
        rows = word_rows(words, config.buckets).unsqueeze(0).to(self.norm.weight.device)
        x = self.embed(rows, torch.tensor([language], device=rows.device))
        for layer, past_keys, past_values in zip(self.layers[:-1], state.keys, state.values, strict=False):
            x, k, v = self._past_step(layer, x, past_keys, past_values)
            keys.append(k)
            values.append(v)
        _, k, v = self.layers[-1].project(x)
        k, v = torch.cat([state.keys[-1], k], 2), torch.cat([state.values[-1], v], 2)
        pending = torch.cat([state.pending, x], 1)
        ready = max(0, pending.size(1) - delay)
        logits = self._decide(pending[:, :ready], k, v, pending.size(1), delay)
        held = config.left_words + pending.size(1) - ready
        keys.append(k[:, :, -held:].clone() if held else k[:, :, :0])
        values.append(v[:, :, -held:].clone() if held else v[:, :, :0])
        return *logits, PunctuatorState(tuple(keys), tuple(values), pending[:, ready:].clone())

    def _past_step(self, layer: PunctuatorLayer, x: Tensor, past_keys: Tensor, past_values: Tensor):
        """A layer that sees the past: outputs [1, n, C], and the keys and values to keep."""
        q, k, v = layer.project(x)
        k, v = torch.cat([past_keys, k], 2), torch.cat([past_values, v], 2)
        kept = self.config.left_words
        if x.size(1):
            first = past_keys.size(2)
            x = layer(x, q, k, v, first, band(first, x.size(1), k.size(2), kept, 0, x.device))
        return x, k[:, :, -kept:].clone(), v[:, :, -kept:].clone()

    def _decide(self, x: Tensor, keys: Tensor, values: Tensor, pending: int, delay: int) -> tuple[Tensor, Tensor]:
        """Logits of the last layer at its inputs x [1, n, C], the first of `pending` undecided words."""
        if x.size(1) == 0:
            return x.new_zeros(0, len(MARKS)), x.new_zeros(0, len(CASES))
        layer, first = self.layers[-1], keys.size(2) - pending
        q, _, _ = layer.project(x)
        seen = band(first, x.size(1), keys.size(2), self.config.left_words, delay, x.device)
        x = layer(x, q, keys, values, first, seen)
        marks, cases = self.head(x)
        return marks[0], cases[0]

    def decide_pending(self, state: PunctuatorState) -> tuple[Tensor, Tensor, PunctuatorState]:
        """Decide all undecided words with the words after them that there are, as if the text ended here."""
        count = state.pending.size(1)
        logits = self._decide(state.pending, state.keys[-1], state.values[-1], count, max(0, count - 1))
        return *logits, self.trimmed(state)

    def trimmed(self, state: PunctuatorState) -> PunctuatorState:
        """The state without undecided words."""
        kept = self.config.left_words
        keys = (*state.keys[:-1], state.keys[-1][:, :, -kept:].clone())
        values = (*state.values[:-1], state.values[-1][:, :, -kept:].clone())
        return dataclasses.replace(state, keys=keys, values=values, pending=state.pending[:, :0].clone())
