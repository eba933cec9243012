"""The causal subsampling's step as one call of the compiled operator (csrc/subsampling.h)."""

import ctypes

import torch
from torch import Tensor, nn

from echostream_plugin.modules import native
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.packed import linear_of
from echostream_plugin.modules.parts import Parts


class NativeSubsampling:
    """Calls the operator for a `CausalSubsampling` whose projection is a `NativeLinear`; path: one of `native.PATHS`.

    Threads may share it. A copy (`copy.deepcopy`) makes its own tables, of the copied weights. Weights of the
    convolutions are copied into the tables; `forget` them when their values change."""

    def __init__(self, owner: nn.Module, path: str):
        self._owner, self.path = owner, path
        self._tables = None

    def __getstate__(self):
        return self._owner, self.path

    def __setstate__(self, state):
        self.__init__(*state)

    def forget(self) -> None:
        """The weights have other values, or have moved in memory."""
        self._tables = None

    def tables(self, features: Tensor) -> "Tables | None":
        """The tables of the weights as they are, for a step; None where the operator cannot compute it."""
        if not native.computes(features):
            return None
        tables = self._tables
        if tables is None or not (tables.parts.unchanged and tables.parts.unmoved):
            tables = self._tables = Tables(self._owner, self.path)
        return tables if tables.reference is not None else None


class Tables:
    """The structures of csrc/operator.h, with what keeps their addresses valid."""

    def __init__(self, owner: nn.Module, path: str):
        self.library, self.path = native.library(), native.PATHS.index(path)
        self.reference, self.dim = None, owner.projection.out_features
        self._sizes = owner.input_dim, owner.channels, owner.bands
        norm, projection = owner.norm, owner.projection
        self._convolutions = [_as_linear(convolution, path) for convolution in owner.convolutions]
        vectors = all(native.readable(tensor, self.dim) for tensor in (norm.weight, norm.bias))
        linears = (*self._convolutions, projection)
        if vectors and all(type(linear) is NativeLinear and linear.usable for linear in linears):
            linears = [linear.structure() for linear in linears]
            norms = native.Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)
            self._network = native.Subsampling(*linears, norms, owner.channels)
            self.reference = ctypes.byref(self._network)
        self.parts = Parts(owner)

    def step(self, features: Tensor, hidden: Tensor, outputs: int, kept: int) -> tuple[Tensor, Tensor]:
        """features: [B, t, F], hidden: [B, channels, h, F / 2], both with what was kept before; outputs, kept: how many
        frames come out, and how many of the first convolution are kept next.

        Returns [B, outputs, D] and [B, channels, kept, F / 2]."""
        given = features.size(2), hidden.size(1), hidden.size(3)
        if given != self._sizes or features.size(0) != hidden.size(0):
            raise ValueError(f"features and state of sizes {given} are not this network's, which takes {self._sizes}")
        native.check_types(features, hidden)
        features, hidden = features.contiguous(), hidden.contiguous()
        batch_size, frames, bands = features.shape
        out = features.new_empty(batch_size, outputs, self.dim)
        rest = features.new_empty(batch_size, hidden.size(1), kept, hidden.size(3))
        addresses = (tensor.data_ptr() for tensor in (features, hidden, out, rest))
        step = native.SubsamplingStep(*addresses, batch_size, frames, bands, hidden.size(2))
        arguments = self.reference, ctypes.byref(step)
        space = torch.empty(self.library.echostream_subsampling_workspace(*arguments), dtype=torch.uint8)
        self.library.echostream_subsampling(self.path, *arguments, space.data_ptr())
        return out, rest


def _as_linear(convolution: nn.Conv2d, path: str) -> NativeLinear:
    """A kernel [channels, inputs, 3, 3] as a linear map of patches [3 frames, 3 bands, inputs]."""
    weight = convolution.weight.detach().permute(0, 2, 3, 1).flatten(1)
    return NativeLinear(linear_of(weight, convolution.bias), "float32", path)
