"""Streaming steps recorded once and replayed without Python, which takes about half of a small step's time on a CPU.

On a CPU the recording is a TorchScript trace, on a GPU a CUDA graph, which also saves the launches of the kernels.
Making one takes as long as some fifty steps, so it is only done within `record_calls`, which `inference.optimize`
opens before there is any live audio. Calls of other shapes run as they are.
"""

import threading
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn

from echostream_plugin.modules.parts import Parts

MOST_RECORDINGS = 32  # of one recorder: about 1.5 MB each for every layer recorded; beyond, the least used goes

_recording = ContextVar("recording", default=False)  # are new shapes recorded in this thread?
_kept = ContextVar("kept", default=None)  # what the recording that is being made takes from caches
_one_at_a_time = threading.RLock()  # torch traces and captures with state that all threads share


@contextmanager
def record_calls():
    """Within, calls that this thread makes through a `Recorder` are recorded where their shape is new."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


def keep(tensors):
    """Hand back tensors of a cache that a recorded function uses. A recording that is being made keeps them alive, for
    it knows them by address, and the cache may drop them."""
    if (held := _kept.get()) is not None:
        held.append(tensors)
    return tensors


class Recorder:
    """Calls `function(key, *tensors) -> tuple of tensors`, replaying those that were recorded.

    owner: the module whose parameters the function uses; they are shared, not copied. A recording is replayed for
    tensors of the same shapes and types on the same device with the same `key` (anything hashable that the function
    depends on) under the same autocast and inference mode, since everything else in it is fixed; it is dropped when a
    part of the owner was replaced. The function must not branch on values. With gradients nothing is recorded.

    Threads may share a recorder. A copy (`copy.deepcopy`) has no recordings, since those are of the owner's weights."""

    def __init__(self, owner: nn.Module, function):
        self._owner, self._function = owner, function
        self._recordings = {}

    def __getstate__(self):
        return self._owner, self._function

    def __setstate__(self, state):
        self.__init__(*state)

    def __call__(self, key, *tensors: Tensor):
        if torch.is_grad_enabled() or not (self._recordings or _recording.get()):
            return self._function(key, *tensors)
        kind = tensors[0].device.type
        mode = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        signature = (key, mode, *((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors))
        recording = self._recordings.get(signature)
        if recording is None or not recording.is_current:
            if not _recording.get():
                return self._function(key, *tensors)
            recording = self._record(signature, tensors)
        recording.uses += 1
        return recording(*tensors)

    @property
    def recorded(self) -> int:
        """How many shapes are recorded."""
        return len(self._recordings)

    def _record(self, signature, tensors: tuple):
        with _one_at_a_time:
            present = {s: r for s, r in self._recordings.items() if r.is_current}
            if signature not in present:  # else another thread was first
                if len(present) >= MOST_RECORDINGS:
                    del present[min(present, key=lambda each: present[each].uses)]
                kind = _Graph if tensors[0].is_cuda else _Trace
                present[signature] = kind(self._owner, partial(self._function, signature[0]), tensors)
            self._recordings = present  # at once: other threads look into it
            return present[signature]


class _Recording:
    """A function of tensors as it was at one call."""

    def __init__(self, owner: nn.Module, function, tensors: tuple):
        self.uses = 0
        self._parts = Parts(owner)
        token = _kept.set([])
        try:
            self._make(owner, function, tensors)
            self._held = _kept.get()
        finally:
            _kept.reset(token)

    @property
    def is_current(self) -> bool:
        """Are the owner's parts those that were recorded? Values that were changed in place are seen anyway."""
        return self._parts.unchanged


class _Trace(_Recording):
    """A TorchScript trace."""

    def _make(self, owner, function, tensors):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is fixed in the recording is in the signature
            self._traced = torch.jit.trace(_Function(owner, function).eval(), tensors, check_trace=False)
        for _ in range(2):  # the first call is profiled, the second optimised: slow, both
            self._traced(*tensors)

    def __call__(self, *tensors):
        return self._traced(*tensors)


class _Graph(_Recording):
    """A CUDA graph. Inputs are copied into its memory, outputs out of it, by one thread at a time."""

    @property
    def is_current(self) -> bool:
        """The graph knows the weights by address, and a parameter may be given other memory."""
        return super().is_current and self._addresses == [tensor.data_ptr() for tensor in self._weights]

    def _make(self, owner, function, tensors):
        self._lock = threading.Lock()
        self._weights = [*owner.parameters(), *owner.buffers()]
        self._addresses = [tensor.data_ptr() for tensor in self._weights]
        self._inputs = [tensor.clone() for tensor in tensors]
        self._read = torch.cuda.Event()
        other = torch.cuda.Stream()
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):  # what is made once, such as libraries' workspaces, is made before the capture
            function(*self._inputs)
        torch.cuda.current_stream().wait_stream(other)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # other threads may go on
            self._outputs = function(*self._inputs)

    def __call__(self, *tensors):
        with self._lock:
            self._read.wait()  # threads may have streams of their own
            for held, given in zip(self._inputs, tensors, strict=True):
                held.copy_(given)
            self._graph.replay()
            outputs = tuple(output.clone() for output in self._outputs)
            self._read.record()
        return outputs


class _Function(nn.Module):
    """The owner's parameters become those of the trace."""

    def __init__(self, owner: nn.Module, function):
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *tensors):
        return self.function(*tensors)
