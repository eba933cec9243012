"""Values that change while a training goes on, by the number of batches that it has seen.

Batches are those of icefall's recipe, 600 s of audio each; see `Clock`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Clock:
    """How far a training is, shared by all parts of an encoder. None: nobody counts, schedules have their defaults."""

    batches: float | None = None


@dataclass(frozen=True)
class Schedule:
    """Straight lines between (batches, value) points, level before the first and after the last.

    default: the value where nobody counts batches."""

    points: tuple[tuple[float, float], ...]
    default: float = 0.0

    def at(self, clock: Clock) -> float:
        """The value now."""
        if clock.batches is None:
            return self.default
        begin, value = self.points[0]
        for end, following in self.points:
            if clock.batches < end:
                share = (clock.batches - begin) / (end - begin) if end > begin else 0.0
                return value + max(share, 0.0) * (following - value)
            begin, value = end, following
        return value


def chance(probability: float) -> bool:
    """True with this probability; drawn from torch's generator, which `--seed` sets."""
    return probability > 0 and torch.rand(()).item() < probability


def sequence_mask(x: Tensor, probability: float) -> Tensor:
    """[B, 1, 1], 0 with this probability, else 1."""
    return (torch.rand(x.size(0), 1, 1, device=x.device) > probability).to(x.dtype)


class SharedDropout(nn.Module):
    """Dropout with one mask for all frames of x: [B, T, C].

    Its probability begins at three times `probability` and falls to it over 20,000 batches, as in icefall."""

    def __init__(self, probability: float, clock: Clock):
        super().__init__()
        self.schedule = Schedule(((0, min(3 * probability, 0.9)), (20_000, probability)), default=probability)
        self.clock = clock

    def forward(self, x: Tensor) -> Tensor:
        probability = self.schedule.at(self.clock) if self.training else 0.0
        if probability <= 0:
            return x
        kept = torch.rand(x.size(0), 1, x.size(2), device=x.device) > probability
        return x * (kept.to(x.dtype) / (1.0 - probability))
