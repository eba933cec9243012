"""Streaming equals the vocoder run once, for any cutting, with bounded work and a receptive field that is right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.vocoder import CodeHiFiGAN, StreamingVocoder, VocoderConfig
from echostream_plugin.vocoder.codehifigan import duration_params
from echostream_plugin.vocoder.streaming import receptive_field_frames

K = 20


def make(kernels=(3, 5), rates=(5, 4), up_kernels=(11, 8), durations=True, seed=0) -> CodeHiFiGAN:
    torch.manual_seed(seed)
    config = VocoderConfig(
        num_embeddings=K,
        embedding_dim=8,
        model_in_dim=8,
        upsample_rates=rates,
        upsample_kernel_sizes=up_kernels,
        upsample_initial_channel=16,
        resblock_kernel_sizes=kernels,
        resblock_dilation_sizes=((1, 3, 5),) * len(kernels),
        dur_predictor_params=duration_params(8) if durations else None,
    )
    model = CodeHiFiGAN(config).remove_weight_norm().eval()
    if durations:
        model.dur_predictor.proj.bias.data.fill_(1.2)  # durations of 1 to 5 frames
    return model


MODELS = {"with durations": make(), "full rate": make(durations=False), "wide": make((7, 11), (4, 2, 2), (8, 4, 4))}


def stream(model, pieces):
    vocoder = StreamingVocoder(model)
    state, out = vocoder.initial_state(), []
    for piece in pieces:
        samples, state = vocoder.push(piece, state)
        out.append(samples)
    return torch.cat([*out, vocoder.finish(state)])


def whole(model, units):
    with torch.inference_mode():
        return model(torch.tensor([units], dtype=torch.long), model.dur_predictor is not None)[0][0]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    units=st.lists(st.integers(0, K - 1), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=12),
)
def test_streaming_equals_whole_for_any_cutting(name, units, cuts):
    edges = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    pieces = [units[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    expected = whole(MODELS[name], units)
    torch.testing.assert_close(stream(MODELS[name], pieces), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_one_unit_at_a_time(n):
    units = [i * 7 % K for i in range(n)]
    model = MODELS["with durations"]
    torch.testing.assert_close(stream(model, [[u] for u in units]), whole(model, units), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_receptive_field_equals_numeric_probe(name):
    """The gradient of one frame's samples reaches exactly the unit frames that were computed from the layers."""
    model = MODELS[name].double()
    left, right = receptive_field_frames(model.config)
    middle, hop = left + 4, model.config.hop_samples
    inputs = []

    def capture(module, args, out):
        inputs.append(out.detach().requires_grad_())
        return inputs[0]

    handle = model.dict.register_forward_hook(capture)
    wav = model.generate(torch.randint(0, K, (1, middle + right + 5), generator=torch.Generator().manual_seed(0)))[0]
    handle.remove()
    wav[middle * hop : (middle + 1) * hop].sum().backward()
    model.float()
    reached = inputs[0].grad[0].abs().sum(1).nonzero().flatten()
    assert (int(reached.min()), int(reached.max())) == (middle - left, middle + right)


def test_work_and_memory_of_a_push_do_not_grow():
    vocoder = StreamingVocoder(MODELS["with durations"])
    windows, sizes, state = [], [], vocoder.initial_state()
    generate = vocoder.model.generate
    try:
        vocoder.model.generate = lambda frames, speaker: windows.append(frames.size(1)) or generate(frames, speaker)
        for step in range(120):
            _, state = vocoder.push([step % K, (step * 3) % K], state)
            sizes.append(state.nbytes)
    finally:
        del vocoder.model.generate
    assert max(windows[60:]) <= max(windows[:60]) and max(sizes[60:]) <= max(sizes[20:60]) + 64


def test_newest_units_are_withheld_until_finish():
    vocoder = StreamingVocoder(MODELS["with durations"])
    samples, state = vocoder.push([1, 2], vocoder.initial_state())
    assert samples.numel() == 0, "the duration of a unit needs the two units after it"
    assert vocoder.finish(state).numel() > 0
    units = [i % K for i in range(vocoder.lookahead_units + 1)]
    samples, _ = vocoder.push(units, vocoder.initial_state())
    assert samples.numel() >= vocoder.model.config.hop_samples, "beyond the lookahead something must come out"


def test_emitted_samples_do_not_depend_on_later_units():
    vocoder = StreamingVocoder(MODELS["with durations"])
    first, state = vocoder.push([3] * 30, vocoder.initial_state())
    before = state.clone()
    for later in ([1] * 5, [9, 8, 7]):
        vocoder.push(later, state)
    assert torch.equal(state.units, before.units) and torch.equal(state.frames, before.frames)
    torch.testing.assert_close(first, whole(vocoder.model, [3] * 30 + [9, 8, 7])[: first.numel()], atol=1e-4, rtol=0)


def test_interleaved_streams_equal_each_alone():
    vocoder = StreamingVocoder(MODELS["with durations"])
    units = [[i * 3 % K for i in range(24)], [i * 7 % K for i in range(24)]]
    states, out = [vocoder.initial_state(), vocoder.initial_state()], [[], []]
    for start in range(0, 24, 4):
        for i in (0, 1):
            samples, states[i] = vocoder.push(units[i][start : start + 4], states[i])
            out[i].append(samples)
    for i in (0, 1):
        joined = torch.cat([*out[i], vocoder.finish(states[i])])
        torch.testing.assert_close(joined, whole(vocoder.model, units[i]), atol=1e-4, rtol=0)


def test_bad_unit_is_named_and_harms_nothing():
    vocoder = StreamingVocoder(MODELS["with durations"])
    _, state = vocoder.push([1, 2, 3], vocoder.initial_state())
    with pytest.raises(ValueError, match=f"unit {K} is out of range: this vocoder has K = {K} units"):
        vocoder.push([4, K], state)
    assert vocoder.finish(state).numel() > 0


def test_empty_stream_is_empty():
    vocoder = StreamingVocoder(MODELS["with durations"])
    samples, state = vocoder.push([], vocoder.initial_state())
    assert samples.shape == (0,) and vocoder.finish(state).shape == (0,)
