import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import UnitDecoderConfig
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder, UnitDecoderState

UPSAMPLE = 3
SIZE = {"vocab": 11, "dim": 8, "encoder_layers": 2, "layers": 2, "heads": 2, "ffn_dim": 16, "upsample": UPSAMPLE}
WAITS = [(0, 1), (1, 1), (3, 1), (0, 2), (1, 2), (2, 3), (0, 99), (0, None)]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return T2UEncoder(UnitDecoderConfig(**SIZE)).eval()


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    return UnitDecoder(UnitDecoderConfig(**SIZE)).eval()


def pieces(x, cuts):
    return [x[:, first:last] for first, last in zip([0, *cuts], [*cuts, x.size(1)], strict=True)]


cuttings = st.lists(st.integers(0, 9), max_size=6).map(sorted)


def windowed(part, window):
    """The fixtures' weights, with a window of so many tokens."""
    torch.manual_seed(0)
    return part(UnitDecoderConfig(**SIZE, window_tokens=window)).eval()


@pytest.mark.parametrize("window", [1, 2, 5])
@settings(max_examples=8)
@given(cuts=cuttings)
def test_streaming_equals_forward_in_a_window(window, cuts):
    encoder, decoder, x = windowed(T2UEncoder, window), windowed(UnitDecoder, window), torch.randn(2, 9, 8)
    with torch.no_grad():
        for k2, n2 in WAITS:
            t2u_state, state, states, logits = encoder.initial_state(2), decoder.initial_state(2, k2, n2), [], []
            for piece in pieces(x, cuts):
                t2u, t2u_state = encoder.step(piece, t2u_state)
                states.append(t2u)
                units, state = decoder.step(t2u, state)
                logits.append(units)
            logits.append(decoder.finish(state))
            t2u = encoder(x)
            torch.testing.assert_close(torch.cat(states, 1), t2u, atol=1e-5, rtol=0)
            torch.testing.assert_close(torch.cat(logits, 1), decoder(t2u, None, k2, n2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k2, n2", [(0, 1), (1, 2), (0, None)])
def test_a_frame_sees_its_window_of_states_and_frames(k2, n2):
    """One layer each, since every further one sees as far again."""
    torch.manual_seed(0)
    one_layer = SIZE | {"layers": 1, "encoder_layers": 1}
    decoder = UnitDecoder(UnitDecoderConfig(**one_layer, window_tokens=3)).eval()
    x = torch.randn(1, 8, 8, requires_grad=True)
    logits = decoder(x, None, k2, n2)
    for token in range(8):
        grad = torch.autograd.grad(logits[0, token * UPSAMPLE : (token + 1) * UPSAMPLE].sum(), x, retain_graph=True)[0]
        stop = 8 if n2 is None else min(8, (token // n2 + 1) * n2 + k2)
        assert grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(range(max(0, token - 2), stop))
    states = T2UEncoder(UnitDecoderConfig(**one_layer, window_tokens=3)).eval()(x)
    for token in range(8):
        grad = torch.autograd.grad(states[0, token, 0], x, retain_graph=True)[0]
        assert grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(range(max(0, token - 2), token + 1))


@pytest.mark.parametrize("k2, n2", WAITS[:-1])
def test_within_the_window_nothing_changes(k2, n2):
    x = torch.randn(1, 5, 8)
    for part in (T2UEncoder, UnitDecoder):
        arguments = () if part is T2UEncoder else (None, k2, n2)
        assert torch.equal(windowed(part, 5)(x, *arguments), windowed(part, 0)(x, *arguments))


def test_work_and_memory_of_a_token_do_not_grow_when_no_sentence_ends(monkeypatch):
    attend, keys, sizes = torch.nn.functional.scaled_dot_product_attention, [], []
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, *args, **kwargs: keys.append(key.size(2)) or attend(query, key, *args, **kwargs),
    )
    window, k2, n2 = 4, 1, 2
    encoder, decoder = windowed(T2UEncoder, window), windowed(UnitDecoder, window)
    t2u_state, state = encoder.initial_state(), decoder.initial_state(1, k2, n2)
    with torch.no_grad():
        for _ in range(40):
            t2u, t2u_state = encoder.step(torch.randn(1, 1, 8), t2u_state)
            logits, state = decoder.step(t2u, state)
            sizes.append(t2u_state.nbytes + state.nbytes)
    assert max(keys) == (window - 1 + n2) * UPSAMPLE
    assert max(sizes[20:]) == max(sizes[:10]) and state.available == 40 and decoder.finish(state).size(1)
    unbounded = windowed(UnitDecoder, 0).initial_state(1, k2, n2)
    with torch.no_grad():
        for _ in range(40):
            unbounded = windowed(UnitDecoder, 0).step(torch.randn(1, 1, 8), unbounded)[1]
    assert unbounded.nbytes > 5 * max(sizes)


@settings(max_examples=15)
@given(cuts=cuttings)
def test_t2u_streaming_equals_forward_for_any_cutting(encoder, cuts):
    x, state, out = torch.randn(2, 9, 8), encoder.initial_state(2), []
    with torch.no_grad():
        for piece in pieces(x, cuts):
            states, state = encoder.step(piece, state)
            out.append(states)
        torch.testing.assert_close(torch.cat(out, 1), encoder(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k2, n2", WAITS)
@settings(max_examples=8)
@given(cuts=cuttings)
def test_unit_streaming_equals_forward_for_any_cutting(decoder, k2, n2, cuts):
    x, state, out = torch.randn(2, 9, 8), decoder.initial_state(2, k2, n2), []
    with torch.no_grad():
        for piece in pieces(x, cuts):
            logits, state = decoder.step(piece, state)
            out.append(logits)
        out.append(decoder.finish(state))
        torch.testing.assert_close(torch.cat(out, 1), decoder(x, None, k2, n2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "k2, n2, counts", [(0, 1, [1, 1, 1, 1]), (2, 1, [0, 0, 1, 1]), (0, 2, [0, 2, 0, 2]), (0, None, [0, 0, 0, 0])]
)
def test_frames_become_final_when_enough_states_exist(decoder, k2, n2, counts):
    state, emitted = decoder.initial_state(1, k2, n2), []
    for _ in counts:
        logits, state = decoder.step(torch.randn(1, 1, 8), state)
        emitted.append(logits.size(1) // UPSAMPLE)
    assert emitted == counts
    assert decoder.finish(state).shape == (1, UPSAMPLE * (len(counts) - sum(counts)), 11)


@pytest.mark.parametrize("k2, n2", WAITS)
def test_a_frame_sees_the_states_its_wait_allows(decoder, k2, n2):
    x = torch.randn(1, 6, 8, requires_grad=True)
    logits = decoder(x, None, k2, n2)
    for frame in range(6 * UPSAMPLE):
        grad = torch.autograd.grad(logits[0, frame].sum(), x, retain_graph=True)[0]
        seen = 6 if n2 is None else min(6, (frame // (UPSAMPLE * n2) + 1) * n2 + k2)
        assert grad[0].abs().sum(1).nonzero()[:, 0].tolist() == list(range(seen))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("k2, n2", [(0, 1), (1, 2), (0, None)])
def test_batch_padding_changes_nothing(decoder, causal, k2, n2):
    torch.manual_seed(1)
    encoder = T2UEncoder(UnitDecoderConfig(**SIZE, causal_encoder=causal)).eval()
    x = torch.randn(2, 7, 8)
    x[1, 4:] = 50.0
    padding = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    logits = decoder(encoder(x, padding), padding, k2, n2)
    for i, length in enumerate((7, 4)):
        alone = decoder(encoder(x[i : i + 1, :length]), None, k2, n2)
        torch.testing.assert_close(logits[i : i + 1, : length * UPSAMPLE], alone, atol=1e-5, rtol=0)


def test_a_sample_does_not_depend_on_its_place_in_the_batch(decoder):
    x = torch.randn(3, 4, 8)
    torch.testing.assert_close(decoder(x.flip(0)).flip(0), decoder(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("time, offset, distinct", [(False, False, 1), (False, True, 12), (True, False, 12)])
def test_positions_tell_frames_apart(time, offset, distinct):
    torch.manual_seed(0)
    decoder = UnitDecoder(UnitDecoderConfig(**SIZE, time_positions=time, offset_embedding=offset)).eval()
    assert hasattr(decoder, "embed_offsets") == offset
    logits = decoder(torch.ones(1, 4, 8))[0].detach()
    assert len({tuple(frame) for frame in (logits * 1e3).round().tolist()}) == distinct


def test_streams_stack(decoder):
    x = torch.randn(2, 3, 8)
    alone = [decoder.step(x[i : i + 1], decoder.initial_state(1, 1, 1))[1] for i in range(2)]
    both, state = decoder.step(x, UnitDecoderState.stack(alone))
    for i, single in enumerate(alone):
        out, _ = decoder.step(x[i : i + 1], single)
        torch.testing.assert_close(both[i : i + 1], out, atol=1e-5, rtol=0)
    assert state.batch_size == 2


@pytest.mark.parametrize("k2, n2", [(-1, 1), (0, 0), (0, -1)])
def test_impossible_waits_are_refused(decoder, k2, n2):
    with pytest.raises(ValueError, match="k2 >= 0 and n2 >= 1"):
        decoder(torch.randn(1, 2, 8), None, k2, n2)
    with pytest.raises(ValueError, match="k2 >= 0 and n2 >= 1"):
        decoder.initial_state(1, k2, n2)


def test_a_bidirectional_t2u_encoder_refuses_to_stream():
    encoder = T2UEncoder(UnitDecoderConfig(**SIZE, causal_encoder=False))
    with pytest.raises(ValueError, match="causal_encoder=False cannot stream"):
        encoder.step(torch.randn(1, 1, 8), encoder.initial_state())


def test_special_symbols_and_blank_are_no_units():
    assert UnitDecoderConfig(vocab=1005).units == 1000
