"""Balancer, Whiten and two limits: nothing in the forward pass, corrections of the gradients in the backward pass.

Own implementation of what section 3.4 and the appendix of arXiv 2310.11230 and icefall's recipe describe.
"""

import math

import torch
from torch import Tensor, nn

from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, chance

TINY = 1e-20
# of a balancer's application
USUAL = Schedule(((0, 0.5), (8000, 0.125)), default=0.4)


def _value(value: "float | Schedule", clock: Clock) -> float:
    return value.at(clock) if isinstance(value, Schedule) else value


class _Correction(torch.autograd.Function):
    """The identity of x; the `backward` of a subclass corrects the gradient by x and the further arguments."""

    @staticmethod
    def forward(ctx, x, *options):
        ctx.save_for_backward(x)
        ctx.options = options
        return x.view_as(x)


class _Balance(_Correction):
    @staticmethod
    def backward(ctx, gradient):
        channel, means, sizes, scale = ctx.options
        x = ctx.saved_tensors[0].detach().float().requires_grad_(True)
        others = [axis for axis in range(x.dim()) if axis != channel % x.dim()]
        with torch.enable_grad():
            power = x.square().mean(others, keepdim=True)
            mean = x.mean(others, keepdim=True)
            ratio = mean / (power - mean.square()).clamp(min=TINY).sqrt()
            size = power.clamp(min=TINY).sqrt()
            loss = (ratio - ratio.clamp(*means)).abs() + (size.clamp(*sizes) / size).log().abs()
            (towards,) = torch.autograd.grad(loss.sum(), x)
        towards = towards * (scale / towards.square().mean(others, keepdim=True).sqrt().clamp(min=TINY))
        wide = gradient.float()
        return (wide + wide.abs() * towards).to(gradient.dtype), None, None, None, None


class Balancer(nn.Module):
    """Keeps each channel's mean (in standard deviations) and root mean square within limits, through the gradients.

    positive: least and most share of positive values, from which the limits of the mean are taken; sizes: least and
    most mean absolute value; channel: the channels' axis; probability: with which a forward pass is corrected. Limits
    may be schedules."""

    def __init__(self, clock, positive=(0.05, 0.95), sizes=(0.2, 100.0), channel=-1, probability=USUAL, scale=0.04):
        super().__init__()
        self.clock, self.positive, self.sizes = clock, positive, sizes
        self.channel, self.probability, self.scale = channel, probability, scale

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.requires_grad and chance(_value(self.probability, self.clock))):
            return x
        means = tuple(_mean_of_share(_value(share, self.clock)) for share in self.positive)
        sizes = tuple(math.sqrt(math.pi / 2) * _value(size, self.clock) for size in self.sizes)  # of normal values
        return _Balance.apply(x, self.channel, means, sizes, self.scale)


def _mean_of_share(share: float) -> float:
    """Mean over standard deviation of normal values of which this share is positive, roughly, as icefall has it."""
    x, tiny = 2 * share - 1, 1e-10
    return 0.8139535143 * (math.log(1 + x + tiny) - math.log(1 - x + tiny)) / 2


def whiteness(x: Tensor, groups: int) -> Tensor:
    """x: [..., C]; 1 where the covariances of the channels of every group are multiples of one identity, else more."""
    x = x.reshape(-1, groups, x.size(-1) // groups).transpose(0, 1)
    x = x - x.mean(1, keepdim=True)
    covariance = x.transpose(1, 2) @ x
    mean = covariance.diagonal(dim1=1, dim2=2).mean()
    return covariance.square().sum() / (groups * x.size(2)) / (mean.square() + TINY)


class _Whitening(_Correction):
    @staticmethod
    def backward(ctx, gradient):
        (module,) = ctx.options
        x = ctx.saved_tensors[0].detach().float().requires_grad_(True)
        with torch.enable_grad():
            metric = whiteness(x, module.groups)
            (penalty,) = torch.autograd.grad(metric, x)
        excess = bool(metric >= _value(module.limit, module.clock))
        module.probability = module.probabilities[int(excess)]
        if excess:
            wide = gradient.float()
            gradient = (wide + penalty * (module.scale * wide.norm() / (penalty.norm() + TINY))).to(gradient.dtype)
        return gradient, None


class Whiten(nn.Module):
    """Pulls the covariance of the channels of x: [..., C] towards a multiple of the identity, through the gradients,
    where `whiteness` exceeds a limit (a number or a schedule).

    probabilities: with which it looks, when it last found nothing and when it did."""

    def __init__(self, clock: Clock, limit, groups: int = 1, scale: float = 0.01, probabilities=(0.025, 0.25)):
        super().__init__()
        self.clock, self.limit, self.groups, self.scale = clock, limit, groups, scale
        self.probabilities, self.probability = probabilities, probabilities[1]

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.requires_grad and chance(self.probability)):
            return x
        return _Whitening.apply(x, self)


def whitening_limit(limit: float, ratio: float = 2.0) -> Schedule:
    """A limit that rises by `ratio` over 20,000 batches."""
    return Schedule(((0, limit), (20_000, ratio * limit)), default=limit)


class _Penalty(_Correction):
    @staticmethod
    def backward(ctx, gradient):
        (x,), (limit, penalty) = ctx.saved_tensors, ctx.options
        return gradient + penalty * (x.sign() * (x.abs() > limit)).to(gradient.dtype), None, None


def penalise_excess(x: Tensor, limit: float, penalty: float) -> Tensor:
    """x itself, as if `penalty` times what its absolute values exceed `limit` by were added to the loss."""
    return _Penalty.apply(x, limit, penalty)


class _Limited(_Correction):
    """The identity; values outside [least, most] get gradients that lead them back in a descent."""

    @staticmethod
    def backward(ctx, gradient):
        (x,), (least, most) = ctx.saved_tensors, ctx.options
        gradient = torch.where((gradient > 0) & (x < least), -gradient, gradient)
        return torch.where((gradient < 0) & (x > most), -gradient, gradient), None, None


def limited(x: Tensor, least: float, most: float) -> Tensor:
    """x itself; in six of ten calls, the gradient's sign is turned where it would lead a value further out."""
    return _Limited.apply(x, least, most) if chance(0.6) else x
