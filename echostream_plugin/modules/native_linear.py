"""Linear layers that compute with the compiled operator's matrix product (csrc/product.h)."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from echostream_plugin.modules import native
from echostream_plugin.modules.packed import PackedLinear, int8_scales, quantized

PANEL, GROUP = 32, 4  # as in csrc/product.h
LARGEST_HALF = 65504


@dataclass(frozen=True)
class Panels:
    """Weights in the order of use; scales, sums: [N], of int8 weights, see csrc/operator.h."""

    weights: Tensor
    scales: Tensor | None = None
    sums: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, packing: str) -> "Panels":
        """weight: [N, K] of `nn.Linear`; packing: a key of `native.KINDS`."""
        outputs, inputs = weight.shape
        weight = weight.detach()
        weight = weight.half().clamp(-LARGEST_HALF, LARGEST_HALF) if packing == "half" else weight.float()
        filled = F.pad(weight, (0, -inputs % GROUP, 0, -outputs % PANEL))
        if packing == "int8":
            whole, scales = quantized(filled).int_repr(), int8_scales(filled)
            groups = whole.view(-1, PANEL, filled.size(1) // GROUP, GROUP).transpose(1, 2)
            return cls(groups.contiguous(), scales[:outputs].clone(), whole[:outputs].sum(1, dtype=torch.int32))
        return cls(filled[:, :inputs].reshape(-1, PANEL, inputs).transpose(1, 2).contiguous())

    def weight(self, outputs: int, inputs: int) -> Tensor:
        """[N, K] float32."""
        if self.scales is not None:
            whole = self.weights.transpose(1, 2).reshape(self.weights.size(0) * PANEL, -1)
            return whole[:outputs, :inputs].float() * self.scales.unsqueeze(1)
        return self.weights.float().transpose(1, 2).reshape(-1, inputs)[:outputs]

    @property
    def nbytes(self) -> int:
        """Bytes of weights, scales and sums."""
        return sum(part.nbytes for part in (self.weights, self.scales, self.sums) if part is not None)


class NativeLinear(PackedLinear):
    """`PackedLinear` with the operator's kernels; packing: also 'float32'. A row's outputs are the same bits whatever
    rows are beside it. `path`: one of `native.PATHS`."""

    def __init__(self, linear: nn.Linear, packing: str, path: str):
        self.path = path
        super().__init__(linear, packing)

    def _pack(self, linear: nn.Linear):
        self._bound = None
        self._keep_bias(linear)
        self._packed = Panels.of(linear.weight, self.packing)

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features] float32, unpacked each time it is asked for."""
        return self._packed.weight(self.out_features, self.in_features)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights and the bias."""
        return self._packed.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def structure(self) -> native.Linear:
        """For the operator; valid while the packed weights and the bias are."""
        packed, bias = self._packed, self._parameters.get("bias")
        parts = (packed.weights, packed.scales, packed.sums, bias)
        addresses = [None if part is None else part.data_ptr() for part in parts]
        return native.Linear(*addresses, native.KINDS[self.packing], self.in_features, self.out_features)

    @property
    def usable(self) -> bool:
        """Can the operator compute it? Not with a converted bias, nor unpickled where there is no such path."""
        return native.has(self.path) and native.readable(self._parameters.get("bias"), self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] to [..., out_features]; inference only. Other types than float32, and other devices
        than the CPU, are torch's."""
        if torch.jit.is_tracing() or x.dtype != torch.float32 or not x.is_cpu:  # a recording would not see the call
            return self._in_torch(x)
        bound = self._bound
        bias = self._parameters.get("bias")
        address = None if bias is None else bias.data_ptr()
        if bound is None or bound[2] is not self._packed or bound[3] != address:
            if not self.usable:
                return self._in_torch(x)
            bound = self._bind(address)
        function, linear, *_, path = bound
        x = x if x.is_contiguous() else x.contiguous()
        if x.size(-1) != self.in_features:
            raise ValueError(f"expected [..., {self.in_features}], got {list(x.shape)}")
        out = x.new_empty(*x.shape[:-1], self.out_features)
        rows, space = x.numel() // self.in_features, None
        if self.packing == "int8":
            space = torch.empty(rows * (self.in_features + GROUP + 4), dtype=torch.uint8)
        function(path, linear, x.data_ptr(), rows, out.data_ptr(), space if space is None else space.data_ptr())
        return out

    def _in_torch(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))

    def _bind(self, address: int | None) -> tuple:
        """What a call needs beside its input; the packed weights and the bias's address must not have changed."""
        structure = self.structure()
        function, path = native.library().echostream_linear, native.PATHS.index(self.path)
        self._bound = function, ctypes.byref(structure), self._packed, address, path
        return self._bound

    def _apply(self, *args, **kwargs):
        self._bound = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self):
        return {**self.__dict__, "_bound": None}


def pack_native(module: nn.Module, path: str) -> None:
    """Replace the linear layers below a module by those of the operator: packed ones keep their packing, others keep
    their float32 weights."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) in (nn.Linear, PackedLinear):
                packed = isinstance(child, PackedLinear)
                linear = child._unpacked() if packed else child
                setattr(parent, name, NativeLinear(linear, child.packing if packed else "float32", path))
