"""Audio and text in one sequence: the figure of SpeechLLM-XL position by position, and what lies at the borders."""

import pytest
import torch

from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.speechllm.config import ALL_CHUNKS
from echostream_plugin.decoders.speechllm.packing import chunk_counts, pack, visible_positions

A, TEXT, END = "audio", "text", "end"


def laid_out(packing, row, frames):
    """What stands at each place of a row: ("audio", frame), ("text", token) or ("end", None); None is padding."""
    found = [None] * packing.length
    for frame in range(frames):
        found[int(packing.audio[row, frame])] = (A, frame)
    for place, token in zip(packing.places[row].tolist(), packing.tokens[row].tolist(), strict=True):
        if token != PAD:
            found[place] = (END, None) if token == EOS else (TEXT, token)
    return found


def packed(lengths, rows, chunk_frames):
    """rows: for each utterance the tokens of its chunks."""
    most = max(sum(map(len, row)) for row in rows)
    targets, chunks = torch.full((len(rows), most), PAD), torch.full((len(rows), most), 99)
    for i, row in enumerate(rows):
        flat = [(token, k) for k, tokens in enumerate(row) for token in tokens]
        for u, (token, k) in enumerate(flat):
            targets[i, u], chunks[i, u] = token, k
    return pack(torch.tensor(lengths), targets, chunks, chunk_frames)


def test_the_figure_of_the_paper():
    """Chunk 1 is audio a-d and token 1, chunk 2 audio e-h and tokens 2, 3; with b = 1 the token that follows 3 sees all
    of both chunks, with b = 0 its own alone."""
    packing = packed([8], [[[11], [12, 13]]], 4)
    audio = [(A, frame) for frame in range(8)]
    assert laid_out(packing, 0, 8) == [
        *audio[:4], (TEXT, 11), (END, None), *audio[4:], (TEXT, 12), (TEXT, 13), (END, None),
    ]  # fmt: skip
    assert packing.chunks[0].tolist() == [0] * 6 + [1] * 7
    assert packing.places[0].tolist() == [4, 5, 10, 11, 12] and packing.length == 13
    at_three = 11  # where 3 stands and the next token is predicted
    one, none, all_ = (visible_positions(packing.chunks, b)[0, 0] for b in (1, 0, ALL_CHUNKS))
    assert one[at_three].nonzero().flatten().tolist() == list(range(12))
    assert none[at_three].nonzero().flatten().tolist() == list(range(6, 12))
    assert torch.equal(one, all_) and torch.equal(all_, torch.ones(13, 13, dtype=torch.bool).tril())


def test_a_context_of_one_chunk_ends_before_the_chunk_before_last():
    packing = packed([12], [[[11], [], [12]]], 4)
    visible = visible_positions(packing.chunks, 1)[0, 0]
    assert packing.chunks[0].tolist() == [0] * 6 + [1] * 5 + [2] * 6
    assert visible[-1].nonzero().flatten().tolist() == list(range(6, 17))
    assert visible[8].nonzero().flatten().tolist() == list(range(9))


def test_predictions_are_at_the_position_before():
    packing = packed([8], [[[11], [12, 13]]], 4)
    places = torch.arange(13.0).view(1, 13, 1)
    states, tokens = packing.predictions(places)
    assert tokens.tolist() == [11, EOS, 12, 13, EOS]
    assert states.flatten().tolist() == [3, 4, 9, 10, 11]  # the last frame of the chunk, then the tokens


def test_empty_chunks_are_an_end_alone():
    packing = packed([12], [[[], [], []]], 4)
    layout = laid_out(packing, 0, 12)
    assert [kind for kind, _ in layout] == [A] * 4 + [END] + [A] * 4 + [END] + [A] * 4 + [END]
    assert packing.predictions(torch.zeros(1, 15, 2))[1].tolist() == [EOS] * 3


def test_a_short_last_chunk_and_one_chunk_of_all():
    assert laid_out(packed([6], [[[11], [12]]], 4), 0, 6) == [
        (A, 0), (A, 1), (A, 2), (A, 3), (TEXT, 11), (END, None), (A, 4), (A, 5), (TEXT, 12), (END, None),
    ]  # fmt: skip
    whole = laid_out(packed([6], [[[11, 12]]], 0), 0, 6)  # a SpeechLLM without chunks
    assert whole == [*((A, frame) for frame in range(6)), (TEXT, 11), (TEXT, 12), (END, None)]


def test_a_batch_is_its_utterances():
    lengths, rows = [9, 3, 4], [[[11, 12], [], [13]], [[14]], [[15, 16, 17]]]
    together = packed(lengths, rows, 4)
    for i, (length, row) in enumerate(zip(lengths, rows, strict=True)):
        alone = packed([length], [row], 4)
        assert laid_out(together, i, length)[: alone.length] == laid_out(alone, 0, length)
        assert set(laid_out(together, i, length)[alone.length :]) <= {None}
        assert together.chunks[i, : alone.length].tolist() == alone.chunks[0].tolist()
    assert len(together.predictions(torch.zeros(3, together.length, 1))[1]) == 7 + 5  # tokens and chunks


def test_an_utterance_without_frames_predicts_nothing():
    packing = packed([5, 0], [[[11], [12]], [[13]]], 4)
    assert laid_out(packing, 1, 0) == [None] * packing.length
    assert packing.predictions(torch.zeros(2, packing.length, 1))[1].tolist() == [11, EOS, 12, EOS]


@pytest.mark.parametrize("length, size, wanted", [(8, 4, 2), (9, 4, 3), (1, 4, 1), (9, 0, 1), (0, 4, 0)])
def test_counts_of_chunks(length, size, wanted):
    assert chunk_counts(torch.tensor([length]), size).tolist() == [wanted]


def test_nobody_looks_ahead():
    packing = packed([9, 3], [[[11, 12], [], [13]], [[14]]], 4)
    for context in (ALL_CHUNKS, 0, 2):
        visible = visible_positions(packing.chunks, context)
        assert not visible.triu(1).any() and visible.diagonal(dim1=-2, dim2=-1).all()
