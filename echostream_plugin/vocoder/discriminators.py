"""Discriminators of vocoder training: multi-period (HiFi-GAN, arXiv 2010.05646) and multi-resolution STFT
(UnivNet, arXiv 2106.07889), in sizes from a CPU's to the paper's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

LEAKY_SLOPE = 0.1


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample. wav [B, N] -> (scores [B, ...], feature maps)."""

    def __init__(self, period: int, channels: tuple):
        super().__init__()
        self.period = period
        sizes = (1, *channels)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0)))
            for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.score = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> tuple[Tensor, list]:
        remainder = -wav.size(1) % self.period
        x = F.pad(wav.unsqueeze(1), (0, remainder), mode="reflect")
        x = x.view(wav.size(0), 1, -1, self.period)
        return _score(self.layers, self.score, x)


class SpectrogramDiscriminator(nn.Module):
    """Looks at the log magnitude of one STFT. wav [B, N] -> (scores [B, ...], feature maps)."""

    def __init__(self, n_fft: int, channels: int):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        strides = ((2, 1), (2, 2), (2, 1), (1, 1))  # frequency, time
        sizes = (1,) + (channels,) * len(strides)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 3), stride, padding=(2, 1)))
            for a, b, stride in zip(sizes[:-1], sizes[1:], strides, strict=True)
        )
        self.score = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, wav: Tensor) -> tuple[Tensor, list]:
        spectrum = torch.stft(wav, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        return _score(self.layers, self.score, torch.log(spectrum.abs() + 1e-3).unsqueeze(1))


class Discriminators(nn.Module):
    """All discriminators side by side: wav [B, N] -> list of (scores, feature maps)."""

    def __init__(self, periods: tuple, period_channels: tuple, n_ffts: tuple, spectrogram_channels: int):
        super().__init__()
        self.members = nn.ModuleList(
            [PeriodDiscriminator(period, period_channels) for period in periods]
            + [SpectrogramDiscriminator(n_fft, spectrogram_channels) for n_fft in n_ffts]
        )

    def forward(self, wav: Tensor) -> list:
        return [member(wav) for member in self.members]


def discriminator_loss(real: list, fake: list) -> Tensor:
    """Least squares: real scores to 1, generated ones to 0 (lists of (scores, features))."""
    terms = [((1 - r) ** 2).mean() + (f**2).mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return sum(terms) / len(terms)


def adversarial_loss(fake: list) -> Tensor:
    """Least squares: the generator wants its scores to be 1."""
    terms = [((1 - scores) ** 2).mean() for scores, _ in fake]
    return sum(terms) / len(terms)


def feature_loss(real: list, fake: list) -> Tensor:
    """L1 distance of feature maps, each relative to the mean size of the real one."""
    terms = [
        F.l1_loss(f.float(), r.detach().float()) / r.detach().float().abs().mean().clamp(min=1e-4)
        for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return sum(terms) / len(terms)


def _score(layers, score, x: Tensor) -> tuple[Tensor, list]:
    maps = []
    for layer in layers:
        x = F.leaky_relu(layer(x), LEAKY_SLOPE)
        maps.append(x)
    return score(x).float(), maps
