"""Pitch: the fundamental frequency of speech, measured for training, and the pulses that carry it in `code_vocos`."""

import math

import numpy as np
import torch
from torch import Tensor

LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
VOICED_STRENGTH = 0.5  # of the normalised autocorrelation, above which a frame is voiced
OCTAVE_COST = 0.03  # a period twice as long correlates as well: the shorter one shall win
CHANGE_COST, SWITCH_COST = 0.7, 0.14  # of an octave between neighbours; of voiced beside unvoiced
HIGHEST_HARMONIC_HZ = 7600.0


def measure_pitch(wave: np.ndarray, hop: int, rate: int) -> np.ndarray:
    """wave: [T * hop]; the fundamental in Hz at the end of each hop [T], 0 where there is none.

    Normalised autocorrelation with the window's own divided out and the best path through its peaks (Boersma 1993)."""
    frames, window = len(wave) // hop, 2 * int(1.5 * rate / LOWEST_HZ)
    if frames == 0:
        return np.zeros(0, np.float32)
    padded = np.pad(np.asarray(wave, np.float32), (window // 2, window))
    starts = hop * (1 + np.arange(frames))[:, None]
    taper = np.hanning(window).astype(np.float32)
    pieces = padded[starts + np.arange(window)]
    pieces = pieces - pieces.mean(1, keepdims=True)
    shortest, longest = int(rate / HIGHEST_HZ), int(rate / LOWEST_HZ) + 1
    correlation = _autocorrelation(pieces * taper, longest + 2) / _autocorrelation(taper[None], longest + 2)
    loudness = np.abs(pieces).max(1) / max(1e-6, float(np.abs(wave).max()))
    lags, strengths = _peaks(correlation, shortest, longest)
    strengths = np.where(loudness[:, None] > 0.02, strengths, 0)
    return _best_path(lags / rate, strengths).astype(np.float32)


def _autocorrelation(x: np.ndarray, lags: int) -> np.ndarray:
    """x: [T, n]; [T, lags], 1 at lag 0."""
    size = 1 << (x.shape[1] + lags - 1).bit_length()
    values = np.fft.irfft(np.abs(np.fft.rfft(x, size)) ** 2, size)[:, :lags]
    return values / np.maximum(values[:, :1], 1e-9)


def _peaks(correlation: np.ndarray, shortest: int, longest: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """The strongest maxima of each row: lags [T, count] between samples, and their heights (0: no such maximum)."""
    left, middle, right = (correlation[:, shortest + i : longest + i] for i in (-1, 0, 1))
    curvature = np.minimum(left - 2 * middle + right, -1e-9)
    shift = 0.5 * (left - right) / curvature
    heights = np.where((middle >= left) & (middle > right), middle - 0.25 * (left - right) * shift, 0)
    heights = np.clip(heights, 0, 1)
    best = np.argsort(-heights, axis=1)[:, :count]
    lags = shortest + best + np.clip(np.take_along_axis(shift, best, 1), -0.5, 0.5)
    return lags, np.take_along_axis(heights, best, 1)


def _best_path(periods: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """periods: [T, n] in seconds; strengths: [T, n]; Hz [T] of the path that is strong and does not jump."""
    octaves = np.log2(1 / periods)
    voiced = np.where(strengths > 0, strengths + OCTAVE_COST * (octaves - math.log2(LOWEST_HZ)), -9)
    scores = np.concatenate([np.full((len(periods), 1), VOICED_STRENGTH), voiced], axis=1)
    total, steps = scores[0], []
    for before, now, gain in zip(octaves[:-1], octaves[1:], scores[1:], strict=True):
        cost = np.full((len(gain), len(gain)), SWITCH_COST)
        cost[0, 0] = 0
        cost[1:, 1:] = CHANGE_COST * np.abs(now[:, None] - before[None])
        reached = total[None] - cost
        steps.append(reached.argmax(1))
        total = reached.max(1) + gain
    path = [int(total.argmax())]
    for step in reversed(steps):
        path.append(int(step[path[-1]]))
    chosen = np.array(path[::-1])
    rows = np.arange(len(chosen))
    return np.where(chosen == 0, 0, 1 / periods[rows, np.maximum(chosen - 1, 0)])


def pulses(pitch: Tensor, phase: Tensor, hop: int, rate: int) -> tuple[Tensor, Tensor]:
    """A train of pulses: all harmonics below 7.6 kHz in phase, power 1, silent where there is no pitch.

    pitch: [B, T + 1] Hz at the end of each hop (the first one is the hop's before), 0: unvoiced; phase: [B] float64
    cycles before the first hop. Returns float32 [B, T * hop], and the phase [B, T] after each hop. Pitch runs in a
    straight line from one hop's end to the next. Float64, so that joined pieces are the whole to rounding."""
    after = pitch[:, 1:].double()
    before = torch.where(pitch[:, :-1] > 0, pitch[:, :-1].double(), after)
    along = torch.arange(1, hop + 1, dtype=torch.float64, device=pitch.device) / hop
    hz = before.unsqueeze(2) + (after - before).unsqueeze(2) * along
    hz = torch.where(after.unsqueeze(2) > 0, hz, 0)  # [B, T, hop]
    cycles = (phase.view(-1, 1) + hz.flatten(1).cumsum(1) / rate).view_as(hz)
    harmonics = torch.floor(HIGHEST_HARMONIC_HZ / torch.maximum(before, after).clamp(min=1)).clamp(min=1).unsqueeze(2)
    half = math.pi * torch.remainder(cycles, 1.0)
    # Dirichlet's kernel: the sum of cos(k x) for k = 1..N is sin((2 N + 1) x / 2) / (2 sin(x / 2)) - 1 / 2
    below = torch.sin(half)
    ratio = torch.sin((2 * harmonics + 1) * half) / torch.where(below.abs() < 1e-9, 1.0, below)
    summed = 0.5 * torch.where(below.abs() < 1e-9, 2 * harmonics + 1, ratio) - 0.5
    wave = torch.where(hz > 0, summed * torch.sqrt(2 / harmonics), 0)
    return wave.flatten(1).float(), torch.remainder(cycles[:, :, -1], 1.0)
