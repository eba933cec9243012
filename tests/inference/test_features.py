"""Features cut into pieces are those of the whole, and those that training computes."""

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.inference import resample
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.features import Frontend, features_of, to_mono
from echostream_plugin.inference.frontends.kaldi import StreamingFbank, frame_count
from echostream_plugin.inference.resample import StreamingResampler

MEAN, STD = np.full(80, 10.0, dtype=np.float32), np.full(80, 4.0, dtype=np.float32)


def noise(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))).astype(np.float32)


def cut(samples, sizes):
    """The samples in pieces of the given sizes, the sizes used over and over."""
    start, turn = 0, 0
    while start < len(samples):
        yield samples[start : start + sizes[turn % len(sizes)]]
        start += sizes[turn % len(sizes)]
        turn += 1


@settings(max_examples=10)
@given(st.lists(st.integers(16, 12000), min_size=1, max_size=6), st.sampled_from([8000, 16000, 22050, 44100, 48000]))
def test_features_are_the_same_for_any_cutting(sizes, rate):
    samples = noise(0.4, rate)
    frontend = Frontend(rate, MEAN, STD)
    pieces = [frontend.push(piece) for piece in cut(samples, sizes)] + [frontend.finish()]
    whole = features_of(samples, rate, MEAN, STD)
    assert np.concatenate(pieces).shape == whole.shape
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)


def test_filter_bank_is_the_one_of_training():
    samples = noise(1.03)
    ours = StreamingFbank().push(samples)
    theirs = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(samples)[None] * 2**15, num_mel_bins=80, sample_frequency=16000.0, dither=0.0
    )
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)


def test_features_equal_fairseq():
    audio_utils = pytest.importorskip("fairseq.data.audio.audio_utils")
    samples = noise(0.5)
    theirs = audio_utils._get_torchaudio_fbank(samples[None] * 2**15, 16000, 80)
    np.testing.assert_allclose(StreamingFbank().push(samples), theirs, atol=1e-3)


@pytest.mark.parametrize("samples, frames", [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (5120, 30), (10240, 62)])
def test_frame_count(samples, frames):
    assert frame_count(samples) == frames
    assert len(StreamingFbank().push(noise(1)[:samples])) == frames


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000])
def test_resampler_agrees_with_torchaudio_and_hands_out_early(rate):
    time = np.arange(rate) / rate
    samples = sum(np.sin(2 * np.pi * hz * time + hz) for hz in (90, 440, 1230, 3100)).astype(np.float32) / 8
    resampler = StreamingResampler(rate)
    first = resampler.push(samples)
    assert 16000 - len(first) <= 130  # 8 ms
    ours = np.concatenate([first, resampler.finish()])
    theirs = torchaudio.functional.resample(
        torch.from_numpy(samples),
        rate,
        16000,
        lowpass_filter_width=64,
        rolloff=0.96,
        resampling_method="sinc_interp_kaiser",
    )
    assert len(ours) == len(theirs) == 16000
    np.testing.assert_allclose(ours[200:-200], theirs.numpy()[200:-200], atol=1e-3)


def test_resampler_removes_what_16_khz_cannot_hold():
    time = np.arange(48000) / 48000
    resampler = StreamingResampler(48000)
    alias = resampler.push(np.sin(2 * np.pi * 11000 * time).astype(np.float32))
    assert np.abs(alias[200:]).max() < 1e-3


def test_long_push_needs_no_more_than_blocks():
    resampler = StreamingResampler(48000)
    resampler.push(noise(10, 48000))
    assert resampler.held.size < 1000


def test_mono():
    stereo = np.stack([np.full(5, 0.5), np.full(5, -0.25)], axis=1)
    np.testing.assert_allclose(to_mono(stereo), np.full(5, 0.125))
    np.testing.assert_allclose(to_mono(np.array([-32768, 16384], dtype=np.int16)), [-1.0, 0.5])
    np.testing.assert_allclose(to_mono([[0.5, 0.0]]), [0.25])
    np.testing.assert_allclose(to_mono(torch.tensor([0.5, 0.0])), [0.5, 0.0])
    assert to_mono([]).shape == (0,) and to_mono(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    "samples, words",
    [
        ([0.1, float("nan"), 0.2], "position 1 of 3"),
        ([float("inf")], "not a finite number"),
        (np.zeros((2, 1000), dtype=np.float32), "transpose"),
        (np.zeros((3, 2, 1), dtype=np.float32), "shape"),
        (np.array(["a"]), "is not audio"),
        (np.zeros(4, dtype=np.uint8), "is not audio"),
        (np.full(4, 20000.0), "scale them"),
        ([[0.1], [0.2, 0.3]], "cannot be read"),
    ],
)
def test_what_is_not_audio_is_refused(samples, words):
    with pytest.raises(InputError, match=words):
        to_mono(samples)


AWKWARD = (4001, 16001, 44101, 383999)


@pytest.mark.parametrize("rate", AWKWARD)
def test_awkward_rates_take_a_bounded_table_and_any_cutting(rate):
    samples, generator = noise(0.1, rate), np.random.default_rng(rate)
    whole, cut = StreamingResampler(rate), StreamingResampler(rate)
    expected = np.concatenate([whole.push(samples), whole.finish()])
    places = np.sort(generator.integers(0, len(samples), 20))
    pieces = [cut.push(piece) for piece in np.split(samples, places)] + [cut.finish()]
    np.testing.assert_array_equal(np.concatenate(pieces), expected)
    assert whole.kernels.nbytes < 8 * 2**20 and len(expected) == -(-len(samples) * 16000 // rate)


def test_an_interpolated_table_is_as_good_as_all_kernels(monkeypatch):
    samples = noise(0.2, 16001)
    table = StreamingResampler(16001)
    ours = np.concatenate([table.push(samples), table.finish()])
    assert len(table.kernels) == resample.PHASES + 1
    monkeypatch.setattr(resample, "TABLE_VALUES", 10**9)
    resample._kernels.cache_clear()
    bank = StreamingResampler(16001)
    theirs = np.concatenate([bank.push(samples), bank.finish()])
    resample._kernels.cache_clear()
    assert len(bank.kernels) == 16000
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 176400, 192000, 384000])
def test_common_rates_have_every_kernel(rate):
    resampler = StreamingResampler(rate)
    assert len(resampler.kernels) == resampler.up


@pytest.mark.parametrize("rate", AWKWARD)
def test_a_snapshot_goes_on_at_awkward_rates(rate):
    samples = noise(0.4, rate)
    pieces = np.array_split(samples, 5)
    frontend = Frontend(rate, MEAN, STD)
    expected = [frontend.push(piece) for piece in pieces] + [frontend.finish()]
    first, second = Frontend(rate, MEAN, STD), Frontend(rate, MEAN, STD)
    for piece in pieces[:2]:
        first.push(piece)
    second.restore(first.snapshot())
    for got, wanted in zip([*(second.push(p) for p in pieces[2:]), second.finish()], expected[2:], strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("rate", [0, 100, 3999, 384001, 16000.5, float("nan"), float("inf"), "16000", None])
def test_every_front_end_checks_the_rate(rate):
    with pytest.raises(InputError, match="expected a whole number from 4000 to 384000"):
        features_of(np.zeros(1000, dtype=np.float32), rate, MEAN, STD)
