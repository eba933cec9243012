"""Clocks: time with spread, peak memory, and what this machine can do at best."""

import ctypes
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from echostream_plugin.modules.packed import PackedLinear


@dataclass(frozen=True)
class Spread:
    """Milliseconds of several runs of the same work."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, times: list) -> "Spread":
        """times: milliseconds; low and high are the quartiles (of fewer than four runs, the extremes)."""
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 3 else (min(times), 0.0, max(times))
        return cls(statistics.median(times), low, high, len(times))


def synchronize(device: str):
    """Wait until a GPU has done what it was given."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()


def timed(function, runs: int, device: str = "cpu", warmup: int = 2) -> Spread:
    """Milliseconds of function(), after `warmup` runs that do not count."""
    times = []
    for run in range(warmup + runs):
        synchronize(device)
        began = time.perf_counter()
        function()
        synchronize(device)
        if run >= warmup:
            times.append(1000 * (time.perf_counter() - began))
    return Spread.of(times)


def peak_bytes(function, device: str = "cpu") -> int | None:
    """Memory that function() needs at its peak beyond what is held before it; None where the system does not say.

    On a CPU the resident set of the process (Linux), whose high-water mark is reset first. Freed memory that the C
    library still holds is given back before, or the function would use it unseen."""
    if str(device).startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        function()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError):  # no /proc, or another C library
        function()
        return None


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {name}")
    return 1024 * int(found[1])


@dataclass(frozen=True)
class Machine:
    """What this machine does at best with the threads it was given."""

    bytes_per_second: float
    operations_per_second: float

    def floor_ms(self, weights: int, operations: float) -> float:
        """The least time of a step that reads `weights` bytes and does `operations`: the larger of the two parts."""
        return 1000 * max(weights / self.bytes_per_second, operations / self.operations_per_second)


def measure_machine(device: str = "cpu", megabytes: int = 256) -> Machine:
    """Memory bandwidth by summing a tensor far larger than the caches, matrix rate by a product of 1024 x 1024."""
    big = torch.ones(megabytes * 2**18, device=device)
    reading = timed(lambda: big.sum(), 7, device)
    matrix = torch.randn(1024, 1024, device=device)
    product = timed(lambda: matrix @ matrix, 9, device)
    return Machine(big.nbytes / (reading.median / 1000), 2 * 1024**3 / (product.median / 1000))


def step_operations(module: torch.nn.Module, frames: int) -> float:
    """Multiplications and additions of the matrices of a module over so many frames (attention scores left out)."""
    packed = sum(layer.in_features * layer.out_features for layer in _packed(module))
    return 2.0 * frames * (packed + sum(each.numel() for each in module.parameters() if each.dim() > 1))


def weight_bytes(module: torch.nn.Module) -> int:
    """Bytes of the weights as a step reads them: packed ones are smaller than what they were packed from."""
    packed = list(_packed(module))
    biases = {id(layer.bias) for layer in packed}
    return sum(layer.nbytes for layer in packed) + sum(p.nbytes for p in module.parameters() if id(p) not in biases)


def _packed(module: torch.nn.Module):
    return (layer for layer in module.modules() if isinstance(layer, PackedLinear))
