"""How long the outputs of a convolution are on a CPU, where every length costs memory."""

import torch
from torch import Tensor
from torch.nn import functional as F


def bucket(length: int, grain: int = 1) -> int:
    """How many outputs are computed for `length` wanted ones: `grain` times 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32 ...

    oneDNN compiles and keeps a kernel for every length that a convolution has had, of up to 100 kB. A stream has all
    lengths in the long run, which come to hundreds of megabytes; four in an octave are a few dozen."""
    grains = -(-length // grain)
    step = max(1, (1 << max(0, grains - 1).bit_length()) // 8)
    return -(-grains // step) * step * grain


def pad_to_bucket(x: Tensor, dim: int, count: int, stride: int) -> Tensor:
    """x with so many zeros at the end of `dim` that a convolution of that stride, which has `count` outputs there, has
    a `bucket` of them. Where gradients are wanted, and on other devices than a CPU, x as it is."""
    spare = 0 if torch.is_grad_enabled() or x.device.type != "cpu" else bucket(count) - count
    return F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, stride * spare]) if spare else x
