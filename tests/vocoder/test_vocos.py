"""code_vocos: streaming equals the whole, one sample of speech depends on a bounded future, files and configs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import ConfigError
from echostream_plugin.vocoder import CodeVocos, StreamingVocoder, VocosConfig, load_vocoder, save_vocoder
from echostream_plugin.vocoder.files import CONFIG_FILE
from echostream_plugin.vocoder.pitch import class_hz, pitch_class
from echostream_plugin.vocoder.synthesis import NOISE_FRAMES
from echostream_plugin.vocoder.vocos import BLOCK_FRAMES, OUTSIDE, VocosState, VocosStream
from tests.vocoder.shared import stream

K = 20
TINY = VocosConfig(
    num_embeddings=K,
    embedding_dim=8,
    dim=12,
    hidden_dim=16,
    coarse_blocks=2,
    fine_blocks=2,
    kernel_size=3,
    prosody_dim=8,
    pitch_classes=6,
)


def make(**changes) -> CodeVocos:
    torch.manual_seed(1)
    model = CodeVocos(dataclasses.replace(TINY, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.prosody.out.bias[0] = 1.4  # about three frames
        model.prosody.out.weight.mul_(4)  # units differ in duration and pitch
        bins = model.bins
        model.head.bias[:bins] += 2
        model.head.bias[2 * bins :] += 2
    return model


MODELS = {
    "plain": make(),
    "no fine blocks": make(fine_blocks=0, coarse_blocks=3),
    "no coarse blocks": make(coarse_blocks=0),
    "four spectra a unit": make(steps_per_unit=4, fft_size=320, right_frames=2),
    "five spectra a unit": make(steps_per_unit=5, left_frames=2, right_frames=3),
}


def units_of(count, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.unique_consecutive(torch.randint(0, K, (count,), generator=draw)).tolist()


def whole(model, units):
    with torch.inference_mode():
        return model(torch.tensor([units], dtype=torch.long))[0][0]


@settings(max_examples=30)
@given(
    name=st.sampled_from(sorted(MODELS)),
    units=st.lists(st.integers(0, K - 1), max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=12),
)
def test_streaming_equals_whole_for_any_cutting(name, units, cuts):
    edges = [0, *sorted(min(cut, len(units)) for cut in cuts), len(units)]
    pieces = [units[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    streamed = stream(MODELS[name], pieces)
    torch.testing.assert_close(streamed, whole(MODELS[name], units), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_speech_is_as_long_as_its_units_and_not_silent(name):
    model, units = MODELS[name], units_of(40)
    with torch.inference_mode():
        wave, durations = model(torch.tensor([units]))
    assert wave.shape == (1, int(durations.sum()) * model.config.hop_samples)
    assert wave.std() > 1e-3 and len(set(durations[0].tolist())) > 1
    assert len(set(model.timed_frames(torch.tensor([units]), 0, len(units))[0, :, 1].tolist())) > 3, "one pitch only"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_delay_is_what_it_says_and_the_state_has_a_fixed_size(name):
    model = MODELS[name]
    generator, given_samples, sizes = VocosStream(model), 0, []
    state = generator.initial_state()
    frames = model.timed_frames(torch.tensor([units_of(40)]), 0, 30)
    for count in range(1, 25):
        samples, state = generator.step(frames[:, count - 1 : count], state)
        given_samples += samples.size(1)
        assert given_samples == max(0, count * generator.hop_samples - generator.delay_samples)
        sizes.append(state.nbytes)
    assert set(sizes[8:]) == {sizes[-1]}


def test_default_runs_at_most_120_ms_behind():
    vocoder = StreamingVocoder(CodeVocos(VocosConfig(num_embeddings=10, coarse_blocks=1, fine_blocks=1)))
    assert 1000 * vocoder.generator.delay_samples / vocoder.model.config.sampling_rate == 95.0


@pytest.mark.parametrize("name", sorted(MODELS))
def test_samples_do_not_depend_on_frames_beyond_the_delay(name):
    model = MODELS[name]
    frames = model.timed_frames(torch.tensor([units_of(40)]), 0, 30)
    changed = frames.clone()
    changed[:, 20:, 0] = 3
    changed[:, 20:, 1] = 111.0
    with torch.inference_mode():
        one, other = model.generate(frames)[0], model.generate(changed)[0]
    first = int((one - other).abs().gt(1e-7).nonzero()[0])
    assert 20 * model.config.hop_samples - model.delay_samples <= first < 20 * model.config.hop_samples


def test_prosody_sees_no_unit_beyond_its_context():
    model, units = MODELS["plain"], torch.tensor([units_of(60)])
    past, future = model.context_units
    middle = 30
    changed = units.clone()
    changed[:, middle + future + 1 :] = (changed[:, middle + future + 1 :] + 1) % K
    changed[:, : middle - past] = (changed[:, : middle - past] + 1) % K
    one, other = (model.timed_frames(u, middle, middle + 1) for u in (units, changed))
    assert torch.equal(one, other)
    logits, nearer = (model.prosody(u)[1][0, middle] for u in (units, changed))
    torch.testing.assert_close(logits, nearer, atol=1e-6, rtol=0)
    changed[:, middle + future] = (changed[:, middle + future] + 1) % K
    assert not torch.allclose(model.prosody(changed)[1][0, middle], nearer), "the last unit of the context counts"


def test_state_is_a_value():
    vocoder, units = StreamingVocoder(MODELS["plain"]), units_of(40)
    _, state = vocoder.push(units[:20], vocoder.initial_state())
    kept = state.clone()
    expected, _ = vocoder.push(units[20:], kept)
    vocoder.push([1, 2, 3, 4, 5, 6, 7, 8], state)
    vocoder.finish(state)
    assert torch.equal(vocoder.push(units[20:], state)[0], expected)
    with pytest.raises(ValueError, match=f"unit {K} is out of range: this vocoder has K = {K} units"):
        vocoder.push([4, K], state)
    assert torch.equal(vocoder.push(units[20:], state)[0], expected)


def test_stacked_states_step_as_single_ones():
    model = MODELS["plain"]
    generator, frames = VocosStream(model), []
    for seed in range(3):
        frames.append(model.timed_frames(torch.tensor([units_of(60, seed)]), 0, 40)[:, :50])
    states = [generator.step(row[:, : 20 + 7 * i], generator.initial_state())[1] for i, row in enumerate(frames)]
    rest = torch.cat([row[:, 20 + 7 * i :][:, :16] for i, row in enumerate(frames)])
    together, after = generator.step(rest, VocosState.stack(states))
    for i, state in enumerate(states):
        alone, state = generator.step(rest[i : i + 1], state)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(generator.finish(after)[i], generator.finish(state)[0], atol=1e-5, rtol=0)


def test_batch_equals_each_alone():
    model = MODELS["plain"]
    frames = torch.cat([model.timed_frames(torch.tensor([units_of(60, s)]), 0, 40)[:, :40] for s in range(2)])
    with torch.inference_mode():
        torch.testing.assert_close(model.generate(frames)[1], model.generate(frames[1:])[0], atol=1e-5, rtol=0)


def test_a_long_stream_equals_the_whole_beyond_the_repetition_of_the_noise():
    model = make(coarse_blocks=0, fine_blocks=1)
    count = NOISE_FRAMES // 2 + 2 * BLOCK_FRAMES + 5
    frames = torch.stack([torch.arange(count) % K, 100 + 20 * torch.sin(torch.arange(count) / 9)], dim=1).unsqueeze(0)
    generator = VocosStream(model)
    samples, state = generator.step(frames, generator.initial_state())
    joined = torch.cat([samples, generator.finish(state)], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(joined, model.generate(frames), atol=1e-5, rtol=0)


def test_pitch_is_heard():
    """A filter that lets the pulses through: the wave repeats after one period, and with no pitch it does not."""
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.head.bias[2 * model.bins :] = -20
    for hz in (80.0, 200.0):
        frames = torch.tensor([[[1.0, hz]]]).expand(1, 40, 2)
        with torch.inference_mode():
            wave = model.generate(frames)[0, 1600:-1600].numpy()
        period = round(16000 / hz)
        assert np.corrcoef(wave[:-period], wave[period:])[0, 1] > 0.99
        assert abs(np.corrcoef(wave[: -period // 2], wave[period // 2 :])[0, 1]) < 0.5
    with torch.inference_mode():
        assert model.generate(torch.tensor([[[1.0, 0.0]]]).expand(1, 40, 2)).abs().max() < 1e-5


def test_pitch_classes_are_undone():
    hz = class_hz(torch.arange(TINY.pitch_classes + 1), TINY.pitch_classes)
    assert hz[0] == 0 and hz[1] == 60 and abs(float(hz[-1]) - 400) < 1e-3
    assert torch.equal(pitch_class(hz, TINY.pitch_classes), torch.arange(TINY.pitch_classes + 1))


def test_full_rate_units_get_a_pitch_and_their_own_length():
    model, units = MODELS["plain"], torch.tensor([[3, 3, 3, 5, 5, 7, 7, 7, 7, 1]])
    wave, durations = model(units, predict_durations=False)
    assert wave.shape == (1, 10 * model.config.hop_samples) and torch.equal(durations, torch.ones_like(units))
    frames = model.with_pitch(units)
    _, classes = model.prosody.predict(torch.tensor([[3, 5, 7, 1]]))
    hz = class_hz(classes[0], model.config.pitch_classes)
    assert torch.equal(frames[0, :, 0].long(), units[0])
    assert torch.equal(frames[0, [0, 2, 3, 6, 9], 1], hz[[0, 0, 1, 2, 3]])
    with pytest.raises(ValueError, match="one sequence at a time"):
        model(units.expand(2, -1))


def test_bfloat16_is_near():
    model, units = MODELS["plain"], units_of(40)
    vocoder = StreamingVocoder(model, dtype=torch.bfloat16)
    samples, state = vocoder.push(units, vocoder.initial_state())
    samples, expected = torch.cat([samples, vocoder.finish(state)]), whole(model, units)
    assert samples.dtype == torch.float32 and samples.shape == expected.shape
    error = (samples - expected).square().mean()
    assert 0 < error < 0.01 * expected.square().mean()


def test_saved_vocoder_is_read_back_with_its_kind(tmp_path):
    model, units = MODELS["plain"], units_of(30)
    save_vocoder(model, tmp_path)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["kind"] == "code_vocos"
    loaded = load_vocoder(tmp_path)
    assert isinstance(loaded, CodeVocos) and loaded.config == model.config and not loaded.training
    save_vocoder(loaded, tmp_path / "again")
    torch.testing.assert_close(whole(load_vocoder(tmp_path / "again"), units), whole(loaded, units), atol=0, rtol=0)
    assert loaded.head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.head.weight, model.head.weight, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps_per_unit": 3}, "multiple of steps_per_unit"),
        ({"fft_size": 480}, "even multiple"),
        ({"fft_size": 320}, "even multiple, at least 4"),
        ({"right_frames": 1}, "right_frames must be at least 2, got 1"),
        ({"left_frames": 1}, "left_frames must be at least 2, got 1"),
        ({"steps_per_unit": 1, "fft_size": 1280}, "windows may reach one unit back, not 480"),
        ({"dim": 0}, "dim must be at least 1, got 0"),
        ({"hidden_dim": 7.5}, "hidden_dim: expected a whole number, got 7.5"),
        ({"widht": 4}, "unknown option widht"),
    ],
)
def test_bad_config_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        VocosConfig.from_dict({**TINY.to_dict(), **change})


def test_wrong_files_are_named(tmp_path):
    save_vocoder(MODELS["plain"], tmp_path)
    path = tmp_path / CONFIG_FILE
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "num_embeddings": K + 1}))
    with pytest.raises(ConfigError, match=r"dict\.weight has shape \(20, 8\), the config says \(21, 8\)"):
        load_vocoder(tmp_path)
    path.write_text(json.dumps({**values, "kind": "code_wavenet"}))
    with pytest.raises(ConfigError, match=r"vocoder\.json: kind 'code_wavenet' is no vocoder of this program"):
        load_vocoder(tmp_path)
    path.write_text(json.dumps({"kind": "code_vocos"}))
    with pytest.raises(ConfigError, match="not a code_vocos config"):
        load_vocoder(tmp_path)


def test_outside_is_no_unit():
    assert OUTSIDE < 0
    with pytest.raises(ValueError, match="unit -1 is out of range"):
        MODELS["plain"].generate(torch.tensor([[[OUTSIDE, 0.0]]]))
