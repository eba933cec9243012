"""Where the time of an encoder step goes: matrices alone, Python, and operations by name."""

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from echostream_plugin.benchmark.encoders import Stream
from echostream_plugin.benchmark.measure import Spread, timed
from echostream_plugin.modules.recording import record_calls


@torch.inference_mode()
def profile_step(stream: Stream, runs: int, device: str, top: int = 8) -> dict:
    """A step in ms (Spread), its matrices alone (Spread), and its `top` operations: (name, calls, share of all)."""
    with record_calls():
        stream.advance()
    step = timed(stream.step, runs, device)
    inputs = _inputs_of_matrices(stream)
    matrices = timed(lambda: [layer(x) for layer, x in inputs], runs, device)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        for _ in range(runs):
            stream.step()
    averages = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in averages)
    operations = [(event.key, event.count // runs, event.self_cpu_time_total / total) for event in averages[:top]]
    return {"name": stream.name, "ms": step, "matrices_ms": matrices, "operations": operations}


def _inputs_of_matrices(stream: Stream) -> list:
    """(layer, input) of every linear layer of a step that runs as Python."""
    caught, hooks = [], []
    for layer in stream.module.modules():
        if isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_pre_hook(lambda module, args: caught.append((module, args[0]))))
    names = "_recorder", "_native"  # what runs elsewhere
    fast = [(vars(module), name) for module in stream.module.modules() for name in names if name in vars(module)]
    kept = [space[name] for space, name in fast]
    for space, name in fast:
        space[name] = None
    stream.step()
    for (space, name), value in zip(fast, kept, strict=True):
        space[name] = value
    for hook in hooks:
        hook.remove()
    return caught


def rows(profiles: list) -> list:
    """Cells of a markdown table: name, step, matrices, operations."""
    return [
        [
            each["name"],
            _number(each["ms"]),
            _number(each["matrices_ms"]),
            ", ".join(
                f"{name.removeprefix('aten::')} {count}x {share:.0%}" for name, count, share in each["operations"]
            ),
        ]
        for each in profiles
    ]


def _number(spread: Spread) -> str:
    return f"{spread.median:.1f}"
