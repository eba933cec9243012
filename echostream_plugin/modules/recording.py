"""Streaming steps recorded once and replayed without Python, which takes about half of a small step's time on a CPU.

On a CPU the recording is a TorchScript trace, on a GPU a CUDA graph, which also saves the launches of the kernels.
"""

import warnings

import torch
from torch import Tensor, nn

RECORD_AFTER = 30  # calls of one shape that run as they are: a recording costs as much as it saves in a hundred calls
MOST_RECORDINGS = 16  # a stream has few shapes; an offline pass has a new one each time and is left alone


class Recorder:
    """Calls `function(key, *tensors) -> tuple of tensors` and records the calls whose shapes come back.

    owner: the module whose parameters the function uses; they are shared, not copied. A recording is replayed for
    tensors of the same shapes and types on the same device with the same `key` (anything hashable that the function
    depends on), since everything else in it is fixed. The function must not branch on values. For inference only."""

    def __init__(self, owner: nn.Module, function):
        self._function = _Function(owner, function).eval()
        self._seen = {}
        self._recordings = {}

    def __call__(self, key, *tensors: Tensor):
        signature = (key, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors))
        recording = self._recordings.get(signature)
        if recording is not None:
            return recording(*tensors)
        if len(self._recordings) < MOST_RECORDINGS and len(self._seen) < 100 * MOST_RECORDINGS:
            self._seen[signature] = self._seen.get(signature, 0) + 1
            if self._seen[signature] > RECORD_AFTER:
                self._function.key = key
                self._recordings[signature] = _record(self._function, tensors)
        self._function.key = key
        return self._function(*tensors)

    @property
    def recorded(self) -> int:
        """How many shapes were recorded."""
        return len(self._recordings)


def _record(function: nn.Module, tensors: tuple):
    if tensors[0].is_cuda:
        return _Graph(function, tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is fixed in the recording is in the signature
        return torch.jit.trace(function, tensors, check_trace=False)


class _Graph:
    """A CUDA graph of a call; inputs are copied into its memory, outputs out of it."""

    def __init__(self, function, tensors):
        self.inputs = [tensor.clone() for tensor in tensors]
        other = torch.cuda.Stream()
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):  # what is made once, such as libraries' workspaces, is made before the capture
            function(*self.inputs)
        torch.cuda.current_stream().wait_stream(other)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *tensors):
        for held, given in zip(self.inputs, tensors, strict=True):
            held.copy_(given)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


class _Function(nn.Module):
    def __init__(self, owner: nn.Module, function):
        super().__init__()
        self.owner = owner
        self.function = function
        self.key = None

    def forward(self, *tensors):
        return self.function(self.key, *tensors)
