"""What a measurement ran on."""

import platform
from pathlib import Path

import torch


def processor(device: str = "cpu") -> str:
    """The name of the processor or GPU behind a torch device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
