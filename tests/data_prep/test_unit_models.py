"""Whisper's units: silence leads in and out and leaves no trace; long waves are read in windows that overlap."""

import numpy as np
import pytest

from echostream_plugin.constants import UNIT_SAMPLES
from echostream_plugin.data.unit_models import (
    _POSITIONS,
    LEAD_IN,
    LEAD_OUT,
    LogMelFeatures,
    UnitModel,
    WhisperFeatures,
    _position_offset,
    fit_units,
    mel_matrix,
)


class Stub(WhisperFeatures):
    """In place of the encoder: each unit's mean, what its neighbours sum to, and its position."""

    def __init__(self):
        self.heard = []
        self._set_lead_in(LEAD_IN)

    def _encode(self, wave):
        assert wave.size <= _POSITIONS * UNIT_SAMPLES, "longer than the encoder's input"
        self.heard.append(wave)
        means = wave.reshape(-1, UNIT_SAMPLES).mean(1)
        around = np.convolve(np.pad(means, 5), np.ones(11), "valid")
        return np.stack([means, around, np.arange(len(means))], axis=1).astype(np.float32)


def steps(units):
    """A wave whose unit i has the value i + 1."""
    return np.repeat(np.arange(1, units + 1, dtype=np.float32), UNIT_SAMPLES)


@pytest.mark.parametrize("units", [1, 7, 400])
def test_silence_leads_in_and_out_and_is_dropped(units):
    stub = Stub()
    features = stub(steps(units))
    (heard,) = stub.heard
    assert heard.size == (LEAD_IN + units + LEAD_OUT) * UNIT_SAMPLES
    assert not heard[: LEAD_IN * UNIT_SAMPLES].any() and not heard[-LEAD_OUT * UNIT_SAMPLES :].any()
    np.testing.assert_array_equal(features[:, 0], np.arange(1, units + 1))
    assert features[0, 2] == LEAD_IN, "the first unit of a wave is never the encoder's first position"


def test_windows_of_a_long_wave_join_without_a_seam():
    stub = Stub()
    units = 2 * stub.window + 100
    features = stub(steps(units))
    assert len(stub.heard) == 3
    means = np.arange(1, units + 1, dtype=np.float64)
    np.testing.assert_array_equal(features[:, 0], means)
    np.testing.assert_allclose(features[:, 1], np.convolve(np.pad(means, 5), np.ones(11), "valid"), rtol=1e-5)


def test_position_is_taken_away_in_every_window():
    """A position's share is the same in each window, so that the same sound is the same unit in both."""
    stub = Stub()
    wave = np.tile(steps(5), stub.window // 5 * 2 + 3)
    share = np.arange(LEAD_IN, LEAD_IN + stub.window)
    offset = np.stack([np.zeros_like(share), np.zeros_like(share), share], axis=1).astype(np.float32)
    model = UnitModel(offset, np.eye(3, dtype=np.float32), np.zeros((1, 3), np.float32))
    assert np.abs(model.project(stub(wave))[:, 2]).max() == 0


def test_a_logmel_window_is_centred_on_its_unit():
    """Two clicks as far before as after the middle of a unit are heard alike, and by that unit's window alone."""
    heard = []
    for place in (5 * UNIT_SAMPLES + 60, 5 * UNIT_SAMPLES + 260):
        wave = np.zeros(12 * UNIT_SAMPLES, np.float32)
        wave[place] = 0.5
        heard.append(LogMelFeatures()(wave))
    own, (quiet, loud) = slice(80, 160), np.sort(np.unique(heard[0][:, 80:160].sum(1)))[[0, -1]]
    assert heard[0].shape == (12, 240) and heard[0][:, own].sum(1).argmax() == 5 and loud > quiet
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-3)
    np.testing.assert_array_equal(heard[0][1:, :80], heard[0][:-1, own])
    np.testing.assert_array_equal(heard[0][:-1, 160:], heard[0][1:, own])


def test_mel_filters_are_triangles():
    mel = mel_matrix(80, 512, 16000)
    assert mel.shape == (80, 257) and mel.min() == 0 and 0.5 < mel.max() <= 1 and (mel.sum(1) > 0).all()
    assert ((mel > 0).sum(0) <= 2).all(), "no more than two filters hear a frequency"


def test_features_are_smoothed_over_three_frames():
    model = UnitModel(np.float32([[1, 0]]), np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32))
    features = np.float32([[1, 0], [1, 0], [5, 0], [1, 0], [1, 8]])
    np.testing.assert_allclose(model.project(features), [[0, 0], [1, 0], [2, 0], [1, 2], [0, 6]])


def test_fitted_units_follow_the_directions_of_most_variance():
    """Three axes of deviation 16, 4 and 1: two are kept, the loudest first, each at the square root of its own."""
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(400, 3)).astype(np.float32).cumsum(0) * (1, 16, 4) for _ in range(3)]
    clips = [np.repeat(clip[::40] - clip.mean(0), 40, axis=0).astype(np.float32) for clip in clips]

    class Given:
        name, __call__ = "given", staticmethod(lambda clip: clip)

    model = fit_units(Given(), clips, 6, 0, dims=2)
    centred = np.concatenate([model.project(clip) for clip in clips])
    shares = np.abs(model.projection[:, 0])
    assert model.centroids.shape == (6, 2) and shares[1] > 3 * max(shares[0], shares[2])
    everything = np.concatenate(clips).astype(np.float64)
    loudest = np.sqrt(np.linalg.eigvalsh(np.cov(everything, rowvar=False))[::-1][:2])
    np.testing.assert_allclose(centred.std(0), np.sqrt(loudest), rtol=0.05)


def test_offset_covers_a_window():
    stub = Stub()
    offset = _position_offset(stub, [steps(50)], iter)
    assert offset.shape == (stub.window, 3)
    np.testing.assert_allclose(offset[20:-20, 2], np.arange(LEAD_IN + 20, LEAD_IN + len(offset) - 20), atol=1e-3)


def test_offset_is_the_mean_of_all_windows():
    stub = Stub()
    halves = np.repeat(np.float32([1, 3]), stub.window * UNIT_SAMPLES)
    np.testing.assert_allclose(_position_offset(stub, [halves], iter)[:, 0], 2)
