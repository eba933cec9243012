"""Pre-norm Transformer layers with fairseq's parameter names, shared by every decoder.

One `TransformerLayer.together` serves training (whole sequence, no past) and streaming (a few positions after a past of
keys and values), of one stream or of several whose pasts differ in length. In this file, as in
`scaled_dot_product_attention`, a `visible` mask is True where attending is allowed; the decoders' public masks are True
where something is masked, as fairseq's are.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.modules.rotary import rotary_table, rotate
from echostream_plugin.modules.streaming import StreamState


@dataclass(frozen=True)
class KeyValues(StreamState):
    """Projected keys and values of one attention, [B, heads, S, head_dim] each."""

    keys: Tensor
    values: Tensor

    @property
    def length(self) -> int:
        """Number of positions S."""
        return self.keys.size(2)

    def append(self, other: "KeyValues") -> "KeyValues":
        """Positions of `self`, then those of `other`."""
        return KeyValues(torch.cat((self.keys, other.keys), 2), torch.cat((self.values, other.values), 2))

    def split(self, counts: list) -> list:
        """The first counts[0] positions, the next counts[1], and so on; views."""
        return [KeyValues(*pair) for pair in zip(self.keys.split(counts, 2), self.values.split(counts, 2), strict=True)]

    def last(self, length: int) -> "KeyValues":
        """The newest `length` positions, or all there are, in memory of their own."""
        start = max(0, self.length - length)
        return KeyValues(self.keys[:, :, start:].clone(), self.values[:, :, start:].clone()) if start else self


class MultiHeadAttention(nn.Module):
    """Multi-head attention over keys and values that may have been projected earlier.

    source_dim: dimension of what is attended (default: dim). rotary: rotate queries and keys by their place in the
    window; the queries are then the window's last positions, and stored keys are not rotated, so that a window
    that moves needs no absolute position. bias: of the four projections.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        source_dim: int | None = None,
        rotary: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention dimension {dim} must be divisible by the number of heads {heads}")
        source_dim = source_dim or dim
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.q_proj, self.out_proj = nn.Linear(dim, dim, bias), nn.Linear(dim, dim, bias)
        self.k_proj, self.v_proj = nn.Linear(source_dim, dim, bias), nn.Linear(source_dim, dim, bias)
        # three square maps that act as one wider map, hence the smaller gain (fairseq)
        gain = 1 / math.sqrt(2) if source_dim == dim else 1.0
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def project(self, source: Tensor) -> KeyValues:
        """source: [B, S, source_dim] -> keys and values [B, heads, S, head_dim]."""
        return KeyValues(self._split(self.k_proj(source)), self._split(self.v_proj(source)))

    def empty(self, batch_size: int, length: int = 0) -> KeyValues:
        """Zero keys and values of `length` positions, on the parameters' device."""
        like = self.k_proj.bias
        zeros = like.new_zeros(batch_size, self.heads, length, like.size(0) // self.heads)
        return KeyValues(zeros, zeros.clone())

    def forward(self, x: Tensor, source: KeyValues, visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """x: [B, U, dim] queries; visible: bool, broadcastable to [B, heads, U, S]; returns [B, U, dim]."""
        return self.join([self.attend(self.queries(x), source, visible, is_causal)])

    def queries(self, x: Tensor) -> Tensor:
        """x: [B, U, dim] -> [B, heads, U, head_dim]."""
        return self._split(self.q_proj(x))

    def attend(
        self, queries: Tensor, source: KeyValues, visible: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """queries: [B, heads, U, head_dim]; visible, is_causal: as of `forward`; returns [B, heads, U, head_dim]."""
        keys = source.keys
        if self.rotary:
            queries, keys = _rotate(queries, first=source.length - queries.size(2)), _rotate(keys)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(
            queries, keys, source.values, attn_mask=visible, dropout_p=dropout, is_causal=is_causal
        )

    def join(self, attended: list) -> Tensor:
        """What `attend` gave for positions that follow each other -> [B, U, dim] of all of them."""
        out = attended[0] if len(attended) == 1 else torch.cat(attended, 2)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, source: KeyValues) -> Tensor:
        """How much each query of `forward` attends to each position of a source that is all visible: [B, heads, U, S],
        which sum to 1 over S; not for rotary attention."""
        queries = self._split(self.q_proj(x))
        return (queries @ source.keys.transpose(2, 3) / math.sqrt(queries.size(-1))).softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Positions:
    """The next `count` positions of one stream; the rest as of `TransformerLayer.forward`."""

    count: int
    past: KeyValues | None = None
    visible: Tensor | None = None
    source: KeyValues | None = None
    source_visible: Tensor | None = None


class TransformerLayer(nn.Module):
    """Self-attention, attention over a source (when `source_dim` is given) and feed-forward, each pre-norm.

    window: where self-attention is causal, a position sees so many groups of `group` positions, its own included, and
    a stream keeps no others; 0: all. Sequences begin with a group.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        source_dim: int | None = None,
        rotary: bool = False,
        window: int = 0,
        group: int = 1,
    ):
        super().__init__()
        self.window, self.group = window, group
        self.dropout, self.activation_dropout = nn.Dropout(dropout), nn.Dropout(activation_dropout)
        self.self_attn = MultiHeadAttention(dim, heads, attention_dropout, rotary=rotary)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        if source_dim is not None:
            self.encoder_attn = MultiHeadAttention(dim, heads, attention_dropout, source_dim)
            self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        past: KeyValues | None = None,
        visible: Tensor | None = None,
        causal: bool = True,
        source: KeyValues | None = None,
        source_visible: Tensor | None = None,
        weights: list | None = None,
    ) -> tuple[Tensor, KeyValues]:
        """One layer over the positions that follow `past`.

        x: [B, U, dim]; past: P earlier positions; visible: bool [.., U, P + U], else `causal` decides;
        source: keys and values that `encoder_attn.project` made; source_visible: bool, to [B, heads, U, S];
        weights: takes those of the attention over the source, [B, heads, U, S].
        Returns [B, U, dim] and the self-attention's keys and values of all P + U positions; after a past, with a
        window, of those that the next position sees.
        """
        one = Positions(x.size(1), past, visible, source, source_visible)
        x, (attended,) = self.together(x, [one], causal, weights)
        return x, attended

    def together(
        self, x: Tensor, streams: list, causal: bool = True, weights: list | None = None
    ) -> tuple[Tensor, list]:
        """One layer over the positions of several streams, each after its own past and over its own source.

        x: [B, R, dim], the positions of `streams` (`Positions`) one stream after the other: linear maps take them all
        at once, attention is each stream's own. Either all have a source or none. Returns [B, R, dim], and for each
        stream keys and values as `forward`; weights: takes those of the first."""
        counts = [each.count for each in streams]
        normed = self.self_attn_layer_norm(x)
        attended = self.self_attn.project(normed).split(counts)
        attended = [s.past.append(new) if s.past else new for s, new in zip(streams, attended, strict=True)]
        queries = self.self_attn.queries(normed).split(counts, 2)
        own = [self._attend_to_own(*args, causal) for args in zip(queries, attended, streams, strict=True)]
        x = x + self.dropout(self.self_attn.join(own))
        if streams[0].source is not None:
            normed, attention = self.encoder_attn_layer_norm(x), self.encoder_attn
            if weights is not None:
                weights.append(attention.weights(normed[:, : counts[0]], streams[0].source))
            queries = attention.queries(normed).split(counts, 2)
            asked = zip(queries, streams, strict=True)
            x = x + self.dropout(attention.join([attention.attend(q, s.source, s.source_visible) for q, s in asked]))
        hidden = self.activation_dropout(F.relu(self.fc1(self.final_layer_norm(x))))
        if causal and self.window:
            newest = (self.window - 1) * self.group
            attended = [own.last(newest) if s.past else own for own, s in zip(attended, streams, strict=True)]
        return x + self.dropout(self.fc2(hidden)), attended

    def _attend_to_own(self, queries: Tensor, attended: KeyValues, stream: Positions, causal: bool) -> Tensor:
        """Self-attention of a stream's new positions [B, heads, U, head_dim] over all of its."""
        visible, is_causal, count = stream.visible, False, stream.count
        if causal and visible is None:
            windowed = 0 < self.window * self.group < attended.length
            is_causal = attended.length == count and not windowed
            if not is_causal and (count > 1 or windowed):
                visible = causal_visible(count, attended.length, queries.device, self.window, self.group)
        return self.self_attn.attend(queries, attended, visible, is_causal)


def causal_visible(queries: int, keys: int, device=None, window: int = 0, group: int = 1) -> Tensor:
    """Bool [queries, keys]: the queries are the last positions, each sees itself and everything before, or (with a
    window) what of it lies in the newest `window` groups of `group` positions, its own included."""
    key = torch.arange(keys, device=device)
    query = key[keys - queries :, None]
    visible = key <= query
    return visible & (key >= (query // group - window + 1) * group) if window else visible


def sinusoidal_positions(first: int, count: int, dim: int, device=None) -> Tensor:
    """`sinusoids` of positions first .. first + count - 1; returns [count, dim] float32."""
    return sinusoids(torch.arange(first, first + count, device=device), dim)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Rows of fairseq's sinusoidal table for positions, int64 [...]; returns [..., dim] float32.

    Position 0 is row 2 of the table, after the row of the padding index 1: sines in the first half, then cosines.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * -(math.log(10000) / max(half - 1, 1)))
    angles = (positions + 2).unsqueeze(-1) * frequencies
    return F.pad(torch.cat((angles.sin(), angles.cos()), dim=-1), (0, dim % 2))


def tied_projection(embedding: nn.Embedding) -> nn.Linear:
    """An output map without bias whose weight is the embedding's."""
    projection = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False)
    projection.weight = embedding.weight
    return projection


def _rotate(x: Tensor, first: int = 0) -> Tensor:
    """x: [B, heads, S, head_dim], rotated by the places first .. first + S - 1 of its window."""
    places = torch.arange(first, first + x.size(2), device=x.device)
    return rotate(x, rotary_table(places, x.size(-1), x.dtype))
