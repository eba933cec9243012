"""The Emformer's step for one segment as one call of the compiled operator (csrc/emformer.h).

It computes what `emformer_step.one_segment` does, of any number of streams, without Python between the layers, and has
nothing to trace or to warm up. Its tables hold addresses of the weights; they are made anew when a part of the stack
was replaced.
"""

import ctypes
import threading
from functools import lru_cache

import torch
from torch import Tensor, nn

from echostream_plugin.modules import native
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.parts import Parts
from echostream_plugin.modules.rotary import rotary_table

_one_at_a_time = threading.Lock()  # tables are made: weights are laid in another order


class NativeStep:
    """Calls the operator for a stack whose linear layers are `NativeLinear`; path: one of `native.PATHS`.

    Threads may share it. A copy (`copy.deepcopy`) makes its own tables, of the copied weights."""

    def __init__(self, stack: nn.Module, path: str):
        self._stack, self.path = stack, path
        self._tables = None

    def __getstate__(self):
        return self._stack, self.path

    def __setstate__(self, state):
        self.__init__(*state)

    def forget(self) -> None:
        """The weights have moved in memory."""
        self._tables = None

    def tables(self, x: Tensor) -> "Tables | None":
        """The tables of the stack as it is, for a step of x; None where the operator cannot compute it: under autocast,
        within a trace, in other types than float32, or since the stack is not made of what it knows any more."""
        if not native.computes(x):
            return None
        tables = self._tables
        if tables is None or not (tables.parts.unchanged and tables.parts.unmoved):
            with _one_at_a_time:
                tables = self._tables = Tables(self._stack, self.path)
        return tables if tables.reference is not None else None


class Tables:
    """The structures of csrc/operator.h for a stack, with what keeps their addresses valid."""

    def __init__(self, stack: nn.Module, path: str):
        self.library, self.path = native.library(), native.PATHS.index(path)
        layers = [_parts(layer) for layer in stack.layers]
        self.reference = None
        if all(_known(*parts, stack.config) for parts in layers):
            for _, _, depthwise in layers:
                _order_by_tap(depthwise)
            self._layers = (native.Layer * len(layers))(*(_structure(*parts) for parts in layers))
            config = stack.config
            self._stack = native.Stack(
                layers=self._layers,
                count=len(layers),
                dim=config.dim,
                heads=config.heads,
                hidden=config.ffn_dim,
                kernel=config.conv_kernel,
                gelu=config.activation == "gelu",
                attends=config.memory_kind == "attention",
                tanh=config.tanh_on_memory,
            )
            self.reference = ctypes.byref(self._stack)
        self.parts, self._head_dim = Parts(stack), stack.rotary_dim

    def step(self, x: Tensor, frames: int, state, keeps: bool) -> tuple[Tensor, tuple | None]:
        """x: [B, W, D], all of it valid, the segment's `frames` first; state: an `EmformerState`.

        Returns [B, frames, D] and the next left context, memory and convolution inputs; None for these, and no work for
        them, unless it `keeps` them."""
        past = [tensor.contiguous() for tensor in (state.left_context, state.memory, state.convolution)]
        x, done = x.contiguous(), state.past_segments.to(torch.int64).contiguous()
        self._check(x, done, past)
        out = x.new_empty(x.size(0), frames, x.size(2))
        left_frames, memory_size, width = past[0].size(2), past[1].size(2), x.size(1)
        kept = tuple(map(torch.empty_like, past)) if keeps else None
        cosine = sine = None
        if self._head_dim:
            cosine, sine = _rotary(left_frames, width, self._head_dim)
        tensors = [x, done, *past, cosine, sine, out, *(kept or (None,) * 3)]
        sizes = x.size(0), frames, width, state.segment_frames or frames, left_frames, memory_size
        step = native.Step(*(None if tensor is None else tensor.data_ptr() for tensor in tensors), *sizes)
        arguments = self.reference, ctypes.byref(step)
        space = torch.empty(self.library.echostream_step_workspace(*arguments), dtype=torch.uint8)
        self.library.echostream_step(self.path, *arguments, space.data_ptr())
        return out, kept

    def _check(self, x: Tensor, done: Tensor, past: list) -> None:
        """Raise ValueError where sizes or types are not this stack's: the operator would read beyond the tensors."""
        sizes, (left_context, memory, _) = self._stack, past
        begin, channels, inputs = (x.size(0), sizes.count), 2 * sizes.dim, max(sizes.kernel - 1, 0)
        wanted = (
            (x.size(0), x.size(1), sizes.dim),
            begin[:1],
            (*begin, left_context.size(2), channels),
            (*begin, memory.size(2), channels),
            (*begin, inputs, sizes.dim),
        )
        given = tuple(tuple(tensor.shape) for tensor in (x, done, *past))
        if given != wanted:
            raise ValueError(f"frames and state of sizes {given} are not this stack's, which takes {wanted}")
        native.check_types(*past)


def _parts(layer: nn.Module) -> tuple[list, list, nn.Conv1d | None]:
    """Norms, linear layers and depthwise convolution in the order of `native.NORMS` and `native.LINEARS`."""
    convolution, (norm, expand, _, _, contract, _) = layer.convolution, layer.feed_forward
    inner = (None,) * 5
    if convolution is not None:
        inner = convolution.input_norm, convolution.norm, convolution.gated, convolution.output, convolution.depthwise
    output_norm = None if isinstance(layer.output_norm, nn.Identity) else layer.output_norm
    attention = layer.attention
    norms = [layer.attention_norm, inner[0], inner[1], norm, output_norm]
    return norms, [attention.key_value, attention.query, attention.output, *inner[2:4], expand, contract], inner[4]


def _known(norms: list, linears: list, depthwise: nn.Conv1d | None, config) -> bool:
    vectors = [t for norm in norms if norm is not None for t in (norm.weight, norm.bias)]
    if depthwise is not None:
        vectors.append(depthwise.bias)
        weight = depthwise.weight.detach().contiguous()  # it is laid in another order, so any strides will do
        if not native.readable(weight, config.dim, 1, config.conv_kernel):
            return False
    return all(each is None or type(each) is NativeLinear and each.usable for each in linears) and all(
        tensor is not None and native.readable(tensor, config.dim) for tensor in vectors
    )


def _order_by_tap(depthwise: nn.Conv1d | None) -> None:
    """Lay a weight [D, 1, K] in memory as [K, D], in which order a step reads it; its values stay."""
    if depthwise is not None:
        weight = depthwise.weight.detach().squeeze(1).t().contiguous()
        depthwise.weight.data = weight.t().unsqueeze(1)


def _structure(norms: list, linears: list, depthwise: nn.Conv1d | None) -> native.Layer:
    made = [native.Norm() if n is None else native.Norm(n.weight.data_ptr(), n.bias.data_ptr(), n.eps) for n in norms]
    made += [native.Linear() if linear is None else linear.structure() for linear in linears]
    if depthwise is not None:
        made += [depthwise.weight.data_ptr(), depthwise.bias.data_ptr()]
    return native.Layer(*made)


@lru_cache(maxsize=64)
def _rotary(left_frames: int, width: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [L + W, D / 2H] of the positions of left context and window, from the segment's start."""
    with torch.inference_mode(False):  # kept longer than the caller's mode
        return rotary_table(torch.arange(-left_frames, width), head_dim, torch.float32)
