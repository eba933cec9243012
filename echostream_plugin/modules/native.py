"""The compiled operator (csrc/) where it was built: which instructions it takes, and its structures.

`setup.py` builds it where there is a C++ compiler. Without it everything works in Python and torch, slower. The
variable ECHOSTREAM_NATIVE chooses: auto (the default: the best of `PATHS`, if the processor has more than the first),
off, or one of `PATHS`.
"""

import ctypes
import logging
import os
from ctypes import POINTER, c_double, c_int64, c_void_p
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from echostream_plugin.config import ConfigError

VARIABLE = "ECHOSTREAM_NATIVE"
PATHS = ("portable", "avx2", "avx512", "avx512_vnni")  # by their numbers in csrc/operator.h
VERSION = 1  # of the interface
FOLDER = Path(__file__).parents[1]  # where setup.py puts the library
KINDS = {"float32": 0, "half": 1, "int8": 2}  # of packed weights, by name

log = logging.getLogger(__name__)


class Linear(ctypes.Structure):
    """See csrc/operator.h, as for the others."""

    _fields_ = [(name, c_void_p) for name in ("weights", "scales", "sums", "bias")]
    _fields_ += [(name, c_int64) for name in ("kind", "inputs", "outputs")]


class Norm(ctypes.Structure):
    """A LayerNorm of csrc/operator.h; a null weight is none."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_double)]


NORMS = ("attention_norm", "convolution_input_norm", "convolution_norm", "feed_forward_norm", "output_norm")
LINEARS = ("key_value", "query", "output", "gated", "convolution_output", "expand", "contract")


class Layer(ctypes.Structure):
    """An Emformer layer of csrc/operator.h."""

    _fields_ = [(name, Norm) for name in NORMS] + [(name, Linear) for name in LINEARS]
    _fields_ += [("depthwise", c_void_p), ("depthwise_bias", c_void_p)]


class Stack(ctypes.Structure):
    """An Emformer of csrc/operator.h."""

    _fields_ = [("layers", POINTER(Layer))]
    _fields_ += [(name, c_int64) for name in ("count", "dim", "heads", "hidden", "kernel", "gelu", "attends", "tanh")]


POINTERS = ("x", "past_segments", "left_context", "memory", "convolution", "cosine", "sine", "out")
POINTERS += ("next_left_context", "next_memory", "next_convolution")
SIZES = ("batch", "frames", "width", "segment_frames", "left_frames", "memory_size")


class Step(ctypes.Structure):
    """Buffers and sizes of one Emformer step, see csrc/operator.h."""

    _fields_ = [(name, c_void_p) for name in POINTERS] + [(name, c_int64) for name in SIZES]


class Subsampling(ctypes.Structure):
    """The causal subsampling of csrc/operator.h."""

    _fields_ = [(name, Linear) for name in ("first", "second", "projection")]
    _fields_ += [("norm", Norm), ("channels", c_int64)]


class SubsamplingStep(ctypes.Structure):
    """Buffers and sizes of one subsampling step, see csrc/operator.h."""

    _fields_ = [(name, c_void_p) for name in ("x", "past", "out", "next")]
    _fields_ += [(name, c_int64) for name in ("batch", "features", "bands", "hidden")]


FUNCTIONS = {  # name: result, arguments
    "echostream_version": (c_int64, ()),
    "echostream_has_path": (c_int64, (c_int64,)),
    "echostream_linear_workspace": (c_int64, (POINTER(Linear), c_int64)),
    "echostream_linear": (None, (c_int64, POINTER(Linear), c_void_p, c_int64, c_void_p, c_void_p)),
    "echostream_step_workspace": (c_int64, (POINTER(Stack), POINTER(Step))),
    "echostream_step": (None, (c_int64, POINTER(Stack), POINTER(Step), c_void_p)),
    "echostream_subsampling_workspace": (c_int64, (POINTER(Subsampling), POINTER(SubsamplingStep))),
    "echostream_subsampling": (None, (c_int64, POINTER(Subsampling), POINTER(SubsamplingStep), c_void_p)),
}


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library; None, of which a warning is logged once, where it was not built or is not this version's."""
    path, silenced = library_file(), f"({VARIABLE}=off: without this warning)"
    if path is None:
        words = "no compiled operator in %s: steps run in Python, slower; with a C++ compiler, pip install builds it %s"
        log.warning(words, FOLDER, silenced)
        return None
    try:
        return open_library(path)
    except (OSError, AttributeError, ValueError) as error:
        log.warning("%s is not used, steps run in Python: %s %s", path, error, silenced)
        return None


def library_file() -> Path | None:
    """Where the library lies, this version's or not."""
    files = (FOLDER / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in files if path.is_file()), None)


def open_library(path) -> ctypes.CDLL:
    """Raises OSError, AttributeError or ValueError for a file that is not the operator's library, or another version's.

    Calls release Python's lock: threads compute at the same time."""
    opened = ctypes.CDLL(str(path))
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(opened, name)
        function.restype, function.argtypes = result, arguments
    if (version := opened.echostream_version()) != VERSION:
        raise ValueError(f"version {version} of its interface, expected {VERSION}; install the package again")
    return opened


def instructions() -> str | None:
    """Which of `PATHS` is taken here; None: the operator is not used.

    Raises ConfigError where ECHOSTREAM_NATIVE asks for what there is not."""
    wanted = os.environ.get(VARIABLE) or "auto"
    if wanted not in ("auto", "off", *PATHS):
        raise ConfigError(f"{VARIABLE} '{wanted}': use auto, off, {', '.join(PATHS)}")
    if wanted == "off":
        return None
    there = [path for path in PATHS if has(path)]
    if wanted in PATHS:
        if library() is None:
            raise ConfigError(f"{VARIABLE} '{wanted}': the compiled operator was not built; use auto or off")
        if wanted not in there:
            raise ConfigError(f"{VARIABLE} '{wanted}': this processor cannot take it; it has {', '.join(there)}")
        return wanted
    # four floats at a time are for comparison: torch's own products are faster where there is no better path
    return there[-1] if len(there) > 1 else None


def has(path: str) -> bool:
    """Was the operator built, and can this processor take the path?"""
    found = library()
    return found is not None and bool(found.echostream_has_path(PATHS.index(path)))


def readable(tensor: Tensor | None, *shape: int) -> bool:
    """Can the operator read this tensor at its address? One that is not there is not read."""
    if tensor is None:
        return True
    there = tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
    return there and tensor.shape == shape


def check_types(*state: Tensor) -> None:
    """Raise ValueError for parts of a state that no float32 model on the CPU made, as after bfloat16 steps."""
    if not all(tensor.dtype == torch.float32 and tensor.is_cpu for tensor in state):
        given = ", ".join(sorted({f"{tensor.dtype} on {tensor.device}" for tensor in state}))
        raise ValueError(f"a state of {given}, where this model takes torch.float32 on cpu")


def computes(x: Tensor) -> bool:
    """Can the operator take this input? Only float32 on the CPU, neither under autocast nor within a trace."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return not (torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"))
