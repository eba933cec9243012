"""Emformer attention of a whole utterance under one mask, without cutting windows.

The same numbers as `EmformerAttention.forward` where there is neither memory nor right context. Windows copy each key
(L + C) / C times, which costs more than the unseen scores of a short utterance: for training.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from echostream_plugin.modules.attention import EmformerAttention
from echostream_plugin.modules.rotary import rotary_table, rotate

LONGEST = 4  # dense up to so many windows' lengths: beyond, the square of the length outweighs the copies


def pays(frames: int, segment_frames: int, left_frames: int) -> bool:
    """Is an utterance of so many frames short enough?"""
    return segment_frames < frames <= LONGEST * (segment_frames + left_frames)


def segment_mask(frames: int, segment_frames: int, left_frames: int, lengths: Tensor | None, device) -> Tensor:
    """[B or 1, 1, T, T], True where a query (row) may look: its segment and the frames before it. lengths: [B] valid
    frames, None for all; padding sees itself, as a softmax needs a key."""
    places = torch.arange(frames, device=device)
    starts = places // segment_frames * segment_frames
    mask = (places < (starts + segment_frames).unsqueeze(1)) & (places >= (starts - left_frames).unsqueeze(1))
    mask = mask.unsqueeze(0)
    if lengths is not None:
        mask = (mask & (places < lengths[:, None, None])) | torch.eye(frames, dtype=torch.bool, device=device)
    return mask.unsqueeze(1)


def dense_attention(attention: EmformerAttention, x: Tensor, mask: Tensor, rotary: bool) -> Tensor:
    """x: [B, T, D]; mask: as `segment_mask` makes it; returns [B, T, D]."""
    query = attention.query(x).unflatten(-1, (attention.heads, -1))
    key, value = attention.key_value(x).unflatten(-1, (2, attention.heads, -1)).unbind(-3)
    if rotary:
        positions = torch.arange(x.size(1), device=x.device).unsqueeze(1)
        table = rotary_table(positions, query.size(-1), query.dtype)
        query, key = rotate(query, table), rotate(key, table)
    dropout = attention.dropout if attention.training else 0.0
    heads = (part.transpose(1, 2) for part in (query, key, value))
    out = F.scaled_dot_product_attention(*heads, attn_mask=mask, dropout_p=dropout)
    return attention.output(out.transpose(1, 2).flatten(2))
