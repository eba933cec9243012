"""Packed convolutions equal torch's, minimal filters included."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from echostream_plugin.modules.lengths import bucket
from echostream_plugin.vocoder import convolution
from echostream_plugin.vocoder.convolution import Convolution, MinimalConvolution, minimal_filter, pack, pack_transposed
from echostream_plugin.vocoder.generator import StreamingGenerator
from tests.tiny_bundle import tiny_vocoder


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(
    kind=st.sampled_from([Convolution, MinimalConvolution]),
    kernel=st.integers(1, 13),
    dilation=st.integers(1, 5),
    length=st.integers(1, 70),
    streams=st.integers(1, 3),
    channels=st.sampled_from([(1, 3), (5, 1), (4, 4), (7, 2)]),
)
def test_convolution_equals_torchs(kind, kernel, dilation, length, streams, channels):
    channels_in, channels_out = channels
    weight, bias = random(channels_out, channels_in, kernel), random(channels_out, seed=1)
    x = random(streams, length + (kernel - 1) * dilation, channels_in, seed=2)
    expected = F.conv1d(x.transpose(1, 2), weight, bias, dilation=dilation).transpose(1, 2)
    torch.testing.assert_close(kind(weight, bias, dilation)(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_minimal_filter_is_exact(size):
    outputs, filters, inputs = minimal_filter(size)
    taps, x = random(size).double(), random(2 * size - 1, seed=1).double()
    expected = torch.stack([taps @ x[i : i + size] for i in range(size)])
    torch.testing.assert_close(outputs @ ((filters @ taps) * (inputs @ x)), expected)


def test_rounding_of_minimal_filters_is_small():
    """Over a layer of real width, against float64: a few times the rounding of a plain convolution."""
    weight, bias, x = random(128, 128, 11) / (128 * 11) ** 0.5, random(128, seed=1), random(1, 300, 128, seed=2)
    exact = F.conv1d(x.transpose(1, 2).double(), weight.double(), bias.double(), dilation=3).transpose(1, 2)
    plain = (Convolution(weight, bias, 3)(x) - exact).abs().max()
    minimal = (MinimalConvolution(weight, bias, 3)(x) - exact).abs().max()
    assert plain < 2e-5 and minimal < 6e-5


@pytest.mark.parametrize(("kernel", "rate"), [(11, 5), (8, 4), (4, 4), (4, 2), (8, 2), (3, 1)])
def test_transposed_convolution_is_a_plain_one(kernel, rate):
    torch.manual_seed(0)
    conv, x = nn.ConvTranspose1d(6, 3, kernel, rate), random(2, 9, 6)
    packed = pack_transposed(conv)
    with torch.no_grad():
        expected = conv(x.transpose(1, 2)).transpose(1, 2)
        padded = F.pad(x, (0, 0, packed.span, packed.span))
        y = packed(padded).reshape(2, -1, 3)
    torch.testing.assert_close(y[:, : expected.size(1)], expected, atol=1e-5, rtol=1e-5)


def test_pack_chooses_minimal_filters_for_long_kernels_and_many_channels_in_float32():
    long, short, few = nn.Conv1d(64, 64, 7), nn.Conv1d(64, 64, 3), nn.Conv1d(32, 32, 11)
    assert type(pack(long)) is MinimalConvolution
    for conv, dtype in ((short, torch.float32), (few, torch.float32), (long, torch.bfloat16)):
        assert type(pack(conv, dtype)) is Convolution


def test_without_onednn_torchs_own_convolution_is_used(monkeypatch):
    weight, bias, x = random(4, 3, 5), random(4), random(2, 30, 3)
    prepacked = Convolution(weight, bias, 2)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = Convolution(weight, bias, 2)
    assert plain.prepacked is None
    torch.testing.assert_close(plain(x), prepacked(x), atol=1e-5, rtol=1e-5)


def test_pack_scales_the_input():
    conv, x = nn.Conv1d(3, 2, 3, dilation=2), random(1, 20, 3)
    with torch.no_grad():
        torch.testing.assert_close(pack(conv, scale=0.5)(x), conv(0.5 * x.transpose(1, 2)).transpose(1, 2))


def test_few_lengths_are_computed():
    lengths = range(1, 49)
    assert all(length <= bucket(length) <= 1.25 * length for length in lengths)
    assert len({bucket(length) for length in lengths}) == 18
    assert {bucket(length, 320) for length in range(320, 48 * 320 + 1)} == {320 * bucket(n) for n in lengths}


def test_a_stream_of_any_pushes_has_few_shapes(monkeypatch):
    """oneDNN keeps a kernel for each; the last convolution of the generator has the most."""
    seen, prepack = {}, convolution._prepack

    def noting(weight, bias, dilation):
        convolve, shapes = prepack(weight, bias, dilation), seen.setdefault(len(seen), set())

        def noted(image):
            shapes.add(image.shape)
            return convolve(image)

        return noted if convolve else None

    monkeypatch.setattr(convolution, "_prepack", noting)
    vocoder = tiny_vocoder()
    generator, pushes = StreamingGenerator(vocoder), torch.Generator().manual_seed(0)
    for _utterance in range(12):
        state = generator.initial_state()
        for _ in range(10):
            frames = torch.randint(20, (1, int(torch.randint(1, 49, (1,), generator=pushes))), generator=pushes)
            _, state = generator.step(frames, state)
        generator.finish(state)
    assert seen and max(map(len, seen.values())) <= 30  # of some fifty lengths
