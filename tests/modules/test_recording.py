"""Recorded steps give what the steps themselves give."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.modules import emformer_step
from echostream_plugin.modules.recording import MOST_RECORDINGS, Recorder, record_calls
from echostream_plugin.modules.streaming import StreamState

CONFIGS = {
    "whole": EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=48, subsampling_channels=4, memory_size=2),
    "plain": EncoderConfig(
        dim=32, layers=2, heads=2, ffn_dim=48, subsampling_channels=4, memory_size=0, rotary=False, conv_kernel=0
    ),
    "lookahead": EncoderConfig(
        dim=32, layers=2, heads=2, ffn_dim=48, subsampling_channels=4, right_context_frames=2, memory_kind="mean"
    ),
}


def encoders(kind):
    """The same encoder, its steps as they are and recorded."""
    torch.manual_seed(0)
    plain = EmformerEncoder(CONFIGS[kind]).eval()
    recorded = EmformerEncoder(CONFIGS[kind]).eval()
    recorded.load_state_dict(plain.state_dict())
    recorded.record_steps()
    return plain, recorded


def stream(encoder, features, sizes, segment_frames):
    state, pieces = encoder.initial_state(features.size(0), segment_frames), []
    for piece in features.split(sizes, dim=1):
        out, state = encoder.step(piece, state)
        pieces += [out, encoder.finish(state)]  # a provisional look, as a session takes it
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=5)
@given(sizes=st.lists(st.sampled_from([8, 16, 32]), min_size=12, max_size=24), batch=st.integers(1, 2))
def test_recorded_steps_equal_the_steps_themselves(kind, sizes, batch):
    plain, recorded = encoders(kind)
    features = torch.randn(batch, sum(sizes), 80)
    with torch.inference_mode():
        for segment_frames in (4, 8):
            wanted = stream(plain, features, sizes, segment_frames)
            with record_calls():
                stream(recorded, features, sizes, segment_frames)
            assert torch.allclose(stream(recorded, features, sizes, segment_frames), wanted, atol=1e-5)
    assert recorded.emformer._recorder.recorded > 0


def unfinished(encoder, frames):
    """A look at an unfinished segment of so many frames."""
    state = encoder.step(torch.ones(1, 4 * frames, 80), encoder.initial_state(1, 0))[1]
    return encoder.finish(state)


def test_nothing_is_recorded_while_a_stream_runs():
    _, encoder = encoders("whole")
    with torch.inference_mode():
        for _ in range(40):
            unfinished(encoder, 3)
        assert encoder.emformer._recorder.recorded == 0
        with record_calls():
            unfinished(encoder, 3)
        for frames in range(1, 9):
            unfinished(encoder, frames)
    assert encoder.emformer._recorder.recorded == 1


def test_of_too_many_recordings_the_least_used_goes():
    _, encoder = encoders("plain")
    recorder = encoder.emformer._recorder
    with torch.inference_mode(), record_calls():
        for frames in range(1, MOST_RECORDINGS + 1):
            unfinished(encoder, frames)
        used = set(recorder._recordings)
        for frames in range(1, MOST_RECORDINGS):
            unfinished(encoder, frames)
        (least,) = (signature for signature in used if recorder._recordings[signature].uses == 1)
        unfinished(encoder, MOST_RECORDINGS + 1)
    assert recorder.recorded == MOST_RECORDINGS
    assert used - set(recorder._recordings) == {least}


class Scale(torch.nn.Linear):
    """A recorder's owner: `forward` multiplies by the key too."""

    def __init__(self):
        super().__init__(4, 4)
        self.recorder = Recorder(self, self.scale)

    def scale(self, key, x):
        return (key * torch.nn.functional.linear(x, self.weight, self.bias),)

    def forward(self, x, key=1.0):
        return self.recorder(key, x)[0]


@torch.inference_mode()
def record(module, *inputs):
    with record_calls():
        return module(*inputs)


@pytest.mark.parametrize("change", ["load", "assign", "replace", "in place", "cast and back"])
def test_a_recording_never_uses_weights_that_were_replaced(change):
    module, x, state = Scale(), torch.randn(2, 4), Scale().state_dict()
    before = record(module, x)
    if change in ("load", "assign"):
        module.load_state_dict(state, assign=change == "assign")
    elif change == "replace":
        module.weight = torch.nn.Parameter(state["weight"])
    elif change == "in place":
        module.weight.data.mul_(2)
    else:
        module.double()
        module.weight.data.mul_(2)
        module.float()
    with torch.inference_mode():
        now = module(x)
        assert torch.equal(now, torch.nn.functional.linear(x, module.weight, module.bias))
    assert not torch.equal(now, before)


def test_a_copy_and_its_original_do_not_share_recordings():
    module, x = Scale(), torch.randn(2, 4)
    before = record(module, x)
    twin = copy.deepcopy(module)
    record(twin, x)
    twin.weight.data.zero_()
    with torch.inference_mode():
        assert torch.equal(twin(x), twin.bias.expand(2, 4))
        assert torch.equal(module(x), before)
        twin.load_state_dict(module.state_dict())
        module.weight.data.zero_()
        assert torch.equal(twin(x), before)


def test_autocast_and_gradients_are_not_those_of_the_recording():
    module, x = Scale(), torch.randn(2, 4)
    record(module, x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert module(x).dtype == torch.bfloat16
    with torch.no_grad():
        assert not module(x).is_inference()
    module(x).sum().backward()
    assert module.weight.grad is not None


def test_a_recording_keeps_the_tables_that_it_uses():
    _, encoder = encoders("whole")
    emformer_step._step_tables.cache_clear()
    record(lambda: unfinished(encoder, 5))
    (recording,) = encoder.emformer._recorder._recordings.values()
    tables = [weakref.ref(tensor) for group in recording._held for pair in group for tensor in pair]
    emformer_step._step_tables.cache_clear()
    gc.collect()
    assert len(tables) == 4 and all(table() is not None for table in tables)
    del recording
    encoder.record_steps()  # with a new recorder
    gc.collect()
    assert not any(table() is not None for table in tables)


def test_threads_that_record_and_replay_keep_their_keys():
    module, wrong, start = Scale(), [], threading.Barrier(4)
    inputs = [torch.randn(rows, 4) for rows in range(1, 6)]

    def work(key):
        start.wait()
        with torch.inference_mode():
            for turn in range(12):
                for x in inputs:
                    with record_calls():
                        out = module(x, key + turn % 3)
                    if not torch.allclose(out, module.scale(key + turn % 3, x)[0]):
                        wrong.append((key, turn))

    threads = [threading.Thread(target=work, args=(10.0 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_recorded_streams_stack_and_do_not_touch_each_other():
    plain, recorded = encoders("whole")
    features = torch.randn(3, 8 * 32, 80)
    with torch.inference_mode():
        wanted = stream(plain, features, [32] * 8, 8)
        with record_calls():
            stream(recorded, features, [32] * 8, 8)
        alone = [recorded.initial_state(1, 8) for _ in range(3)]
        outs = []
        for piece in features.split(32, dim=1):
            out, state = recorded.step(piece, StreamState.stack(alone))
            alone = [one.clone() for one in state.unstack()]
            outs += [out, recorded.finish(state)]
    assert torch.allclose(torch.cat(outs, dim=1), wanted, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_on_a_gpu_equal_the_steps_themselves():
    plain, recorded = (encoder.cuda() for encoder in encoders("whole"))
    features = torch.randn(2, 12 * 32, 80).cuda()
    with torch.inference_mode():
        wanted = stream(plain, features, [32] * 12, 8)
        with record_calls():
            stream(recorded, features, [32] * 12, 8)
        assert torch.allclose(stream(recorded, features, [32] * 12, 8), wanted, atol=1e-4)
    assert recorded.emformer._recorder.recorded > 0
