"""ScaledAdam (section 3.5 of arXiv 2310.11230): Adam whose steps are as large as the tensor that they change.

A tensor ten times as large makes steps ten times as large, so that the learning rate is a relative change; the
tensor's size is learned too, at a tenth of the rate. Own implementation; the numbers are those of icefall's.
"""

import math
from collections import defaultdict, deque

import torch
from torch import Tensor
from torch.optim import Optimizer

TINY = 1e-20
EARLY = (10, 20, 40)  # steps after which the threshold of clipping is estimated for the first times, and doubled


class ScaledAdam(Optimizer):
    """Tensors of one shape are updated together.

    lr: relative change of a tensor per step, as 0.045; betas: of momentum and of squared gradients; clipping_scale:
    gradients, each times the size of its tensor, are clipped to so many times their median norm of the last
    `clipping_period` steps, None: never; size_rate: of learning sizes and single numbers, times lr; sizes: least and
    most root mean square of a tensor; most_scalar: of a single number; period: steps between changes of size."""

    def __init__(
        self,
        params,
        lr=0.045,
        betas=(0.9, 0.98),
        eps=1e-8,
        clipping_scale=2.0,
        clipping_period=100,
        size_rate=0.1,
        sizes=(1e-5, 3.0),
        most_scalar=10.0,
        period=4,
    ):
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "clipping_scale": clipping_scale, "clipping_period": clipping_period,
            "size_rate": size_rate, "sizes": sizes, "most_scalar": most_scalar, "period": period,
            "steps": 0, "norms": [], "threshold": None,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        """One update; returns what `closure` does. Raises FloatingPointError where gradients stay infinite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict):
        shapes = defaultdict(list)
        for parameter in group["params"]:
            shapes[parameter.shape, parameter.dtype, parameter.device].append(parameter)
        batches = []
        for alike in shapes.values():
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            # the first of them holds the state of all
            batches.append((alike, torch.stack(alike), torch.stack(gradients).float(), self.state[alike[0]]))
        factor = self._clipping_factor(group, batches) if group["steps"] else 1.0
        for alike, values, gradient, state in batches:
            gradient = torch.zeros_like(gradient) if factor == 0 else gradient * factor
            changed = values + self._change(group, values, gradient, state).to(values.dtype)
            if _is_scalar(values):
                changed.clamp_(-group["most_scalar"], group["most_scalar"])
            for parameter, value in zip(alike, changed, strict=True):
                parameter.copy_(value)
        group["steps"] += 1

    def _change(self, group: dict, values: Tensor, gradient: Tensor, state: dict) -> Tensor:
        """values, gradient: [tensors, *shape]; the step with momentum, which is not corrected for its beginning."""
        step, momentum = group["steps"], group["betas"][0]
        if not state:
            state["squares"] = torch.zeros_like(gradient)
            state["change"] = torch.zeros_like(gradient)
            if not _is_scalar(values):
                size = _size(values)
                state |= {"size": size, "size_squares": torch.zeros_like(size)}
                state["size_gradients"] = torch.zeros(group["period"], *size.shape, device=size.device)
        change = self._adam(group, values, gradient, state)
        if not _is_scalar(values):
            state["size_gradients"][step % group["period"]] = _sum(values * gradient)
            last = step % group["period"] == group["period"] - 1
            if last:
                state["size"].copy_(_size(values))
            change = change * state["size"].clamp(min=group["sizes"][0])
            if last and step > 0:
                change = change + values * self._size_change(group, state)
        return state["change"].mul_(momentum).add_(change, alpha=1 - momentum)

    @staticmethod
    def _adam(group: dict, values: Tensor, gradient: Tensor, state: dict) -> Tensor:
        rate = group["lr"] * (group["size_rate"] if _is_scalar(values) else 1.0)
        beta = group["betas"][1]
        squares = state["squares"].mul_(beta).addcmul_(gradient, gradient, value=1 - beta)
        correction = 1 - beta ** (group["steps"] + 1)
        if correction < 0.99:
            squares = squares / correction
        return -rate * gradient / (squares.sqrt() + group["eps"])

    @staticmethod
    def _size_change(group: dict, state: dict) -> Tensor:
        """How much of itself each tensor grows by."""
        (least, most), period = group["sizes"], group["period"]
        beta = group["betas"][1] ** period
        squares, gradients = state["size_squares"], state["size_gradients"]
        squares.mul_(beta).add_(gradients.square().mean(0), alpha=1 - beta)
        correction = 1 - beta ** ((group["steps"] + 1) // period)
        rate = -group["lr"] * group["size_rate"] * correction**0.5
        change = rate * gradients.sum(0) / (squares.sqrt() + group["eps"])
        change = change.masked_fill(state["size"] < least, 0.0).clamp(-0.1, 0.1)
        return torch.minimum(change, (most - state["size"]) / state["size"])

    @staticmethod
    def _clipping_factor(group: dict, batches: list) -> float:
        """What the gradients are multiplied with; 0 where they are not finite."""
        if group["clipping_scale"] is None:
            return 1.0
        total = 0.0
        for _, values, gradient, state in batches:
            size = group["size_rate"] if _is_scalar(values) else state["size"]
            total = total + (gradient * size).square().sum()
        norm, step = total.sqrt().item(), group["steps"]
        norm = norm if math.isfinite(norm) else math.inf
        norms = deque(group["norms"], maxlen=group["clipping_period"])
        norms.append(norm)
        group["norms"] = list(norms)
        early = step in EARLY and step < group["clipping_period"]
        if early or step % group["clipping_period"] == 0:
            median = sorted(norms)[len(norms) // 4 * 2]
            if median == math.inf:
                raise FloatingPointError("ScaledAdam: half of the last gradients are not finite")
            group["threshold"] = group["clipping_scale"] * median * (2 if early else 1)
        if norm == math.inf:
            return 0.0
        return 1.0 if group["threshold"] is None else min(1.0, group["threshold"] / (norm + TINY))


def _is_scalar(values: Tensor) -> bool:
    """Are the tensors of [tensors, *shape] single numbers?"""
    return values.numel() == values.size(0)


def _sum(values: Tensor) -> Tensor:
    """Over each tensor of [tensors, *shape]: [tensors, 1, ...]."""
    return values.float().sum(list(range(1, values.dim())), keepdim=True)


def _size(values: Tensor) -> Tensor:
    """The root mean square of each tensor of [tensors, *shape]: [tensors, 1, ...]."""
    return values.float().square().mean(list(range(1, values.dim())), keepdim=True).sqrt()


def eden_factor(updates: float, epochs: float, most_updates: float, most_epochs: float, warmup: int, start: float):
    """Eden's learning rate over the base rate: falls with the root of updates and of epochs once they pass
    `most_updates` and `most_epochs`; rises from `start` over the first `warmup` updates."""
    slower = (1 + (updates / most_updates) ** 2) ** -0.25 * (1 + (epochs / most_epochs) ** 2) ** -0.25
    return slower * (1.0 if updates >= warmup else start + (1 - start) * updates / warmup)
