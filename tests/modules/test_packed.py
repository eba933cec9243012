"""Packed linear layers compute what `nn.Linear` computes."""

import pytest
import torch
from torch import nn

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


def test_parameters_keep_their_names_and_values():
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    after = pack_linears(module, "int8").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


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
