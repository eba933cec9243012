"""Linear layers for inference on a CPU, their weights packed into the blocks in which FBGEMM reads them.

A streaming step multiplies a few rows by every weight of the model, so its time goes into reading weights. Packed in
half precision they take half the bytes, in the order of use; products and sums are still float32. Weights that came
from half precision (every bundle's) lose nothing. Packed in int8 they take a quarter, and inputs are rounded to 7 bits
per call (torch's dynamic quantisation, one scale per output channel).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKINGS = ("none", "half", "int8")


class PackedLinear(nn.Linear):
    """An `nn.Linear` that computes with packed weights. `weight` stays the one that was packed: it is saved, tied and
    asked for its device as before, and must not be trained any more."""

    def __init__(self, linear: nn.Linear, packing: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.packing = packing
        weight, bias = (None if tensor is None else tensor.detach() for tensor in (self.weight, self.bias))
        if packing == "half":
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        else:
            scales = (weight.abs().amax(1) / 127).clamp(min=1e-12)
            zeros = torch.zeros(len(scales), dtype=torch.long)
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] float32 to [..., out_features]; inference only."""
        if x.numel() == 0:
            return F.linear(x, self.weight, self.bias)
        if self.packing == "half":
            return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return torch.ops.quantized.linear_dynamic(x, self._packed, True)  # 7 bits: no overflow on any CPU

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, packing={self.packing}"


def can_pack() -> bool:
    """Has this torch FBGEMM's kernels (x86 CPUs)?"""
    return "fbgemm" in torch.backends.quantized.supported_engines


def pack_linears(module: nn.Module, packing: str) -> nn.Module:
    """Replace every `nn.Linear` below a module, which must lie on the CPU; the module itself is returned.

    Raises ValueError for an unknown packing, RuntimeError where this CPU cannot do it."""
    if packing not in PACKINGS:
        raise ValueError(f"packing {packing!r}: use one of {', '.join(PACKINGS)}")
    if packing == "none":
        return module
    if not can_pack():
        raise RuntimeError(f"packing '{packing}' needs an x86 CPU and a torch with FBGEMM")
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child, packing))
        else:
            pack_linears(child, packing)
    return module
