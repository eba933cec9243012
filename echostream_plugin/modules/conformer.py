"""The Conformer layer (arXiv 2005.08100) of StreamSpeech, under its parameter names, over what follows a past."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.modules.chunk_convolution import ChunkConv1d
from echostream_plugin.modules.relative_attention import RelativeAttention
from echostream_plugin.modules.streaming import StreamState


@dataclass(frozen=True)
class ConformerLayerState(StreamState):
    """What a layer keeps of the frames that will not change: all keys and values [B, heads, S, head_dim], and the
    newest inputs of its depthwise convolution [B, C, reach]."""

    keys: Tensor
    values: Tensor
    convolution: Tensor


class FeedForward(nn.Module):
    """Pre-norm feed-forward with SiLU: a residual branch."""

    def __init__(self, dim: int, hidden: int, dropout: float):
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.w_1, self.w_2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, C] to [B, n, C]."""
        return self.dropout(self.w_2(self.dropout(F.silu(self.w_1(self.layer_norm(x))))))


class ConvolutionModule(nn.Module):
    """Pre-norm, gated pointwise map, depthwise convolution in chunks, batch norm, SiLU, pointwise map: a residual
    branch."""

    def __init__(self, dim: int, kernel: int, dropout: float):
        super().__init__()
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = ChunkConv1d(dim, dim, kernel, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """x: [B, n, C]; past: [B, C, reach] depthwise inputs before it; returns [B, n, C] and the next past."""
        gated = F.glu(F.linear(self.layer_norm(x), self.pointwise_conv1.weight.squeeze(2)), dim=2)
        mixed, past = self.depthwise_conv(gated.transpose(1, 2), past, chunk)
        mixed = F.silu(self.batch_norm(mixed)).transpose(1, 2)
        return self.dropout(F.linear(mixed, self.pointwise_conv2.weight.squeeze(2))), past


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, dim: int, heads: int, ffn_dim: int, kernel: int, dropout: float):
        super().__init__()
        self.ffn1 = FeedForward(dim, ffn_dim, dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = RelativeAttention(dim, heads, dropout)
        self.conv_module = ConvolutionModule(dim, kernel, dropout)
        self.ffn2 = FeedForward(dim, ffn_dim, dropout)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, batch_size: int) -> ConformerLayerState:
        """Nothing attended, silence before."""
        like, heads = self.self_attn.linear_k.bias, self.self_attn.heads
        empty = like.new_zeros(batch_size, heads, 0, like.size(0) // heads)
        return ConformerLayerState(empty, empty, self.conv_module.depthwise_conv.initial_past(batch_size))

    def forward(
        self, x: Tensor, state: ConformerLayerState, positions: Tensor, visible: Tensor | None, conv_chunk: int
    ) -> tuple[Tensor, ConformerLayerState]:
        """x: [B, n, C] frames after those of the state, from the beginning of a chunk on; positions and visible as in
        `RelativeAttention`; conv_chunk: frames, 0 for the whole. Returns [B, n, C] and the state after them."""
        x = x + 0.5 * self.ffn1(x)
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.project(normed)
        keys = torch.cat([state.keys.to(keys.dtype), keys], dim=2)
        values = torch.cat([state.values.to(values.dtype), values], dim=2)
        x = x + self.dropout(self.self_attn(normed, keys, values, positions, visible))
        mixed, past = self.conv_module(x, state.convolution, conv_chunk)
        x = x + mixed
        x = x + 0.5 * self.ffn2(x)
        return self.final_layer_norm(x), ConformerLayerState(keys, values, past)
