"""The compiled operator meets what it cannot read, what is not a number, and machines that lack it."""

import copy
import dataclasses
import logging
import pickle
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from echostream_plugin.cli_info import why_not_compiled
from echostream_plugin.config import EncoderConfig
from echostream_plugin.modules import native
from echostream_plugin.modules.emformer import Emformer
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.packed import can_pack
from echostream_plugin.modules.subsampling import CausalSubsampling

NAN = float("nan")


pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(autouse=True)
def inference():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def linear(packing="half", path="portable"):
    return NativeLinear(nn.Linear(40, 50), packing, path)


def emformer(**options):
    config = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48, "memory_size": 2, **options}
    return Emformer(EncoderConfig(**config)).eval()


def compiled(module):
    twin = copy.deepcopy(module)
    assert twin.compile_steps()
    return twin


def hear(module, x):
    state, outputs = module.initial_state(x.size(0), 8), []
    for piece in x.split(8, dim=1):
        out, state = module.step(piece, state)
        outputs.append(out)
    return torch.cat([*outputs, module.finish(state)], dim=1), state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_bias_of_another_type_is_converted_not_misread(dtype):
    layer, x = linear(), torch.randn(3, 40)
    before = layer(x)
    assert torch.allclose(layer.to(dtype)(x), before, atol=2e-3)
    assert torch.allclose(layer.float()(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_a_bias_that_is_a_part_of_something_is_read_as_what_it_is():
    layer, x = linear(), torch.randn(3, 40)
    layer.bias = nn.Parameter(torch.randn(100)[::2], requires_grad=False)
    assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-5)
    layer.bias = nn.Parameter(torch.zeros(3), requires_grad=False)
    with pytest.raises(RuntimeError, match="expanded size"):
        layer(x)


def test_an_input_on_another_device_is_refused():
    with pytest.raises(RuntimeError, match="device"):
        linear()(torch.zeros(2, 40, device="meta"))


@pytest.mark.parametrize("packing", native.KINDS)
def test_what_is_no_number_shows_in_its_row_alone(path, packing):
    layer, x = linear(packing, path), torch.randn(3, 40)
    wanted = layer(x)
    for place in (0, 7, 39):
        broken = x.clone()
        broken[1, place] = NAN
        out = layer(broken)
        assert out[1].isnan().all() and torch.equal(out[[0, 2]], wanted[[0, 2]])


@pytest.mark.parametrize("packing", native.KINDS)
def test_weights_that_are_no_numbers_show_in_their_output_alone(path, packing):
    if packing == "int8" and not can_pack():
        pytest.skip("needs FBGEMM (x86)")
    broken = nn.Linear(40, 50)
    broken.weight[5, 6] = NAN
    out = NativeLinear(broken, packing, path)(torch.randn(3, 40))
    assert out.isnan().any(0).nonzero().tolist() == [[5]] and out[:, 5].isnan().all()


def spoil(module, where):
    """A number of the first layer becomes none."""
    layer = module.layers[0]
    parameter = {
        "keys": layer.attention.key_value.weight,
        "gate": layer.convolution.gated.weight[32:],
        "norm": layer.attention_norm.weight.unsqueeze(0),
        "feed-forward": layer.feed_forward[1].weight,
    }[where]
    parameter[0, 3] = NAN


@pytest.mark.parametrize("where", ["frames", "keys", "gate", "norm", "feed-forward"])
@pytest.mark.parametrize("options", [{}, {"tanh_on_memory": True}, {"memory_kind": "mean"}])
def test_a_broken_model_is_as_broken_in_the_operator_as_in_python(path, options, where):
    plain, x = emformer(**options), torch.randn(1, 40, 32)
    if where == "frames":
        x[0, 20, 3] = NAN
    else:
        spoil(plain, where)
    (wanted, state), (given, other) = (hear(module, x) for module in (plain, compiled(plain)))
    assert wanted.isnan().any() and torch.equal(given.isnan(), wanted.isnan())
    assert torch.equal(other.memory.isnan(), state.memory.isnan())


def test_features_that_are_no_numbers_show_after_the_subsampling(path):
    plain, x = CausalSubsampling(16, 4, 8).eval(), torch.randn(1, 30, 16)
    x[0, 10, 3] = NAN
    wanted, given = (module.step(x, module.initial_state())[0] for module in (plain, compiled(plain)))
    assert wanted.isnan().any() and torch.equal(given.isnan(), wanted.isnan())


@pytest.mark.parametrize("part", ["left_context", "memory", "convolution"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_of_another_type_is_refused(part, dtype):
    module = compiled(emformer())
    state, x = module.initial_state(1, 8), torch.randn(1, 8, 32)
    state = dataclasses.replace(state, **{part: getattr(state, part).to(dtype)})
    with pytest.raises(ValueError, match=f"a state of .*{dtype} on cpu.*, where this model takes torch.float32"):
        module.step(x, state)


def test_segments_done_may_be_counted_in_any_whole_numbers():
    plain, x = emformer(), torch.randn(2, 24, 32)
    module, state = compiled(plain), hear(plain, x)[1]
    narrow = dataclasses.replace(state, past_segments=state.past_segments.int())
    assert torch.equal(module.step(x[:, :8], narrow)[0], module.step(x[:, :8], state)[0])
    with pytest.raises(ValueError, match="are not this stack's"):
        module.step(x[:, :8], dataclasses.replace(state, past_segments=state.past_segments[:1]))


def test_a_state_of_another_type_is_refused_by_the_subsampling():
    module, x = compiled(CausalSubsampling(16, 4, 8).eval()), torch.randn(1, 8, 16)
    state = module.initial_state()
    with pytest.raises(ValueError, match=r"a state of torch.float32 on cpu, torch.float64 on cpu"):
        module.step(x, dataclasses.replace(state, hidden=state.hidden.double()))


def replace(module, what):
    layer, numbers = module.layers[0], torch.randn(96)
    if what == "a linear layer's bias":
        layer.feed_forward[1].bias = nn.Parameter(numbers[::2], requires_grad=False)
    elif what == "a norm's weight":
        layer.output_norm.weight = nn.Parameter(numbers[:64:2], requires_grad=False)
    elif what == "a convolution's bias":
        layer.convolution.depthwise.bias = nn.Parameter(numbers[:64:2], requires_grad=False)


@pytest.mark.parametrize("what", ["a linear layer's bias", "a norm's weight", "a convolution's bias"])
def test_parameters_that_are_parts_of_something_are_read_as_what_they_are(what):
    plain, x = emformer(), torch.randn(1, 24, 32)
    module = compiled(plain)
    for one in (plain, module):
        torch.manual_seed(1)
        replace(one, what)
    torch.testing.assert_close(hear(module, x)[0], hear(plain, x)[0], atol=1e-4, rtol=0)


def test_a_norm_of_another_size_is_refused_as_in_python():
    module = compiled(emformer())
    module.layers[0].output_norm.weight = nn.Parameter(torch.ones(3), requires_grad=False)
    with pytest.raises(RuntimeError, match=r"weight of shape \[3\]"):
        hear(module, torch.randn(1, 8, 32))


@contextmanager
def elsewhere(monkeypatch, folder):
    """On a machine whose package lies in this folder."""
    monkeypatch.setattr(native, "FOLDER", folder)
    native.library.cache_clear()
    try:
        yield
    finally:
        monkeypatch.undo()
        native.library.cache_clear()


def test_what_was_prepared_is_read_where_there_is_no_operator(monkeypatch, tmp_path):
    module, x = compiled(emformer()), torch.randn(1, 24, 32)
    written, wanted = pickle.dumps(module), hear(module, x)[0]
    with elsewhere(monkeypatch, tmp_path):
        torch.testing.assert_close(hear(pickle.loads(written), x)[0], wanted, atol=1e-4, rtol=0)
    assert torch.equal(hear(pickle.loads(written), x)[0], wanted)


def test_who_has_no_operator_is_warned_once_and_told_how_not_to_be(monkeypatch, tmp_path, caplog):
    monkeypatch.delenv(native.VARIABLE, raising=False)
    with elsewhere(monkeypatch, tmp_path), caplog.at_level(logging.WARNING):
        assert [emformer().compile_steps() for _ in range(2)] == [False, False]
        assert "not built" in why_not_compiled()
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 1 and "steps run in Python" in told[0] and "ECHOSTREAM_NATIVE=off" in told[0]
        (tmp_path / f"_native{native.EXTENSION_SUFFIXES[0]}").write_text("of another version")
        native.library.cache_clear()
        assert "cannot be used: steps run in Python (install the package again)" in why_not_compiled()
        monkeypatch.setenv(native.VARIABLE, "off")
        assert why_not_compiled() == "off (ECHOSTREAM_NATIVE)"
