"""What the program runs on: its processor, its devices, and the memory that it holds."""

import platform
from pathlib import Path

import torch


def device_name(device: str = "cpu") -> str:
    """The processor or GPU behind a torch device, as the system names it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return _told("cpuinfo", "model name") or platform.processor() or platform.machine()


def resident_mb() -> float:
    """The memory of this process, now; 0 where the system has no /proc."""
    size = _told("self/status", "VmRSS")
    return int(size.split()[0]) / 1024 if size else 0.0


def _told(name: str, key: str) -> str:
    """What a file of /proc says under a key; "" where it says nothing, or is not there."""
    try:
        lines = Path("/proc", name).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
