"""Several channels to one, for any cutting."""

import numpy as np
import pytest

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.downmix import Downmix
from echostream_plugin.inference.features import Frontend, to_mono
from tests.tiny_bundle import speechlike

RATE = 16000


def stereo(*seconds_and_gains):
    """Speech in two channels with gains that change: ((seconds, left, right), ...)."""
    parts = []
    for seed, (seconds, left, right) in enumerate(seconds_and_gains):
        speech = speechlike(seconds, RATE, seed)
        parts.append(np.stack([left * speech, right * speech], axis=1))
    return np.concatenate(parts)


MIXED = stereo((1.0, 1, 1), (1.5, 1, -1), (1.5, 1, 1), (1.0, 0.8, -1), (1.0, 1, 0))


def energy(samples):
    return float(np.square(samples, dtype=np.float64).sum())


@pytest.mark.parametrize("left, right", [(1, -1), (-0.9, 1), (0.5, -0.4)])
def test_opposite_phase_is_heard(left, right):
    both = stereo((2.0, left, right))
    louder = both[:, int(abs(right) > abs(left))]
    assert energy(both.mean(axis=1)) < 0.05 * energy(louder)
    mono = to_mono(both)
    np.testing.assert_array_equal(mono[800:], louder[800:])  # known after the first 10 ms that sound


@pytest.mark.parametrize("left, right", [(1, 1), (1, 0), (0.3, 1), (1, -0.4)])
def test_what_the_mean_keeps_is_the_mean(left, right):
    both = stereo((2.0, left, right))
    np.testing.assert_array_equal(to_mono(both), both.mean(axis=1))


def test_independent_channels_are_averaged():
    both = np.stack([speechlike(2.0, seed=seed) for seed in range(8)], axis=1)
    np.testing.assert_allclose(to_mono(both), both.mean(axis=1), atol=1e-7)
    one = np.zeros((16000, 8), dtype=np.float32)
    one[:, 3] = speechlike(1.0)
    np.testing.assert_allclose(to_mono(one), one[:, 3] / 8)


def test_the_mean_is_taken_again_when_it_is_whole():
    mono = to_mono(MIXED)
    np.testing.assert_array_equal(mono[:16000], MIXED[:16000].mean(axis=1))
    assert energy(mono[30000:40000]) > 0.9 * energy(MIXED[30000:40000, 0])
    np.testing.assert_array_equal(mono[60000:64000], MIXED[60000:64000].mean(axis=1))
    assert energy(mono[76000:80000]) > 0.9 * energy(MIXED[76000:80000, 1])


@pytest.mark.parametrize("seed", range(5))
def test_any_cutting_gives_the_same_samples(seed):
    generator = np.random.default_rng(seed)
    cuts = np.sort(generator.integers(0, len(MIXED), generator.integers(1, 400)))
    downmix = Downmix(RATE)
    pieces = [downmix.push(piece) for piece in np.split(MIXED, cuts)]
    np.testing.assert_array_equal(np.concatenate(pieces), to_mono(MIXED, RATE))


def test_a_stream_that_is_taken_up_goes_on(tmp_path):
    mean, std = np.zeros(80, dtype=np.float32), np.ones(80, dtype=np.float32)
    whole, first, second = (Frontend(RATE, mean, std) for _ in range(3))
    expected = whole.push(MIXED[:40123]), whole.push(MIXED[40123:])
    np.testing.assert_array_equal(first.push(MIXED[:40123]), expected[0])
    snapshot.save(tmp_path / "s", first.snapshot())
    second.restore(snapshot.load(tmp_path / "s"))
    np.testing.assert_array_equal(second.push(MIXED[40123:]), expected[1])


def test_another_number_of_channels_begins_anew():
    downmix = Downmix(RATE)
    both = stereo((1.0, 1, -1))
    downmix.push(both)
    np.testing.assert_array_equal(downmix.push(both[:, 0]), both[:, 0])
    assert not downmix.push(both[:160]).any()  # the mean, until it is known to be lost
