"""Streaming steps recorded once and replayed without Python, which takes about half of a small step's time on a CPU."""

import warnings

import torch
from torch import Tensor, nn

RECORD_AFTER = 3  # calls of one shape that run as they are
MOST_RECORDINGS = 16  # a stream has few shapes; an offline pass has a new one each time and is left alone


class Recorder:
    """Calls `function(*tensors) -> tuple of tensors` and records those whose shapes come back (`torch.jit.trace`).

    owner: the module whose parameters the function uses; they are shared, not copied. A recording is replayed for the
    same number of tensors of the same shapes and types on the same device with the same `key`, since everything else
    in it is fixed. The function must not branch on values. For inference only."""

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
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what is fixed in the recording is in the signature
                    self._recordings[signature] = torch.jit.trace(self._function, tensors, check_trace=False)
        self._function.key = key
        return self._function(*tensors)

    @property
    def recorded(self) -> int:
        """How many shapes were recorded."""
        return len(self._recordings)


class _Function(nn.Module):
    def __init__(self, owner: nn.Module, function):
        super().__init__()
        self.owner = owner
        self.function = function
        self.key = None

    def forward(self, *tensors):
        return self.function(self.key, *tensors)
