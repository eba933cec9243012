"""How long each unit lasts and how high it is spoken: the predictor of `code_vocos`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.vocoder.durations import whole_frames


class Prosody(nn.Module):
    """Reduced units -> log(frames + 1), and logits of pitch classes (0: unvoiced). Sees LEFT units back, RIGHT ahead.

    Values become whole frames and classes, so that speech streamed and speech run once have the same ones."""

    LAYERS = ((3, 1, 1), (3, 1, 1), (4, 0, 2))  # taps before and after the middle one, dilation
    LEFT = sum(left * dilation for left, _, dilation in LAYERS)
    RIGHT = sum(right * dilation for _, right, dilation in LAYERS)

    def __init__(self, units: int, dim: int, pitch_classes: int, dropout: float = 0.1):
        super().__init__()
        self.dict = nn.Embedding(units, dim)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim, dim, left + 1 + right, dilation=dilation) for left, right, dilation in self.LAYERS
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.LAYERS)
        self.out = nn.Linear(dim, 1 + 1 + pitch_classes)
        self.dropout = dropout

    def forward(self, units: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """units: [B, U] reduced; mask: [B, U] True where padded; returns [B, U] and [B, U, 1 + pitch classes]."""
        x = self.dict(units)
        for convolution, norm, (left, right, dilation) in zip(self.convolutions, self.norms, self.LAYERS, strict=True):
            if mask is not None:
                x = x.masked_fill(mask.unsqueeze(2), 0.0)  # as beyond the end of a single sequence
            padded = F.pad(x, (0, 0, left * dilation, right * dilation))
            y = F.relu(convolution(padded.transpose(1, 2)).transpose(1, 2))
            x = F.dropout(norm(x + y), self.dropout, self.training)
        y = self.out(x)
        return y[:, :, 0], y[:, :, 1:]

    def predict(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """units: [B, U] reduced; whole frames [B, U], at least 1, and pitch classes [B, U]."""
        log_durations, pitch = self(units)
        return whole_frames(log_durations), pitch.argmax(2)

    def durations(self, units: Tensor) -> Tensor:
        """Frames of each unit, [B, U] of reduced units [B, U]."""
        return self.predict(units)[0]

    @torch.no_grad()
    def lengthen(self, shift: float) -> None:
        """Add so much to log(frames + 1) of every unit."""
        self.out.bias[0] += shift

    def loss(self, units: Tensor, durations: Tensor, pitch: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """durations: [B, U] frames; pitch: [B, U] classes; mask: [B, U] True where padded. Returns the squared error of
        log(frames + 1), and the cross-entropy with classes that neighbours share (so the mean pitch wins, not a rare
        one)."""
        log_durations, logits = self(units, mask)
        error = (log_durations - torch.log(durations + 1.0)) ** 2
        classes = torch.arange(1, logits.size(2), device=units.device)
        near = torch.exp(-0.5 * ((classes - pitch.unsqueeze(2)) / 2.0) ** 2)
        near = near / near.sum(2, keepdim=True)
        wanted = torch.cat([torch.zeros_like(near[:, :, :1]), near], dim=2)
        unvoiced = F.one_hot(torch.zeros_like(pitch), logits.size(2)).to(near)
        wanted = torch.where((pitch == 0).unsqueeze(2), unvoiced, wanted)
        entropy = -(wanted * F.log_softmax(logits, dim=2)).sum(2)
        return error[~mask].mean(), entropy[~mask].mean()
