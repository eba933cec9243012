"""Linear layers for inference on a CPU, their weights packed into the blocks in which FBGEMM reads them.

A streaming step multiplies a few rows by every weight of the model, so its time goes into reading weights. Packed in
half precision they take half the bytes, in the order of use; products and sums are still float32. Weights that came
from half precision (every bundle's) lose nothing. Packed in int8 they take a quarter, with one scale per output
channel, and inputs are rounded to 7 bits, which no CPU overflows, with one scale per row: a stream gives the same
whatever is stacked beside it.
"""

import torch
from torch import Tensor, nn

PACKINGS = ("none", "half", "int8")
LARGEST_INPUT = 63  # of 7 bits with a sign; the operator stores them from 1 to 127


class PackedLinear(nn.Linear):
    """An `nn.Linear` that computes with packed weights and keeps no others.

    `weight` and the state dict hold what is computed with: the weights that were packed, rounded as the packing does.
    `load_state_dict` packs anew. Not for training: `weight` is a copy, no parameter."""

    def __init__(self, linear: nn.Linear, packing: str):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packing = packing
        self._pack(linear)

    def _keep_bias(self, linear: nn.Linear):
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def _pack(self, linear: nn.Linear):
        weight = linear.weight.detach()
        self._keep_bias(linear)
        # the bias is left out of the packed weights: it would be an alias that copies of this layer share
        if self.packing == "half":
            self._packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        else:
            self._packed = torch.ops.quantized.linear_prepack(quantized(weight), None)

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features] float32, unpacked each time it is asked for."""
        if self.packing == "half":
            return torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
        return torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and the bias."""
        size = self.in_features * self.out_features * {"half": 2, "int8": 1}[self.packing]
        return size + (0 if self.bias is None else self.bias.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] float32 to [..., out_features]; inference only."""
        if x.numel() == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        if self.packing == "half":
            out = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
            return out if self.bias is None else out.add_(self.bias)
        # rows of one size share the operator's one scale; products are sums of integers, so no row sees another
        sizes = x.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        out = multiply(x / sizes, 1 / LARGEST_INPUT, LARGEST_INPUT + 1, self._packed)
        return out * sizes if self.bias is None else torch.addcmul(self.bias, out, sizes)

    def _unpacked(self) -> nn.Linear:
        """The layer that this one was, with the weights that it computes with."""
        return linear_of(self.weight, self.bias)

    def _save_to_state_dict(self, *args):
        self._unpacked()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args):
        linear = self._unpacked()
        linear._load_from_state_dict(*args)
        self._pack(linear)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, packing={self.packing}"


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with these parameters [N, K] and [N], without gradients. (`nn.utils.skip_init` makes it on the meta
    device first, which loads torch's compiler: half a second, in the first push of a session.)"""
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))
    return linear


def int8_scales(weight: Tensor) -> Tensor:
    """[N] steps of the weights of each output, of [N, K]: the largest of them is 127."""
    return (weight.abs().amax(1) / 127).clamp(min=1e-12)


def quantized(weight: Tensor) -> Tensor:
    """The weights [N, K] in whole numbers of `int8_scales`."""
    zeros = torch.zeros(len(weight), dtype=torch.long)
    return torch.quantize_per_channel(weight, int8_scales(weight), zeros, 0, torch.qint8)


def can_pack() -> bool:
    """Has this torch FBGEMM's kernels (x86 CPUs)?"""
    return "fbgemm" in torch.backends.quantized.supported_engines


def pack_linears(module: nn.Module, packing: str, kind=PackedLinear) -> nn.Module:
    """Replace every `nn.Linear` below a module, which must lie on the CPU, but for those that their parent names in
    `UNPACKED`; the module itself is returned. kind(linear, packing) makes a layer: `PackedLinear` or
    `native_linear.NativeLinear` with its path.

    Raises ValueError for an unknown packing, RuntimeError where this CPU cannot do it."""
    if packing not in PACKINGS:
        raise ValueError(f"packing {packing!r}: use one of {', '.join(PACKINGS)}")
    if packing == "none":
        return module
    if kind is PackedLinear and not can_pack():
        raise RuntimeError(f"packing '{packing}' needs an x86 CPU and a torch with FBGEMM")
    for name, child in module.named_children():
        if type(child) is nn.Linear and name not in getattr(module, "UNPACKED", ()):
            setattr(module, name, kind(child, packing))
        else:
            pack_linears(child, packing, kind)
    return module
