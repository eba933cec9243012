"""Whisper's units: silence leads in and out and leaves no trace; long waves are read in windows that overlap."""

import numpy as np
import pytest

from echostream_plugin.data.unit_models import (
    _POSITIONS,
    LEAD_IN,
    LEAD_OUT,
    UnitModel,
    WhisperFeatures,
    _position_offset,
)
from echostream_plugin.data.units import UNIT_SAMPLES


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


def test_offset_covers_a_window():
    stub = Stub()
    offset = _position_offset(stub, [steps(50)], iter)
    assert offset.shape == (stub.window, 3)
    np.testing.assert_allclose(offset[20:-20, 2], np.arange(LEAD_IN + 20, LEAD_IN + len(offset) - 20), atol=1e-3)
