"""Filtered pulses and noise, by short-time spectra: the part of `code_vocos` that has no parameters."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.vocoder.pitch import pulses
from echostream_plugin.vocoder.vocos_config import VocosConfig

NOISE_FRAMES = 512  # spectra of noise before it repeats: 5 s
LOUDEST = 4.0  # bound of a filter's log magnitude


class Synthesis(nn.Module):
    """Sources, filters and the inverse STFT. Spectra [B, T, bins], `steps_per_unit` for each frame of 20 ms."""

    def __init__(self, config: VocosConfig):
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.fft_size, device="cpu"), persistent=False)
        self.register_buffer("noise", noise_spectra(config), persistent=False)

    def pulses(self, pitch: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """pitch: [B, f + 4] Hz of two frames more on either side, into which windows reach; phase: [B] before the
        second of these. Returns complex spectra [B, f * steps, bins] and the phase for the frames that follow."""
        c, count = self.config, pitch.size(1) - 4
        wave, phases = pulses(pitch, phase, c.hop_samples, c.sampling_rate)
        windows = wave[:, c.hop_samples - c.lead_samples :].unfold(1, c.fft_size, c.step_samples)
        return torch.fft.rfft(windows[:, : count * c.steps_per_unit] * self.window), phases[:, count - 1]

    def noises(self, place: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """place: [B] in the table; returns its next spectra [B, count, bins], and the place after them."""
        steps = torch.arange(count, device=place.device)
        return self.noise[(place.unsqueeze(1) + steps) % NOISE_FRAMES], (place + count) % NOISE_FRAMES

    def filtered(self, x: Tensor, pulse: Tensor, noise: Tensor) -> Tensor:
        """x: [B, T, 3 * bins], log magnitude and phase of the pulses' filter, log magnitude of the noise's."""
        loud, angle, rough = x.float().chunk(3, dim=2)
        pulse_filter = torch.polar(torch.exp(loud.clamp(max=LOUDEST)), angle)
        return pulse * pulse_filter + noise * torch.exp(rough.clamp(max=LOUDEST))

    def overlap_add(self, spectra: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """tail: [B, fft_size - step] sums of earlier windows; returns samples [B, T * step] and the next tail."""
        c, count = self.config, spectra.size(1)
        # squared Hann windows, for analysis and synthesis, sum to 3/8 of the overlap
        pieces = torch.fft.irfft(spectra, c.fft_size) * (self.window / (0.375 * c.overlap))
        pieces = pieces.unflatten(2, (c.overlap, c.step_samples))
        out = F.pad(tail, (0, count * c.step_samples)).unflatten(1, (-1, c.step_samples))
        out = out + sum(F.pad(pieces[:, :, i], (0, 0, i, c.overlap - 1 - i)) for i in range(c.overlap))
        out = out.flatten(1)
        return out[:, : count * c.step_samples], out[:, count * c.step_samples :]


def noise_spectra(config: VocosConfig) -> Tensor:
    """Spectra of white noise of power 1, one a step, complex [NOISE_FRAMES, bins]; the noise repeats without a seam."""
    step = config.step_samples
    wave = np.random.default_rng(0).standard_normal(NOISE_FRAMES * step).astype(np.float32)
    wave = torch.from_numpy(np.concatenate([wave, wave[: config.fft_size - step]]))
    return torch.fft.rfft(wave.unfold(0, config.fft_size, step) * torch.hann_window(config.fft_size, device="cpu"))
