"""The exactness contract of the encoder: streaming equals the parallel form, from features on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder, EncoderState

TOLERANCE = 1e-4
SMALL = {
    "input_dim": 16,
    "dim": 16,
    "layers": 3,
    "heads": 2,
    "ffn_dim": 32,
    "subsampling_channels": 4,
    "segment_frames": 8,
    "left_context_frames": 12,
    "memory_size": 2,
    "conv_kernel": 5,
}
VARIANTS = {
    "default": {},
    "plain": {"conv_kernel": 0, "rotary": False, "memory_size": 0},
    "mean memory": {"memory_kind": "mean", "left_context_frames": 5},
    "no left context": {"left_context_frames": 0, "tanh_on_memory": True},
    "right context": {"right_context_frames": 3},
    "long right context": {"right_context_frames": 11, "conv_kernel": 15, "left_context_frames": 30},
    "kernel of one": {"right_context_frames": 2, "conv_kernel": 1, "memory_kind": "mean"},
}
SEGMENTS = (4, 8, 16, 0)
TAILS = (0, 1, 15, 16, 17, 63)  # feature frames


def make_encoder(variant="default", **options):
    torch.manual_seed(1)
    encoder = EmformerEncoder(EncoderConfig(**{**SMALL, **VARIANTS[variant], **options})).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases and norms too, which start as constants
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


ENCODERS = {variant: make_encoder(variant) for variant in VARIANTS}


def make_features(frames, batch_size=1, seed=0):
    return torch.randn(batch_size, frames, 16, generator=torch.Generator().manual_seed(seed))


def parallel(encoder, features, segment_frames=None):
    lengths = torch.full((features.size(0),), features.size(1))
    return encoder(features, lengths, segment_frames)[0]


def stream(encoder, features, sizes, segment_frames=None):
    """Push features in steps of the given sizes (the rest at once), then finish."""
    state = encoder.initial_state(features.size(0), segment_frames)
    outputs, start = [], 0
    for size in [*sizes, max(features.size(1) - sum(sizes), 0)]:
        out, state = encoder.step(features[:, start : start + size], state)
        outputs.append(out)
        start += size
    outputs.append(encoder.finish(state))
    return torch.cat(outputs, dim=1)


def assert_same(a, b):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("segment_frames", SEGMENTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_streaming_equals_parallel_for_any_ragged_tail(variant, segment_frames):
    encoder = ENCODERS[variant]
    for tail in TAILS:
        features = make_features(320 + tail)
        expected = parallel(encoder, features, segment_frames)
        assert expected.size(1) == encoder.output_lengths(320 + tail)
        assert_same(stream(encoder, features, [32] * 10, segment_frames), expected)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 90), max_size=12),
    st.integers(0, 70),
    st.sampled_from(SEGMENTS),
    st.sampled_from([*VARIANTS]),
)
def test_streaming_equals_parallel_for_any_cutting(sizes, tail, segment_frames, variant):
    with torch.no_grad():
        features = make_features(sum(sizes) + tail)
        expected = parallel(ENCODERS[variant], features, segment_frames)
        assert_same(stream(ENCODERS[variant], features, sizes, segment_frames), expected)


@pytest.mark.parametrize("frames", (0, 1, 2, 4, 5))
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shortest_inputs_work(variant, frames):
    features = make_features(frames)
    expected = parallel(ENCODERS[variant], features)
    assert expected.shape == (1, -(-frames // 4), 16)
    assert_same(stream(ENCODERS[variant], features, [1] * frames), expected)


@pytest.mark.parametrize("segment_frames", SEGMENTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_of_a_batch_changes_nothing(variant, segment_frames):
    encoder = ENCODERS[variant]
    lengths = torch.tensor([203, 1, 64, 0, 130])
    features = make_features(203, batch_size=5)
    features[torch.arange(203) >= lengths.unsqueeze(1)] = float("nan")
    out, out_lengths = encoder(features, lengths, segment_frames)
    assert out_lengths.tolist() == [51, 1, 16, 0, 33]
    for row, length, out_length in zip(range(5), lengths.tolist(), out_lengths.tolist(), strict=True):
        alone = parallel(encoder, features[row : row + 1, :length], segment_frames)
        assert_same(out[row : row + 1, :out_length], alone)
    assert out.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_lookahead_depends_on_the_future(variant):
    encoder = ENCODERS[variant]
    lookahead = encoder.config.right_context_frames
    features = make_features(160)
    before = parallel(encoder, features)
    for changed in (1, 32, 77, 96, 159):  # first feature frame that differs
        future = features.clone()
        future[:, changed:] += 1.0
        touched = -(-changed // 4)  # first encoder frame that sees it
        unchanged = max(touched - lookahead, 0) // 8 * 8
        after = parallel(encoder, future)
        torch.testing.assert_close(after[:, :unchanged], before[:, :unchanged], atol=1e-6, rtol=0)
        if touched < 40:
            assert (after[:, unchanged:] - before[:, unchanged:]).abs().amax() > 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_stacked_streams_of_different_ages_equal_single_ones(variant):
    encoder = ENCODERS[variant]
    ages = (0, 1, 2, 7)  # segments of 32 feature frames done before
    streams = [make_features(32 * age + 141, seed=age) for age in ages]
    states = []
    for age, features in zip(ages, streams, strict=True):
        state = encoder.initial_state()
        # two segments more than the age, so that the pending frames have reached the right context
        _, state = encoder.step(features[:, : 32 * age + 64], state)
        states.append(state)
    joined = EncoderState.stack(states)
    assert joined.batch_size == 4
    rest = torch.cat([features[:, -77:] for features in streams])
    out, joined = encoder.step(rest, joined)
    tail = encoder.finish(joined)
    for row, (features, state) in enumerate(zip(streams, joined.unstack(), strict=True)):
        expected = parallel(encoder, features)[:, -tail.size(1) - out.size(1) :]
        assert_same(torch.cat([out[row : row + 1], tail[row : row + 1]], dim=1), expected)
        assert_same(encoder.finish(state), tail[row : row + 1])


def test_streams_with_different_pending_frames_cannot_be_stacked():
    encoder = ENCODERS["default"]
    states = [encoder.step(make_features(frames), encoder.initial_state())[1] for frames in (32, 40)]
    with pytest.raises(ValueError, match="different shapes"):
        EncoderState.stack(states)
    with pytest.raises(ValueError, match="share this value"):
        EncoderState.stack([encoder.initial_state(1, 8), encoder.initial_state(1, 16)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_does_not_grow(variant):
    encoder = ENCODERS[variant]
    state, sizes = encoder.initial_state(), set()
    for _ in range(12):
        _, state = encoder.step(make_features(32), state)
        sizes.add(state.nbytes)
        kept = state.emformer
        for tensor in (kept.pending, kept.left_context, kept.memory, kept.convolution):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes  # no slice keeps a longer tensor alive
    assert len(sizes) <= 2  # pending frames fill up to the right context in the first steps


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_step_for_one_window_is_the_step_for_many(variant):
    """Under autograd the general path runs, without it the short one; they may change places at any segment."""
    encoder, features = ENCODERS[variant], make_features(32 * 9 + 50, batch_size=2)
    state, outputs = encoder.initial_state(2), []
    for segment in range(9):
        with torch.set_grad_enabled(segment % 3 == 1):
            out, state = encoder.step(features[:, 32 * segment : 32 * (segment + 1)], state)
        outputs.append(out)
    outputs.append(encoder.step(features[:, 32 * 9 :], state)[0])
    joined = torch.cat(outputs, dim=1)
    assert_same(joined, parallel(encoder, features)[:, : joined.size(1)])


def test_a_state_is_a_value():
    encoder = ENCODERS["right context"]
    features = make_features(100)
    _, state = encoder.step(features[:, :50], encoder.initial_state())
    copy = state.clone()
    first = encoder.step(features[:, 50:], state)[0]
    encoder.finish(state)
    assert torch.equal(encoder.step(features[:, 50:], state)[0], first)
    assert torch.equal(encoder.step(features[:, 50:], copy)[0], first)


def test_a_provisional_look_is_the_utterance_that_ends_there():
    encoder = ENCODERS["right context"]
    features = make_features(200)
    state = encoder.initial_state()
    for start in range(0, 200, 13):
        out, state = encoder.step(features[:, start : start + 13], state)
        seen = parallel(encoder, features[:, : start + 13])
        tail = encoder.finish(state)
        assert_same(tail, seen[:, seen.size(1) - tail.size(1) :])


def test_the_module_keeps_nothing_of_a_batch():
    used, fresh = make_encoder(), make_encoder()
    parallel(used, make_features(333, batch_size=3, seed=5))
    stream(used, make_features(90, seed=6), [32])
    features = make_features(150)
    assert torch.equal(parallel(used, features), parallel(fresh, features))
    assert set(dict(used.named_buffers())) == set()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_reaches_every_parameter(variant):
    encoder = make_encoder(variant, dropout=0.0)
    unread = f"layers.{SMALL['layers'] - 1}."  # nothing reads the memory that the last layer writes
    with torch.enable_grad():
        out, lengths = encoder.train()(make_features(150, batch_size=3), torch.tensor([150, 70, 3]))
        valid = torch.arange(out.size(1)) < lengths.unsqueeze(1)
        (out[valid] * torch.randn_like(out[valid])).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or unread in name, name


def test_rotary_position_tells_equal_frames_of_a_segment_apart():
    features = make_features(1).expand(-1, 64, -1)  # equal from the third encoder frame on
    for rotary in (False, True):
        encoder = make_encoder(conv_kernel=0, memory_size=0, rotary=rotary)
        steps = parallel(encoder, features, 16)[0, 2:].diff(dim=0).abs().amax(dim=1)
        assert steps.min() > 1e-5 if rotary else steps.max() < 1e-5


def test_a_negative_segment_is_refused():
    with pytest.raises(ValueError, match="segment_frames must be 0"):
        ENCODERS["default"].initial_state(1, -1)
