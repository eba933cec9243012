"""What the options of the streaming Whisper encoder cost: how far it is from Whisper before any training and after it,
and the time of an update and of a streaming step."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from echostream_plugin.adaptation.characters import Characters
from echostream_plugin.adaptation.speech import Batch, collate, load
from echostream_plugin.adaptation.teacher import WhisperTeacher, relative_distance
from echostream_plugin.adaptation.training import Adaptation, AdaptOptions
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.data.whisper_weights import adapted_options, load_whisper_encoder
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from echostream_plugin.inference.bundle import load_bundle

FULL = WhisperConfig(layers=6, halve_after=6)
# by what they change in FULL, and the segment in ms
VARIANTS = (
    ({}, 0), ({}, 960), ({}, 320), ({}, 160), ({"position": "rotary"}, 320),
    ({"halve_after": 4}, 320), ({"halve_after": 3}, 320), ({"halve_after": 2}, 320), ({"halve_after": 1}, 320),
    ({"layers": 5, "halve_after": 5}, 320), ({"layers": 4, "halve_after": 4}, 320),
    ({"left_context_frames": 12}, 320), ({"left_context_frames": 24}, 320), ({"left_context_frames": 96}, 320),
    ({"memory_size": 4}, 320),
)  # fmt: skip
TIMED = ({}, {"halve_after": 3}, {"halve_after": 2}, {"layers": 4, "halve_after": 4}, {"layers": 4, "halve_after": 2})


def distances(utterances: list, share_of: list, weights="auto") -> list[dict]:
    """How far encoders with Whisper's weights are from Whisper itself, relative to its features' energy.

    utterances: recordings to compare on; share_of: those over which the share of positions is measured."""
    teacher = WhisperTeacher(FULL, weights)
    teacher.measure_share(share_of, bf16=True)
    batch = collate([load(one) for one in utterances], [None] * len(utterances))
    rows = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        taught = teacher(batch.features, batch.lengths)
        for changes, chunk_ms in VARIANTS:
            encoder = WhisperEncoder(replace(FULL, **changes)).eval()
            load_whisper_encoder(encoder, weights)
            hidden, frames = encoder.hidden(batch.features, batch.lengths, chunk_ms // FRAME_MS)
            distance = relative_distance(hidden, taught, frames, encoder.coarse is not None)
            rows.append({"options": _told(changes), "segment_ms": chunk_ms, "distance": round(float(distance), 3)})
    return rows


def distances_of(encoders: list, utterances: list, share_of: list, weights="auto") -> list[dict]:
    """The same of encoders that were trained: adapted ones (.safetensors) and those of bundles, in segments of 320 and
    960 ms. What is far from Whisper on voices that it was not trained on has lost what Whisper knew of them.

    Raises ConfigError for an encoder that was not Whisper's, BundleError for what is no bundle."""
    trained = {Path(path).name: _trained(Path(path)) for path in encoders}
    teacher = WhisperTeacher(next(iter(trained.values())).config, weights)
    teacher.measure_share(share_of, bf16=True)
    batch = collate([load(one) for one in utterances], [None] * len(utterances))
    rows = []
    with torch.no_grad():
        taught = teacher(batch.features, batch.lengths)
        for name, encoder in trained.items():
            row = {"encoder": name}
            for chunk_ms in (320, 960):
                hidden, frames = encoder.hidden(batch.features, batch.lengths, chunk_ms // FRAME_MS)
                distance = relative_distance(hidden, taught, frames, encoder.coarse is not None)
                row[f"distance at {chunk_ms} ms"] = round(float(distance), 3)
            rows.append(row)
    return rows


def _trained(path: Path) -> WhisperEncoder:
    if path.suffix == ".safetensors":
        encoder = WhisperEncoder(WhisperConfig(**adapted_options(path)))
        load_whisper_encoder(encoder, path)
    else:
        encoder = load_bundle(path).model.encoder
    if not isinstance(encoder, WhisperEncoder):
        raise ConfigError(f"{path}: its encoder was not Whisper's")
    return encoder.eval()


def update_costs(batch_s: float, threads: tuple = (1, 2), weights="auto", repeats: int = 3) -> list[dict]:
    """Seconds of an update of the adaptation on noise, 4 s an utterance, teacher included, and of a step of 320 ms;
    the processor's own time by threads, so that what else runs counts little."""
    count = max(1, round(batch_s / 4))
    features = torch.randn(count, 400, 80)
    batch = Batch(features, torch.full((count,), 400), ["hola que tal"] * count)
    rows, before = [], torch.get_num_threads()
    for changes in TIMED:
        for number in threads:
            torch.set_num_threads(number)
            with TemporaryDirectory() as folder:
                options = AdaptOptions(chunk_ms=(320,), batch_s=batch_s)
                run = Adaptation(folder, replace(FULL, **changes), options, Characters.of(batch.texts), weights)
                seconds = min(_timed(lambda run=run: run.step(batch), number) for _ in range(repeats))
                step_ms = 1000 * _step_seconds(run.student.encoder.eval(), number)
            rows.append({"options": _told(changes), "threads": number, "update_s": round(seconds, 2),
                         "step_ms": round(step_ms, 1)})  # fmt: skip
    torch.set_num_threads(before)
    return rows


@torch.inference_mode()
def _step_seconds(encoder: WhisperEncoder, threads: int, steps: int = 12) -> float:
    """Of a push of 320 ms in a stream, the median."""
    state, times = encoder.initial_state(1, 8), []
    for _ in range(steps):
        start = time.process_time()
        _, state = encoder.step(torch.randn(1, 32, 80), state)
        times.append((time.process_time() - start) / threads)
    return sorted(times)[steps // 2]


def _timed(call, threads: int) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) / threads


def _told(changes: dict) -> str:
    known = asdict(FULL)
    told = {"layers": known["layers"], "halve_after": known["halve_after"], **changes}
    return ", ".join(f"{name} {value}" for name, value in told.items())
