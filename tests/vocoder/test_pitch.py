"""Pitch is measured as it was made, and pulses have it, in one piece or in many."""

import numpy as np
import pytest
import torch

from echostream_plugin.vocoder.pitch import measure_pitch, pulses

HOP, RATE = 320, 16000


def voice(hz, seed=0):
    """Pulses at a pitch [T] of each hop, through a resonance, with some noise."""
    wave, _ = pulses(torch.tensor([[hz[0], *hz]]), torch.zeros(1, dtype=torch.float64), HOP, RATE)
    time = np.arange(400) / RATE
    resonance = np.exp(-400 * time) * np.sin(2 * np.pi * 700 * time)
    wave = np.convolve(wave[0].numpy(), resonance)[: len(hz) * HOP]
    return (0.1 * wave + 0.001 * np.random.default_rng(seed).standard_normal(len(wave))).astype(np.float32)


@pytest.mark.parametrize("low, high", [(70, 90), (110, 150), (220, 330)])
def test_pitch_is_measured_as_it_was_made(low, high):
    hz = np.linspace(low, high, 50, dtype=np.float32)
    found = measure_pitch(voice(hz), HOP, RATE)
    assert found.shape == (50,)
    np.testing.assert_allclose(found[3:-3], hz[3:-3], rtol=0.02)


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(40 * HOP).astype(np.float32)
    assert (measure_pitch(noise, HOP, RATE) == 0).mean() > 0.9
    assert (measure_pitch(np.zeros(40 * HOP, np.float32), HOP, RATE) == 0).all()
    assert measure_pitch(np.zeros(0, np.float32), HOP, RATE).shape == (0,)


def test_voiced_parts_are_found_where_they_are():
    hz = np.full(60, 120, np.float32)
    hz[20:40] = 0
    found = measure_pitch(voice(hz), HOP, RATE)
    assert (found[3:17] > 0).all() and (found[23:37] == 0).all() and (found[43:57] > 0).all()


def test_pulses_in_pieces_are_the_pulses_at_once():
    hz = torch.tensor([[100.0, 110, 0, 0, 90, 95, 200, 190, 60, 0, 130]])
    start = torch.tensor([0.3], dtype=torch.float64)
    whole, phases = pulses(hz, start, HOP, RATE)
    first, middle = pulses(hz[:, :5], start, HOP, RATE)
    second, last = pulses(hz[:, 4:], middle[:, -1], HOP, RATE)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(last[:, -1], phases[:, -1], atol=1e-9, rtol=0)
    silent = whole.unflatten(1, (-1, HOP))[0, [1, 2, 8]]
    assert (silent == 0).all()


def test_pulses_hold_all_harmonics_with_power_one():
    wave, _ = pulses(torch.full((1, 51), 100.0), torch.zeros(1, dtype=torch.float64), HOP, RATE)
    spectrum = np.abs(np.fft.rfft(wave[0].numpy()[:RATE]))
    harmonics = spectrum[100:7601:100]
    assert harmonics.min() > 0.99 * harmonics.max() and spectrum[7700:].max() < 0.01 * harmonics.max()
    assert abs(float(wave.square().mean()) - 1) < 0.01
