"""Packed linear layers compute what `nn.Linear` computes."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.modules.packed import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not can_pack(), reason="needs FBGEMM (x86)")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(48, 96), nn.SiLU(), nn.Sequential(nn.Linear(96, 20, bias=False)))


@pytest.mark.parametrize("rows", [(1,), (3, 8), (2, 5, 40)])
def test_half_packing_loses_nothing_where_weights_came_from_half_precision(rows):
    module = network().half().float()
    x = torch.randn(*rows, 48)
    with torch.inference_mode():
        wanted = module(x)
        packed = pack_linears(module, "half")(x)
    assert torch.allclose(packed, wanted, atol=1e-5)


def test_int8_packing_is_close():
    module, x = network(), torch.randn(50, 48)
    with torch.inference_mode():
        wanted = module(x)
        packed = pack_linears(module, "int8")(x)
    error = (packed - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert 0 < error < 0.03


def test_no_rows_give_no_rows():
    assert pack_linears(network(), "half")(torch.zeros(1, 0, 48)).shape == (1, 0, 20)


@pytest.mark.parametrize("packing", ["half", "int8"])
def test_the_state_dict_holds_what_is_computed_with(packing):
    module = network().half().float()
    before = copy.deepcopy(module.state_dict())
    after = pack_linears(module, packing).state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        step = 0 if packing == "half" or weight.dim() == 1 else weight.abs().max() / 127
        assert (after[name] - weight).abs().max() <= 0.51 * step
    x = torch.randn(3, 48)
    again = pack_linears(network(1), packing)
    again.load_state_dict(after)
    assert torch.equal(again(x), module(x))


@pytest.mark.parametrize("packing", ["half", "int8"])
def test_loaded_weights_are_packed_anew(packing):
    module, other, x = pack_linears(network(), packing), network(1), torch.randn(3, 48)
    twin = copy.deepcopy(module)
    before = module(x)
    module.load_state_dict(other.state_dict())
    assert torch.equal(module(x), pack_linears(other, packing)(x)) and not torch.equal(module(x), before)
    assert torch.equal(twin(x), before), "a copy has its own weights"
    with pytest.raises(RuntimeError, match="size mismatch for 0.weight"):
        module.load_state_dict({**network().state_dict(), "0.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("packing, part", [("half", 0.51), ("int8", 0.26)])
def test_no_float32_weights_stay_beside_the_packed_ones(packing, part):
    module = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024, bias=False))
    before = sum(parameter.nbytes for parameter in module.parameters())
    weights = [weakref.ref(layer.weight) for layer in module]
    pack_linears(module, packing)
    gc.collect()
    assert not any(weight() is not None for weight in weights)
    assert sum(parameter.nbytes for parameter in module.parameters()) == module[0].bias.nbytes
    assert sum(layer.nbytes for layer in module) < part * before


@pytest.mark.parametrize("packing", ["half", "int8"])
def test_a_row_does_not_depend_on_what_is_stacked_beside_it(packing):
    module, x = pack_linears(network(), packing), torch.randn(5, 48)
    with torch.inference_mode():
        alone = module(x)
        beside = module(torch.stack([x, 4 * x.flip(0), 0 * x]))
    assert torch.equal(beside[0], alone)


def test_a_stream_in_int8_is_itself_beside_a_louder_one():
    torch.manual_seed(0)
    config = EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=48, subsampling_channels=4, memory_size=2)
    encoder = pack_linears(EmformerEncoder(config).eval(), "int8")
    quiet = torch.randn(1, 96, 80)
    with torch.inference_mode():
        alone, _ = encoder.step(quiet, encoder.initial_state(1))
        both, _ = encoder.step(torch.cat([4 * quiet.flip(1), quiet]), encoder.initial_state(2))
    assert both.shape == (2, 24, 32) and torch.allclose(both[1:], alone, atol=1e-5)


def test_packing_twice_or_not_at_all_changes_nothing():
    module = pack_linears(network(), "half")
    layers = [layer for layer in module.modules() if isinstance(layer, PackedLinear)]
    assert [layer.packing for layer in pack_linears(module, "int8").modules() if isinstance(layer, PackedLinear)] == [
        "half"
    ] * len(layers)
    assert not any(isinstance(layer, PackedLinear) for layer in pack_linears(network(), "none").modules())


def test_unknown_packing_is_refused():
    with pytest.raises(ValueError, match="int4.*half"):
        pack_linears(network(), "int4")
