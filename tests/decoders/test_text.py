import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import CTCHeadConfig, TextDecoderConfig
from echostream_plugin.decoders.conditioned import ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.ctc import CTCHead
from echostream_plugin.decoders.text import TextDecoder, TextDecoderState
from echostream_plugin.decoders.transformer import sinusoidal_positions

SIZE = {"vocab": 13, "dim": 8, "encoder_dim": 6, "layers": 2, "heads": 2, "ffn_dim": 16}


@pytest.fixture(scope="module", params=["frames alone", "frames and the transcript"])
def decoder(request):
    torch.manual_seed(0)
    if request.param == "frames alone":
        return TextDecoder(TextDecoderConfig(**SIZE)).eval()
    head = CTCHead(CTCHeadConfig(vocab=11, dim=6, heads=2, ffn_dim=8, layers=1, left_context_frames=2)).eval()
    torch.nn.init.normal_(head.proj.weight)
    made = ConditionedDecoder(ConditionedDecoderConfig(**SIZE, source_vocab=11)).eval()
    made.attach_ctc_head(head)
    return made


# a schedule: before each token, how many frames arrive for good, and how many more are shown provisionally
schedules = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=8)


@settings(max_examples=25)
@given(schedule=schedules, first=st.integers(1, 4))
def test_each_token_keeps_the_source_it_was_generated_with(decoder, schedule, first):
    schedule = [(schedule[0][0] + first, schedule[0][1]), *schedule[1:]]
    total = sum(arrived for arrived, _ in schedule) + 3
    source, tokens = torch.randn(2, total, 6), torch.randint(4, 13, (2, len(schedule)))
    state, heard, shown, hidden = decoder.initial_state(2), 0, [], []
    with torch.no_grad():
        for i, (arrived, peek) in enumerate(schedule):
            state = decoder.add_source(source[:, heard : heard + arrived], state)
            heard += arrived
            out, state = decoder.step(tokens[:, i : i + 1], state, source[:, heard : heard + peek])
            shown.append(heard + peek)
            hidden.append(out)
        mask = (torch.arange(total) >= torch.tensor(shown)[:, None]).expand(2, -1, -1)
        expected = decoder(tokens, source, source_mask=mask)
    torch.testing.assert_close(torch.cat(hidden, 1), expected, atol=1e-4, rtol=0)
    assert (state.position, state.source_frames) == (len(schedule), heard)


def test_provisional_frames_leave_no_trace(decoder):
    state = decoder.add_source(torch.randn(1, 4, 6), decoder.initial_state())
    _, after = decoder.step(torch.tensor([[2]]), state, torch.randn(1, 3, 6))
    assert after.source_frames == 4
    for kept, before in zip(after.source, state.source, strict=True):
        assert kept is before


def test_several_tokens_at_once_equal_one_at_a_time(decoder):
    tokens, source = torch.randint(4, 13, (1, 6)), torch.randn(1, 7, 6)
    state = decoder.add_source(source, decoder.initial_state())
    start, state = decoder.step(tokens[:, :2], state)
    rest, _ = decoder.step(tokens[:, 2:], state)
    torch.testing.assert_close(torch.cat((start, rest), 1), decoder(tokens, source), atol=1e-5, rtol=0)


def test_streams_stack_and_unstack(decoder):
    sources, tokens = torch.randn(2, 5, 6), torch.tensor([[2], [2]])
    alone = [decoder.add_source(sources[i : i + 1], decoder.initial_state()) for i in range(2)]
    both, state = decoder.step(tokens, TextDecoderState.stack(alone))
    for i, single in enumerate(alone):
        out, _ = decoder.step(tokens[i : i + 1], single)
        torch.testing.assert_close(both[i : i + 1], out, atol=1e-5, rtol=0)
    assert [part.position for part in state.unstack()] == [1, 1]


@pytest.mark.parametrize("window, sizes", [(1, [1] * 9), (3, [1] * 9), (3, [4, 1, 4]), (20, [2, 7])])
def test_streaming_equals_forward_in_a_window_and_grows_no_further(window, sizes):
    torch.manual_seed(0)
    decoder = TextDecoder(TextDecoderConfig(**SIZE, window_tokens=window)).eval()
    tokens, source = torch.randint(4, 13, (2, sum(sizes))), torch.randn(2, 7, 6)
    state, hidden, kept = decoder.add_source(source, decoder.initial_state(2)), [], []
    with torch.no_grad():
        for piece in tokens.split(sizes, dim=1):
            state = decoder.add_source(source[:, :0], state)
            out, state = decoder.step(piece, state)
            hidden.append(out)
            kept.append(state.targets[0].length)
        torch.testing.assert_close(torch.cat(hidden, 1), decoder(tokens, source), atol=1e-5, rtol=0)
    assert state.position == sum(sizes) and max(kept) == min(sum(sizes), max(window - 1, 0))


def test_a_token_sees_its_window_of_tokens():
    torch.manual_seed(0)
    decoder = TextDecoder(TextDecoderConfig(**SIZE | {"layers": 1}, window_tokens=3)).eval()
    tokens, source = torch.randint(4, 13, (1, 7)), torch.randn(1, 5, 6)
    hidden = decoder(tokens, source)
    for place in range(7):
        changed = tokens.clone()
        changed[0, place] = 4 + (tokens[0, place] - 3) % 9
        moved = (decoder(changed, source) - hidden).abs().sum(2)[0].gt(1e-6)
        assert moved.nonzero()[:, 0].tolist() == list(range(place, min(7, place + 3)))


def test_a_step_without_source_says_what_to_do(decoder):
    with pytest.raises(ValueError, match="call add_source before step"):
        decoder.step(torch.tensor([[2]]), decoder.initial_state())


def test_batch_padding_changes_nothing(decoder):
    tokens, source = torch.randint(4, 13, (2, 6)), torch.randn(2, 9, 6)
    tokens[1, 4:], source[1, 5:] = 1, 100.0
    padding = torch.arange(9) >= torch.tensor([9, 5])[:, None]
    hidden = decoder(tokens, source, padding)
    torch.testing.assert_close(hidden[:1], decoder(tokens[:1], source[:1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden[1:, :4], decoder(tokens[1:, :4], source[1:, :5]), atol=1e-5, rtol=0)


def test_padding_and_streaming_mask_add_up(decoder):
    tokens, source = torch.randint(4, 13, (1, 3)), torch.randn(1, 8, 6, requires_grad=True)
    padding = (torch.arange(8) >= 6)[None]
    mask = (torch.arange(8) >= torch.tensor([2, 4, 8])[:, None])[None]
    hidden = decoder(tokens, source, padding, mask)
    for position, seen in enumerate((2, 4, 6)):
        grad = torch.autograd.grad(hidden[0, position, 0], source, retain_graph=True)[0]
        assert grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(range(seen))


def test_output_projection_is_the_embedding(decoder):
    assert decoder.output_projection.weight is decoder.embed_tokens.weight
    assert decoder.logits(torch.randn(1, 2, 8)).shape == (1, 2, 13)


def test_first_position_is_row_two_of_the_sinusoidal_table():
    row = sinusoidal_positions(0, 1, 8)[0]
    angles = [2 * math.exp(-i * math.log(10000) / 3) for i in range(4)]
    expected = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    torch.testing.assert_close(row, expected)
    torch.testing.assert_close(sinusoidal_positions(5, 3, 8), sinusoidal_positions(0, 8, 8)[5:])


def test_every_dropout_uses_the_configured_value(monkeypatch):
    rates = {"dropout": 0.125, "attention_dropout": 0.25, "activation_dropout": 0.375}
    decoder = TextDecoder(TextDecoderConfig(**SIZE, **rates)).train()
    seen = []
    dropout, attention = F.dropout, F.scaled_dot_product_attention

    def spy_dropout(x, p, training, inplace):
        seen.append((p if training else 0.0, x.size(-1)))
        return dropout(x, p, training, inplace)

    def spy_attention(*args, dropout_p=0.0, **kwargs):
        seen.append((dropout_p, "attention"))
        return attention(*args, dropout_p=dropout_p, **kwargs)

    monkeypatch.setattr(F, "dropout", spy_dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy_attention)
    arguments = torch.randint(4, 13, (1, 3)), torch.randn(1, 5, 6)
    decoder(*arguments)
    layer = [(0.25, "attention"), (0.125, 8), (0.25, "attention"), (0.125, 8), (0.375, 16), (0.125, 8)]
    assert seen == [(0.125, 8), *layer, *layer]
    seen.clear()
    decoder.eval()(*arguments)
    assert {rate for rate, _ in seen} == {0.0}
