"""Spectral losses of vocoder training and the mel distance that validation reports."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_filters(n_fft: int, mels: int, sample_rate: int) -> Tensor:
    """Triangular filters on the HTK mel scale from 0 Hz to half the sample rate: [n_fft / 2 + 1, mels]."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2) / 2595) - 1)
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1).unsqueeze(1)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


class SpectralLoss(nn.Module):
    """Log-mel L1 and linear-frequency STFT losses at several resolutions."""

    def __init__(self, sample_rate: int, n_ffts: tuple = (256, 512, 1024), mels: tuple = (32, 64, 80)):
        super().__init__()
        self.n_ffts = n_ffts
        for n_fft, n_mels in zip(n_ffts, mels, strict=True):
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"filters{n_fft}", mel_filters(n_fft, n_mels, sample_rate), persistent=False)

    def forward(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """fake, real: [B, N]; returns the means over resolutions of the log-mel L1 and of the STFT loss
        (spectral convergence plus log magnitude L1, arXiv 1910.11480)."""
        mel, stft = [], []
        for n_fft in self.n_ffts:
            magnitudes = self._magnitude(torch.cat([fake, real]), n_fft)
            log_mel = torch.log((magnitudes @ getattr(self, f"filters{n_fft}")).clamp(min=1e-4))
            mel.append(F.l1_loss(*log_mel.chunk(2)))
            ours, wanted = magnitudes.chunk(2)
            convergence = torch.linalg.norm(wanted - ours) / torch.linalg.norm(wanted).clamp(min=1e-3)
            stft.append(convergence + F.l1_loss(torch.log(ours + 1e-3), torch.log(wanted + 1e-3)))
        return sum(mel) / len(mel), sum(stft) / len(stft)

    def _magnitude(self, wav: Tensor, n_fft: int) -> Tensor:
        """[B, N] -> [B, frames, bins]"""
        window = getattr(self, f"window{n_fft}")
        spectrum = torch.stft(wav, n_fft, n_fft // 4, window=window, return_complex=True)
        # the gradient of abs() at zero is not defined, and silence has exact zeros
        return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9).transpose(1, 2)


def mel_distance(fake: Tensor, real: Tensor, sample_rate: int) -> float:
    """L1 distance of 80-bin natural-log mel spectra (1024 window, 256 hop) of two waveforms [N], cut to the shorter."""
    n = min(fake.numel(), real.numel())
    loss = SpectralLoss(sample_rate, (1024,), (80,)).to(fake.device)
    return float(loss(fake[:n].unsqueeze(0), real[:n].unsqueeze(0))[0])
