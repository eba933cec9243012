"""The compiled operator computes what the modules compute in Python."""

import copy
import dataclasses
import logging
import pickle
import threading
from functools import partial

import pytest
import torch
from torch import nn

from echostream_plugin.config import ConfigError, EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from echostream_plugin.modules import native
from echostream_plugin.modules.emformer import Emformer, EmformerState
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.packed import PackedLinear, can_pack, pack_linears
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.subsampling import CausalSubsampling
from tests import native_library

SMALL = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 48}
VARIANTS = {
    "whole": {"memory_size": 2},
    "plain": {"memory_size": 0, "rotary": False, "conv_kernel": 0},
    "lookahead": {"right_context_frames": 2, "memory_kind": "mean"},
    "tanh": {"tanh_on_memory": True, "left_context_frames": 0},
    "odd sizes": {"dim": 36, "heads": 6, "ffn_dim": 50, "conv_kernel": 1, "memory_size": 3, "left_context_frames": 5,
                  "right_context_frames": 1},
    "bundled": {"dim": 192, "heads": 4, "ffn_dim": 768, "memory_size": 4, "left_context_frames": 24},
}  # fmt: skip
TOLERANCE = 1e-4
SINGLE = 3e-5  # of float32 weights


pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def pair(variant="whole", packing="half", **options):
    """An Emformer in Python, whose weights are numbers of half precision, and its twin in the operator."""
    torch.manual_seed(0)
    plain = Emformer(EncoderConfig(**{**SMALL, **VARIANTS[variant], **options})).eval()
    for parameter in plain.parameters():
        parameter.copy_((parameter + 0.1 * torch.randn_like(parameter)).half())
    twin = copy.deepcopy(plain)
    if packing == "half":
        pack_linears(twin, "half", partial(NativeLinear, path=native.instructions()))
    assert twin.compile_steps()
    return plain, twin


def frames(module, count, batch_size=1, seed=0):
    return torch.randn(batch_size, count, module.config.dim, generator=torch.Generator().manual_seed(seed))


def stream(module, x, sizes, segment_frames):
    """Outputs, provisional ends included, and the last state; pieces of these sizes, used over and over."""
    state, outputs, start, turn = module.initial_state(x.size(0), segment_frames), [], 0, 0
    while start < x.size(1):
        size = sizes[turn % len(sizes)]
        out, state = module.step(x[:, start : start + size], state)
        outputs += [out, module.finish(state)]
        start, turn = start + size, turn + 1
    return torch.cat(outputs, dim=1), state


def same(given, wanted, tolerance=TOLERANCE):
    assert given.shape == wanted.shape
    torch.testing.assert_close(given, wanted, atol=tolerance, rtol=0)


def same_state(given, wanted, tolerance=TOLERANCE):
    for field in dataclasses.fields(wanted):
        one, other = getattr(given, field.name), getattr(wanted, field.name)
        same(one, other, tolerance) if isinstance(other, torch.Tensor) else one == other


@pytest.mark.parametrize("packing, tolerance", [("none", SINGLE), ("half", TOLERANCE)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_equals_the_step_in_python(path, variant, packing, tolerance):
    plain, compiled = pair(variant, packing)
    x = frames(plain, 100)
    for segment_frames in (8, 3, 24, 0):  # the memory fills, and whole utterances
        (given, state), (wanted, other) = (stream(module, x, [7, 16], segment_frames) for module in (compiled, plain))
        same(given, wanted, tolerance)
        same_state(state, other, tolerance)


@pytest.mark.parametrize("variant", ["whole", "lookahead"])
def test_a_long_stream_does_not_drift(path, variant):
    plain, compiled = pair(variant)
    x = frames(plain, 8 * 250)
    same(stream(compiled, x, [8], 8)[0], stream(plain, x, [8], 8)[0])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_streams_of_different_ages_in_one_batch(path, batch_size):
    plain, compiled = pair("lookahead")
    x = frames(plain, 8 * 9, batch_size)
    states = []
    for age in range(batch_size):  # segments done before
        states.append(stream(plain, x[age : age + 1, : 8 * age + 10], [8 * age + 10], 8)[1])
        states[age] = dataclasses.replace(states[age], pending=states[0].pending)
    given, wanted = (module.step(x[:, :16], EmformerState.stack(states)) for module in (compiled, plain))
    same(given[0], wanted[0])
    same_state(given[1], wanted[1])
    for row, state in enumerate(states):  # the same bits beside others as alone
        assert torch.equal(compiled.step(x[row : row + 1, :16], state)[0], given[0][row : row + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_may_go_on_in_the_other_form_at_any_segment(variant):
    plain, compiled = pair(variant)
    x = frames(plain, 8 * 14 + 5, 2)
    state, outputs = plain.initial_state(2, 8), []
    for turn, piece in enumerate(x.split(8, dim=1)):
        out, state = (plain, compiled)[turn // 2 % 2].step(piece, StreamState.stack(state.unstack()))
        outputs.append(out)
    same(torch.cat([*outputs, compiled.finish(state)], dim=1), torch.cat([*_whole(plain, x)], dim=1))


def _whole(module, x):
    out, state = module.step(x, module.initial_state(x.size(0), 8))
    return out, module.finish(state)


@pytest.mark.skipif(not can_pack(), reason="needs FBGEMM (x86)")
@pytest.mark.parametrize("variant", ["whole", "bundled"])
def test_int8_steps_are_near_those_in_python(path, variant):
    """A rounding to 7 bits may go the other way, so they are compared as int8 with float32 is."""
    plain, _ = pair(variant)
    python, compiled = (pack_linears(copy.deepcopy(plain), "int8") for _ in range(2))
    compiled.compile_steps()
    x = frames(plain, 120)
    exact, wanted, given = (stream(module, x, [8], 8)[0] for module in (plain, python, compiled))
    error, distance = (wanted - exact).square().mean().sqrt(), (given - wanted).square().mean().sqrt()
    assert (given - exact).square().mean().sqrt() < 1.1 * error and distance < 0.5 * error


@pytest.mark.parametrize("packing", native.KINDS)
def test_linear_layers(path, packing):
    torch.manual_seed(0)
    for inputs, outputs, bias in ((1, 1, True), (48, 33, False), (257, 250, True), (1024, 96, True), (3, 5, False)):
        linear = nn.Linear(inputs, outputs, bias=bias).half().float()
        layer, x = NativeLinear(linear, packing, path), torch.randn(40, inputs)
        if packing != "int8":
            wanted = linear(x)
        elif can_pack():
            wanted = PackedLinear(linear, "int8")(x)
            assert torch.allclose(layer.weight, PackedLinear(linear, "int8").weight, atol=1e-7)
        else:
            continue
        out = layer(x)
        # one step of 7 bits, where a tie was rounded the other way
        tolerance = 2e-5 if packing != "int8" else x.abs().max() / 63 * layer.weight.abs().max()
        assert (out - wanted).abs().max() <= tolerance and (out - wanted).abs().mean() < 2e-4
        for rows in (0, 1, 2, 3, 5, 9, 14, 15, 31, 32):
            assert torch.equal(layer(x[:rows]), out[:rows]), "a row depends on those beside it"


@pytest.mark.parametrize("packing", native.KINDS)
def test_linear_layers_keep_their_weights_as_packed_ones_do(packing):
    """Loading packs anew, copies have their own, the state dict holds what is computed with."""
    make = partial(NativeLinear, path=native.instructions())
    layer, other = (make(nn.Linear(40, 50), packing) for _ in range(2))
    x = torch.randn(3, 40)
    before, twin = layer(x), copy.deepcopy(layer)
    pickle.loads(pickle.dumps(layer))
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other(x)) and torch.equal(twin(x), before) and not torch.equal(layer(x), before)
    layer.bias.data.fill_(7.0)
    assert torch.equal(layer(0 * x), torch.full((3, 50), 7.0))
    layer.bias = nn.Parameter(torch.full((50,), 9.0), requires_grad=False)
    assert torch.equal(layer(0 * x), torch.full((3, 50), 9.0))
    assert layer(x[:, :0].new_zeros(0, 40)).shape == (0, 50)
    with pytest.raises(ValueError, match=r"expected \[..., 40\], got \[3, 41\]"):
        layer(torch.zeros(3, 41))


def test_a_recording_of_a_linear_layer_computes_and_does_not_repeat():
    layer = NativeLinear(nn.Linear(8, 8), "half", native.instructions())
    traced = torch.jit.trace(layer, torch.randn(2, 8), check_trace=False)
    x = torch.randn(2, 8)
    assert torch.allclose(traced(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("bands, channels, dim", [(80, 64, 256), (13, 3, 10), (16, 5, 33)])
def test_subsampling(path, bands, channels, dim):
    torch.manual_seed(0)
    plain = CausalSubsampling(bands, channels, dim).eval()
    compiled = copy.deepcopy(plain)
    assert compiled.compile_steps()
    x, both, states = torch.randn(2, 100, bands), (plain, compiled), [plain.initial_state(2)] * 2
    for piece in x.split([1, 2, 3, 0, 4, 5, 16, 32, 7, 1, 1, 28], dim=1):
        (wanted, states[0]), (given, states[1]) = (m.step(piece, s) for m, s in zip(both, states, strict=True))
        same(given, wanted, SINGLE)
        same_state(states[1], states[0], SINGLE)


def encoder(**options):
    torch.manual_seed(0)
    return EmformerEncoder(EncoderConfig(**SMALL, subsampling_channels=4, memory_size=2, **options)).eval()


def hear(module, features=None):
    features = torch.ones(1, 90, 80) if features is None else features
    out, state = module.step(features[:, :50], module.initial_state(features.size(0), 8))
    more, state = module.step(features[:, 50:], state)
    return torch.cat([out, more, module.finish(state)], dim=1)


def change(module, kind):
    layer = module.emformer.layers[1]
    if kind == "load":
        module.load_state_dict({name: value * 1.5 for name, value in module.state_dict().items()})
    elif kind == "in place":
        layer.output_norm.bias.data.fill_(3.0)
        layer.convolution.depthwise.weight.data.mul_(2)
    elif kind == "replace a parameter":
        layer.output_norm.weight = nn.Parameter(torch.full((32,), 2.0))
    elif kind == "replace a layer":
        torch.manual_seed(5)
        layer.feed_forward[1] = nn.Linear(32, 48)
    elif kind == "give other memory":
        for part in (layer.output_norm, layer.feed_forward[1], module.subsampling.norm):
            part.bias.data = torch.full_like(part.bias, 2.0)
    elif kind == "move":
        module.double()
        module.float()
        layer.output_norm.bias.data.fill_(3.0)


CHANGES = ("load", "in place", "replace a parameter", "replace a layer", "give other memory", "move")


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_weights_take_effect_and_copies_keep_theirs(kind):
    plain = encoder()
    compiled = copy.deepcopy(plain)
    assert compiled.compile_steps()
    before, twin = hear(compiled), copy.deepcopy(compiled)
    same(before, hear(plain))
    assert hear(twin).equal(before)
    for module in (plain, compiled):
        change(module, kind)
    same(hear(compiled), hear(plain))
    assert not torch.allclose(hear(compiled), before, atol=1e-2) and hear(twin).equal(before)


def test_whisper_layers():
    torch.manual_seed(0)
    config = WhisperConfig(input_dim=12, dim=12, inner_dim=16, layers=3, heads=2, ffn_dim=24, left_context_frames=9)
    plain = WhisperEncoder(config).eval()
    compiled = copy.deepcopy(plain)
    assert compiled.compile_steps()
    features = torch.randn(2, 90, 12)
    same(hear(compiled, features), hear(plain, features))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_the_operator_cannot_do_runs_in_python():
    with torch.inference_mode(False), torch.enable_grad():
        plain, features = encoder(), torch.randn(1, 90, 80)
        compiled = copy.deepcopy(plain)
        compiled.emformer.compile_steps()
        same(hear(compiled, features), hear(plain, features))
    compiled.compile_steps()
    with torch.autocast("cpu", torch.bfloat16):
        same(hear(compiled, features).float(), hear(plain, features).float(), 0.2)
    compiled.requires_grad_(False)
    x, other = torch.randn(2, 1, 8, 32)
    traced = torch.jit.trace(lambda x: _whole(compiled.emformer, x)[0], x, check_trace=False)
    same(traced(other), _whole(plain.emformer, other)[0])


def test_a_state_of_another_stack_is_refused():
    _, compiled = pair("whole")
    _, other = pair("odd sizes")
    state, x = compiled.initial_state(2, 8), frames(compiled, 8, 2)
    for wrong in (
        dataclasses.replace(state, left_context=state.left_context[:, :1]),
        dataclasses.replace(state, memory=state.memory[:1]),
        dataclasses.replace(state, convolution=state.convolution[:, :, 1:]),
        dataclasses.replace(other.initial_state(2, 8), pending=x[:, :0]),
    ):
        with pytest.raises(ValueError, match="are not this stack's"):
            compiled.step(x, wrong)
    network = CausalSubsampling(16, 4, 8).eval()
    network.compile_steps()
    with pytest.raises(ValueError, match="are not this network's"):
        network.step(torch.zeros(1, 4, 16), CausalSubsampling(16, 5, 8).initial_state(1))


def test_threads_share_a_compiled_encoder():
    compiled = encoder()
    compiled.compile_steps()
    inputs = [torch.randn(1, 32 * 12 + 9 * i, 80, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    alone, wrong, start = [hear(compiled, x) for x in inputs], [], threading.Barrier(4)
    compiled.emformer._native.forget()  # all make the tables at once

    @torch.inference_mode()
    def work(index):
        start.wait()
        for _ in range(20):
            if not torch.equal(hear(compiled, inputs[index]), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_the_library_everything_runs_in_python_and_says_so_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    native.library.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            compiled = encoder()
            assert [compiled.compile_steps(), compiled.compile_steps()] == [False, False]
        assert caplog.text.count("no compiled operator") == 1
        same(hear(compiled), hear(encoder()), 0)
        monkeypatch.setenv(native.VARIABLE, "portable")
        with pytest.raises(ConfigError, match="ECHOSTREAM_NATIVE 'portable': the compiled operator was not built"):
            native.instructions()
        (tmp_path / f"_native{native.EXTENSION_SUFFIXES[0]}").write_text("no library")
        native.library.cache_clear()
        with caplog.at_level(logging.INFO):
            assert native.library() is None
        assert "is not used, steps run in Python" in caplog.text
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
    assert native.library() is not None


def test_the_variable_chooses(monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "off")
    assert native.instructions() is None and not encoder().compile_steps()
    monkeypatch.setenv(native.VARIABLE, "auto")
    there = native_library.paths()
    assert native.instructions() == (there[-1] if len(there) > 1 else None)
    monkeypatch.setattr(native, "PATHS", native.PATHS[:1])
    assert native.instructions() is None
    monkeypatch.undo()
    monkeypatch.setenv(native.VARIABLE, "sse2")
    with pytest.raises(ConfigError, match="ECHOSTREAM_NATIVE 'sse2': use auto, off, portable, avx2"):
        native.instructions()


def test_another_version_of_the_interface_is_not_used(monkeypatch):
    monkeypatch.setattr(native, "VERSION", native.VERSION + 1)
    native.library.cache_clear()
    try:
        assert native.library() is None
    finally:
        monkeypatch.undo()
        native.library.cache_clear()
