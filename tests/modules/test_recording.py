"""Recorded steps give what the steps themselves give."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.modules import recording
from echostream_plugin.modules.recording import MOST_RECORDINGS
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


RECORD_AFTER = 3


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Shapes are recorded after few calls."""
    monkeypatch.setattr(recording, "RECORD_AFTER", RECORD_AFTER)


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
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.sampled_from([8, 16, 32]), min_size=12, max_size=24), batch=st.integers(1, 2))
def test_recorded_steps_equal_the_steps_themselves(kind, sizes, batch):
    plain, recorded = encoders(kind)
    features = torch.randn(batch, sum(sizes), 80)
    with torch.inference_mode():
        for segment_frames in (4, 8):
            wanted = stream(plain, features, sizes, segment_frames)
            assert torch.allclose(stream(recorded, features, sizes, segment_frames), wanted, atol=1e-5)
    assert recorded.emformer._recorder.recorded > 0


def test_shapes_that_do_not_come_back_are_not_recorded():
    _, encoder = encoders("whole")
    with torch.inference_mode():
        for frames in range(1, 40):
            state = encoder.step(torch.randn(1, 4 * frames, 80), encoder.initial_state(1, 0))[1]
            encoder.finish(state)
        assert encoder.emformer._recorder.recorded == 0
        for _ in range(RECORD_AFTER + 1):
            encoder.finish(state)
    assert encoder.emformer._recorder.recorded == 1


def test_the_number_of_recordings_is_bounded():
    _, encoder = encoders("plain")
    with torch.inference_mode():
        for frames in range(1, MOST_RECORDINGS + 4):
            state = encoder.step(torch.randn(1, 4 * frames, 80), encoder.initial_state(1, 0))[1]
            for _ in range(RECORD_AFTER + 1):
                encoder.finish(state)
    assert encoder.emformer._recorder.recorded == MOST_RECORDINGS


def test_recorded_streams_stack_and_do_not_touch_each_other():
    plain, recorded = encoders("whole")
    features = torch.randn(3, 8 * 32, 80)
    with torch.inference_mode():
        wanted = stream(plain, features, [32] * 8, 8)
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
        assert torch.allclose(stream(recorded, features, [32] * 12, 8), wanted, atol=1e-4)
    assert recorded.emformer._recorder.recorded > 0
