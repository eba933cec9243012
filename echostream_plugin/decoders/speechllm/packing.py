"""Audio and text of utterances in one sequence: of each chunk its audio, its text, and the token that ends it.

    a b c d 1 $ e f g h 2 3 $    chunks of four frames, the first with token 1, the second with 2 and 3; $ is </s>

K chunks of S frames with U tokens are S + U + K positions. A token is predicted at the position before it, so at the
last frame of its chunk or at the token before; audio predicts nothing else (arXiv 2410.03752, section 2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.speechllm.config import ALL_CHUNKS


@dataclass(frozen=True)
class Packing:
    """Where everything stands in the sequences of a batch, T positions padded on the right.

    length: T; audio: [B, S] places of the encoder frames; places: [B, N] of the tokens; tokens: [B, N] text and ends
    of chunks in their order, PAD where there is none; chunks: [B, T] to which chunk a position belongs. Padding stands
    at T, after all places."""

    length: int
    audio: Tensor
    places: Tensor
    tokens: Tensor
    chunks: Tensor

    def join(self, frames: Tensor, tokens: Tensor) -> Tensor:
        """frames: [B, S, D], tokens: [B, N, D] embedded; returns the sequences [B, T, D], zeros in the padding."""
        batch = torch.arange(frames.size(0), device=frames.device)[:, None]
        joined = frames.new_zeros(frames.size(0), self.length + 1, frames.size(2))
        joined = joined.index_put((batch, self.audio), frames).index_put((batch, self.places), tokens)
        return joined[:, : self.length]

    def predictions(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, D]; returns the states [M, D] that predict a token, and the tokens [M]."""
        batch, item = self.tokens.ne(PAD).nonzero(as_tuple=True)
        return hidden[batch, self.places[batch, item] - 1], self.tokens[batch, item]


def chunk_counts(lengths: Tensor, chunk_frames: int) -> Tensor:
    """Chunks [B] of utterances of `lengths` [B] frames; the last one may be short. chunk_frames 0: all in one."""
    return -(-lengths // chunk_frames) if chunk_frames else lengths.clamp(max=1)


def pack(lengths: Tensor, targets: Tensor, chunk_of_token: Tensor, chunk_frames: int) -> Packing:
    """lengths: [B] encoder frames; targets: [B, U] right-padded with PAD; chunk_of_token: [B, U], the chunk whose text
    a token is of, never falling; chunk_frames: as of the configuration. Without frames nothing predicts a token, so the
    text of such an utterance is left out."""
    frames, valid = int(lengths.max()), targets.ne(PAD) & (lengths > 0)[:, None]
    counts = chunk_counts(lengths, chunk_frames)
    size, chunks = chunk_frames or max(frames, 1), int(counts.max())
    device, batch = lengths.device, torch.arange(len(lengths), device=lengths.device)[:, None]
    chunk = torch.arange(chunks, device=device)
    per_chunk = torch.zeros(len(lengths), chunks + 1, dtype=torch.long, device=device)
    per_chunk.scatter_add_(1, chunk_of_token.masked_fill(~valid, chunks), valid.long())
    written = per_chunk[:, :chunks].cumsum(1)  # tokens up to the end of each chunk

    # text and ends in their order: before a token stand the ends of the chunks before its own
    most = int((valid.sum(1) + counts).max())
    real_chunks = chunk < counts[:, None]
    text_order = (torch.arange(targets.size(1), device=device) + chunk_of_token).masked_fill(~valid, most)
    end_order = (written + chunk).masked_fill(~real_chunks, most)
    tokens = torch.full((len(lengths), most + 1), PAD, device=device)
    tokens[batch, text_order], tokens[batch, end_order] = targets, EOS
    tokens[:, most] = PAD
    of_item = torch.zeros_like(tokens)
    of_item[batch, text_order], of_item[batch, end_order] = chunk_of_token, chunk.expand(len(lengths), -1)
    tokens, of_item = tokens[:, :most], of_item[:, :most]

    length = int((lengths + valid.sum(1) + counts).max())
    heard = ((of_item + 1) * size).minimum(lengths[:, None])  # frames before a token
    places = (heard + torch.arange(most, device=device)).masked_fill(tokens.eq(PAD), length)
    frame = torch.arange(frames, device=device)
    of_frame = (frame // size).expand(len(lengths), -1)
    before = torch.cat((torch.zeros_like(written[:, :1]), written), 1).gather(1, of_frame)
    audio = (frame + before + of_frame).masked_fill(frame >= lengths[:, None], length)
    positions = torch.full((len(lengths), length + 1), chunks, device=device)
    positions[batch, audio], positions[batch, places] = of_frame, of_item
    return Packing(length, audio, places, tokens, positions[:, :length])


def visible_positions(chunks: Tensor, context_chunks: int) -> Tensor:
    """chunks: [B, T] of the positions; bool [B, 1, T, T], True where a position (row) may look: at itself and what
    stands before it in its own chunk and `context_chunks` before that, ALL_CHUNKS: everything."""
    place = torch.arange(chunks.size(1), device=chunks.device)
    visible = (place <= place[:, None]).expand(len(chunks), -1, -1)
    if context_chunks != ALL_CHUNKS:
        visible = visible & (chunks[:, :, None] - chunks[:, None] <= context_chunks)
    return visible.unsqueeze(1)
