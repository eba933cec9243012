"""Streaming equals the vocoder run once, for any cutting, with every sample computed once and a state of fixed size."""

import copy
import gc
import math
import pickle
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.vocoder import CodeHiFiGAN, StreamingVocoder, VocoderConfig, load_vocoder
from echostream_plugin.vocoder.codehifigan import duration_params
from echostream_plugin.vocoder.convolution import Convolution, MinimalConvolution
from echostream_plugin.vocoder.generator import BLOCK_FRAMES, GeneratorState, generator_of
from tests.vocoder.shared import stream

K = 20
BUNDLED = Path(__file__).parents[2] / "examples/quickstart/bundle/vocoder"


def make(
    kernels=(3, 5), rates=(5, 4), up_kernels=(11, 8), durations=True, channels=16, speakers=None, dilations=(1, 3, 5)
) -> CodeHiFiGAN:
    torch.manual_seed(0)
    config = VocoderConfig(
        num_embeddings=K,
        embedding_dim=8,
        model_in_dim=16 if speakers else 8,
        upsample_rates=rates,
        upsample_kernel_sizes=up_kernels,
        upsample_initial_channel=channels,
        resblock_kernel_sizes=kernels,
        resblock_dilation_sizes=(dilations,) * len(kernels),
        dur_predictor_params=duration_params(8) if durations else None,
        multispkr="_" if speakers else None,
        num_speakers=speakers or 1,
    )
    model = CodeHiFiGAN(config).remove_weight_norm().eval()
    if durations:
        model.dur_predictor.proj.bias.data.fill_(1.2)  # durations of 1 to 5 frames
    return model


MODELS = {
    "with durations": make(),
    "full rate": make(durations=False),
    "wide": make((7, 11), (4, 2, 2), (8, 4, 4)),
    "one block, rate 2 of kernel 8": make((5,), (3, 2), (3, 8), dilations=(2, 1, 1)),
    "slow block first": make((7, 3), (2,), (4,)),
    "minimal filters": make((3, 7), (2, 2), (4, 4), channels=256, dilations=(1, 2, 1)),
    "two speakers": make(speakers=2),
}


def whole(model, units):
    with torch.inference_mode():
        return model(torch.tensor([units], dtype=torch.long), model.dur_predictor is not None)[0][0]


@settings(max_examples=25)
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
@pytest.mark.parametrize("name", sorted(MODELS))
def test_one_unit_at_a_time(name, n):
    units = [i * 7 % K for i in range(n)]
    model = MODELS[name]
    torch.testing.assert_close(stream(model, [[u] for u in units]), whole(model, units), atol=1e-4, rtol=0)


def receptive_field_frames(config: VocoderConfig) -> tuple[int, int]:
    """How many unit frames to the left and to the right of a frame its samples depend on."""
    # needed input positions left of, and right of, the samples 0..hop-1 of one frame, from the output back
    first, last = 0, config.hop_samples - 1
    first, last = first - 3, last + 3  # conv_post, kernel 7
    reach = max(
        sum((kernel - 1) * dilation // 2 + (kernel - 1) // 2 for dilation in dilations)
        for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    )
    for rate, kernel in reversed(list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))):
        first, last = first - reach, last + reach
        # input i of a transposed convolution reaches outputs i * rate - padding ... i * rate - padding + kernel - 1
        padding = (kernel - rate) // 2
        first, last = math.ceil((first + padding - kernel + 1) / rate), math.floor((last + padding) / rate)
    return -(first - 3), last + 3  # conv_pre, kernel 7


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


def test_every_output_of_every_layer_is_computed_once(monkeypatch):
    """Beside the transposed convolutions' last outputs, which are cut off at the end."""
    model, made = MODELS["with durations"], {}
    call = Convolution.__call__

    def counted(self, x):
        y = call(self, x)
        made[self] = made.get(self, 0) + y.size(1)
        return y

    monkeypatch.setattr(Convolution, "__call__", counted)
    units = [i * 7 % K for i in range(50)]
    frames = stream(model, [units[i : i + 3] for i in range(0, 50, 3)]).numel() // model.config.hop_samples
    generator, expected, rate = generator_of(model), {}, 1
    expected[generator.before.convolution] = frames
    for stage in generator.stages:
        expected[stage.up] = rate * frames + -(-stage.trim // stage.rate)
        rate *= stage.rate
        pairs = [convolution for block in stage.blocks for pair in block.pairs for convolution in pair]
        expected.update({pair.convolution: rate * frames for pair in pairs})
    expected[generator.after.convolution] = rate * frames
    assert made == expected


@pytest.mark.parametrize("name", sorted(MODELS))
def test_state_has_a_fixed_size_and_delay_is_what_it_says(name):
    vocoder = StreamingVocoder(MODELS[name])
    generator = vocoder.generator
    sizes, state, samples = [], vocoder.initial_state(), 0
    for step in range(3 * vocoder.right_frames):
        out, state = vocoder.push([step % K, (step * 3) % K], state)
        samples += out.numel()
        sizes.append(state.nbytes)
    assert set(sizes[2 * vocoder.right_frames :]) == {sizes[-1]}
    state, given = generator.initial_state(), 0
    for frames in range(1, vocoder.right_frames + 9):
        out, state = generator.step(torch.tensor([[frames % K]]), state)
        given += out.size(1)
        assert given == max(0, frames * generator.hop_samples - generator.delay_samples)
    frames_behind = generator.delay_samples / generator.hop_samples
    assert vocoder.right_frames - 1 < frames_behind <= vocoder.right_frames, "no later than the receptive field demands"


def test_newest_units_are_withheld_until_finish():
    vocoder = StreamingVocoder(MODELS["with durations"])
    samples, state = vocoder.push([1, 2], vocoder.initial_state())
    assert samples.numel() == 0, "the duration of a unit needs the two units after it"
    assert vocoder.finish(state).numel() > 0
    units = [i % K for i in range(vocoder.future_units + vocoder.right_frames + 1)]
    samples, _ = vocoder.push(units, vocoder.initial_state())
    assert samples.numel() >= vocoder.model.config.hop_samples, "beyond the lookahead something must come out"


def test_emitted_samples_do_not_depend_on_later_units():
    vocoder = StreamingVocoder(MODELS["with durations"])
    first, state = vocoder.push([3] * 30, vocoder.initial_state())
    copy = state.clone()
    expected, _ = vocoder.push([9, 8, 7], copy)
    for later in ([1] * 5, [9, 8, 7]):
        out, _ = vocoder.push(later, state)
    vocoder.finish(state)
    assert torch.equal(out, expected) and torch.equal(vocoder.push([9, 8, 7], copy)[0], expected)
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


def test_pushes_longer_than_a_block_equal_the_whole():
    units = [i * 7 % K for i in range(2 * BLOCK_FRAMES + 5)]
    model = MODELS["full rate"]
    torch.testing.assert_close(stream(model, [units]), whole(model, units), atol=1e-4, rtol=0)


def test_speakers_differ_and_stream():
    model, units = MODELS["two speakers"], [i * 3 % K for i in range(12)]
    for speaker in (0, 1):
        vocoder = StreamingVocoder(model, speaker)
        samples, state = vocoder.push(units, vocoder.initial_state())
        with torch.inference_mode():
            expected = model(torch.tensor([units]), speaker=speaker)[0][0]
        torch.testing.assert_close(torch.cat([samples, vocoder.finish(state)]), expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="speaker 2 is out of range"):
        StreamingVocoder(model, 2)


@pytest.mark.parametrize("name", ["with durations", "minimal filters"])
def test_stacked_generator_states_step_as_single_ones(name):
    generator = generator_of(MODELS[name])
    frames = torch.randint(0, K, (3, 60), generator=torch.Generator().manual_seed(0))
    states = [generator.step(row[None, :40], generator.initial_state())[1] for row in frames]
    together, after = generator.step(frames[:, 40:], GeneratorState.stack(states))
    rest = generator.finish(after)
    for i, state in enumerate(states):
        alone, state = generator.step(frames[i : i + 1, 40:], state)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(rest[i : i + 1], generator.finish(state), atol=1e-5, rtol=0)
        torch.testing.assert_close(generator.finish(after.unstack()[i]), generator.finish(state), atol=1e-5, rtol=0)


def test_weight_norm_is_folded_and_changed_weights_are_seen():
    config = MODELS["full rate"].config
    model = CodeHiFiGAN(config).eval()
    torch.testing.assert_close(stream(model, [[1, 2, 3]]), whole(model, [1, 2, 3]), atol=1e-5, rtol=0)
    first = generator_of(model)
    assert generator_of(model) is first, "sessions share the packed weights"
    with torch.no_grad():
        model.conv_post.bias += 0.5
    assert generator_of(model) is not first
    torch.testing.assert_close(stream(model, [[1, 2, 3]]), whole(model, [1, 2, 3]), atol=1e-5, rtol=0)


def test_model_made_in_inference_mode_streams():
    with torch.inference_mode():
        model = CodeHiFiGAN(MODELS["full rate"].config).eval()
    torch.testing.assert_close(stream(model, [[1, 2, 3]]), whole(model, [1, 2, 3]), atol=1e-5, rtol=0)


def test_packed_weights_go_with_their_model():
    model = CodeHiFiGAN(MODELS["full rate"].config).remove_weight_norm()
    generator = weakref.ref(generator_of(model))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert generator_of(copied) is not generator() and generator_of(copied) is generator_of(copied)
    del model
    gc.collect()
    assert generator() is None


def test_bfloat16_is_near():
    model, units = MODELS["with durations"], [i * 7 % K for i in range(30)]
    vocoder = StreamingVocoder(model, dtype=torch.bfloat16)
    samples, state = vocoder.push(units, vocoder.initial_state())
    samples, expected = torch.cat([samples, vocoder.finish(state)]), whole(model, units)
    assert samples.dtype == torch.float32
    error, signal = (samples - expected).square().mean(), (expected - expected.mean()).square().mean()
    assert samples.shape == expected.shape and error < 0.01 * signal
    model = CodeHiFiGAN(model.config)
    model.stream_dtype = torch.bfloat16
    assert StreamingVocoder(model).generator.dtype == torch.bfloat16


@pytest.mark.parametrize("size", [1, 4, 50])
def test_bundled_vocoder_streams_exactly(size):
    model = load_vocoder(BUNDLED)
    draw = torch.Generator().manual_seed(size)
    units = torch.unique_consecutive(torch.randint(0, model.config.num_embeddings, (25,), generator=draw)).tolist()
    streamed, expected = stream(model, [units[i : i + size] for i in range(0, len(units), size)]), whole(model, units)
    torch.testing.assert_close(streamed, expected, atol=1e-4, rtol=0)
    assert expected.abs().max() > 0.01


def test_full_size_layers_use_minimal_filters():
    generator = generator_of(CodeHiFiGAN(VocoderConfig()))
    kinds = [[type(block.first.convolution) for block in stage.blocks] for stage in generator.stages]
    minimal = [Convolution, MinimalConvolution, MinimalConvolution]
    plain = [Convolution] * 3
    assert kinds == [plain, minimal, minimal, plain, plain]
