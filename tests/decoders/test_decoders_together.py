"""Streams of any lengths that go through a decoder together get what each gets alone."""

import pytest
import torch

from echostream_plugin.config import TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder
from echostream_plugin.modules.native import instructions
from echostream_plugin.modules.native_linear import pack_native
from echostream_plugin.modules.streaming import StreamState

SIZES = {"dim": 16, "heads": 2, "ffn_dim": 32}
UNIT = {**SIZES, "vocab": 25, "encoder_layers": 2, "layers": 2, "upsample": 3}
STEPS = [(1, 3, 2), (2, 1, 1), (4, 1, 5), (1, 1, 1)]  # positions of each stream, step by step


def same(one, other, exactly):
    if isinstance(one, torch.Tensor):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=0 if exactly else 1e-5, rtol=0)
    elif isinstance(one, StreamState):
        same(tuple(vars(one).values()), tuple(vars(other).values()), exactly)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            same(*pair, exactly)
    else:
        assert one == other


def built(kind, config, native):
    torch.manual_seed(0)
    part = kind(config).eval()
    if native:
        pack_native(part, instructions())
    return part


operator = pytest.param(True, marks=pytest.mark.skipif(instructions() is None, reason="the operator was not built"))
natively = pytest.mark.parametrize("native", [False, operator])


def check(part, states, inputs_of, native):
    """Ragged steps, one stream at a time and all together; the states go on. The operator's are the same bits."""
    alone, together = list(states), list(states)
    for counts in STEPS:
        inputs = [inputs_of(count) for count in counts]
        wanted = [part.step(each, state) for each, state in zip(inputs, alone, strict=True)]
        found = part.step_together(list(zip(inputs, together, strict=True)))
        same(tuple(found), tuple(wanted), exactly=native)
        alone, together = [state for _, state in wanted], [state for _, state in found]
    return alone, together


@natively
@pytest.mark.parametrize("window", [0, 3])
@torch.inference_mode()
def test_mt_decoders_of_other_pasts_and_sources(native, window):
    config = TextDecoderConfig(vocab=11, encoder_dim=16, layers=2, window_tokens=window, **SIZES)
    part = built(TextDecoder, config, native)
    states = [part.add_source(torch.randn(1, heard, 16), part.initial_state()) for heard in (1, 7, 40)]
    check(part, states, lambda count: torch.randint(4, 11, (1, count)), native)
    with pytest.raises(ValueError, match="no source frames"):
        part.step_together([(torch.ones(1, 1, dtype=torch.long), state) for state in (states[0], part.initial_state())])


@natively
@torch.inference_mode()
def test_t2u_encoders_of_other_pasts(native):
    part = built(T2UEncoder, UnitDecoderConfig(**UNIT), native)
    check(part, [part.initial_state()] * 3, lambda count: torch.randn(1, count, 16), native)


@natively
@pytest.mark.parametrize("window", [0, 2])
@torch.inference_mode()
def test_unit_decoders_of_other_waits(native, window):
    part = built(UnitDecoder, UnitDecoderConfig(window_tokens=window, **UNIT), native)
    states = [part.initial_state(1, *wait) for wait in ((0, 1), (1, 2), (2, None))]
    alone, together = check(part, states, lambda count: torch.randn(1, count, 16), native)
    wanted = [part.finish(state) for state in alone]
    found = part.finish_together([(None, state) for state in together])
    assert [each.size(1) for each in found] == [0, 3 * 2, 3 * 9]
    same(tuple(found), tuple(wanted), exactly=native)
