"""The vocoder: what a second of speech costs streamed in pushes of several sizes, and run once over everything."""

import time

import torch

from echostream_plugin.benchmark.measure import Machine, Spread, synchronize
from echostream_plugin.vocoder import VocoderConfig, VocosConfig
from echostream_plugin.vocoder.files import kind_of, make_vocoder
from echostream_plugin.vocoder.streaming import stream_of

PUSH_FRAMES = (2, 5, 10, 16, 48)  # frames of 20 ms: 16 are 320 ms


def speech_operations(config: VocoderConfig | VocosConfig) -> float:
    """Multiplications and additions of the matrix products and convolutions for a second of speech."""
    if isinstance(config, VocosConfig):
        return _vocos_operations(config)
    rate, channels = 1000 / config.frame_ms, config.upsample_initial_channel
    products = rate * config.model_in_dim * channels * 7
    for factor, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        products += rate * channels * (channels // 2) * kernel
        rate, channels = rate * factor, channels // 2
        # a residual block has two convolutions for each dilation
        blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        products += rate * channels**2 * sum(2 * kernel * len(dilations) for kernel, dilations in blocks)
    return 2 * (products + rate * channels * 7)


def _vocos_operations(config: VocosConfig) -> float:
    """Beside its transforms and depthwise convolutions, which are a hundredth."""
    rate, dim = 1000 / config.frame_ms, config.dim
    first = config.embedding_dim * (2 + dim * (config.left_frames + 1 + config.right_frames))
    block = 2 * dim * config.hidden_dim
    head = 3 * dim * (config.fft_size // 2 + 1)
    fine = config.steps_per_unit * (dim * dim + config.fine_blocks * block + head)
    return 2 * rate * (first + config.coarse_blocks * block + fine)


@torch.inference_mode()
def time_vocoder(
    config, machine: Machine, runs: int, device: str = "cpu", seconds: float = 2.0, pushes=PUSH_FRAMES
) -> list:
    """Rows {name, push_frames (0: run once), ms_per_second, floor_ms, state_bytes}, measured in turn in every run.

    config: a VocoderConfig or a VocosConfig. Random weights; frames of 20 ms go in, so that the durations, whose cost
    is nothing beside, do not matter."""
    torch.manual_seed(0)
    model = make_vocoder(config).remove_weight_norm().eval().to(device)
    frames = _random_frames(config, round(1000 * seconds / config.frame_ms), device)
    works, rows = [lambda: model.generate(frames)], []
    floor = 1000 * speech_operations(config) / machine.operations_per_second
    name = f"{kind_of(config)}, run once over everything"
    rows.append({"name": name, "push_frames": 0, "floor_ms": floor, "state_bytes": 0})
    for dtype in (torch.float32, torch.bfloat16):
        generator = stream_of(model, dtype)
        # the middle of a stream, where every push of f frames gives f frames of samples
        warm = _random_frames(config, 2 * frames.size(1), device)
        state = generator.step(warm, generator.initial_state())[1]
        for push in pushes:
            works.append(lambda generator=generator, state=state, push=push: _stream(generator, state, frames, push))
            name = f"{kind_of(config)}, streamed, {str(dtype).removeprefix('torch.')}"
            # the floor is float32's: the measured matrix rate says nothing about bfloat16
            limit = floor if dtype == torch.float32 else None
            rows.append({"name": name, "push_frames": push, "floor_ms": limit, "state_bytes": state.nbytes})
    for row, times in zip(rows, _in_turn(works, runs, device), strict=True):
        row["ms_per_second"] = Spread.of([each / seconds for each in times])
    return rows


def _random_frames(config, count: int, device: str):
    """Units [1, count], with a pitch [1, count, 2] where the vocoder has one."""
    units = torch.randint(0, config.num_embeddings, (1, count), device=device)
    if kind_of(config) == "code_hifigan":
        return units
    return torch.stack([units, torch.full_like(units, 110)], dim=2).float()


def _stream(generator, state, frames, push: int):
    for part in frames.split(push, dim=1):
        _, state = generator.step(part, state)


def _in_turn(works: list, runs: int, device: str) -> list:
    """Milliseconds of each piece of work in each run; the first run does not count."""
    times = [[] for _ in works]
    for run in range(1 + runs):
        for work, found in zip(works, times, strict=True):
            synchronize(device)
            began = time.perf_counter()
            work()
            synchronize(device)
            if run:
                found.append(1000 * (time.perf_counter() - began))
    return times
