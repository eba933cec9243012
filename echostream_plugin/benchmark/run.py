"""One run of the benchmark: encoders, sessions, vocoders and stacked sessions, one after the other."""

from dataclasses import asdict, dataclass, replace

import torch
from tqdm import tqdm

from echostream_plugin.benchmark.encoders import build_streams, time_offline, time_steps
from echostream_plugin.benchmark.measure import measure_machine
from echostream_plugin.benchmark.parts import PARTS
from echostream_plugin.benchmark.profile import profile_step, rows
from echostream_plugin.benchmark.report import table
from echostream_plugin.benchmark.sessions import random_bundle, time_batches, time_session
from echostream_plugin.benchmark.vocoder import time_vocoder
from echostream_plugin.config import CTCHeadConfig, EncoderConfig, ModelConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.modules.packed import can_pack
from echostream_plugin.vocoder import VocoderConfig, VocosConfig

FULL = {
    "ages": [1, 5, 10, 30, 60, 1800],
    "offline": [10, 30, 60, 120],
    "sessions": [5, 30, 300],
    "batches": [1, 2, 4, 8, 16, 32],
    "runs": 30,
    "offline_runs": 3,
}
EVERYWHERE = {"sessions_vocos": "sessions", "crowd": "crowd", "starts": "starts"}  # name in a run -> part
QUICK = {"ages": [1, 2], "offline": [2], "sessions": [2], "batches": [1, 2], "runs": 3, "offline_runs": 1}


@dataclass(frozen=True)
class Plan:
    """What is measured. device: torch's; threads: numbers of them, in turn; quantize: none or int8, a row more;
    quick: a tiny model, short streams and few runs."""

    device: str = "cpu"
    threads: tuple = (1, 2)
    quantize: str = "none"
    quick: bool = False

    @property
    def sizes(self) -> dict:
        """Lengths in seconds, sizes of batches, numbers of runs."""
        return QUICK if self.quick else FULL

    @property
    def model(self) -> ModelConfig:
        """The model's sizes; its weights are random."""
        return quick_model() if self.quick else ModelConfig()

    @property
    def encoder(self) -> EncoderConfig:
        """The model's encoder, without dropout."""
        return replace(self.model.encoder, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)


def quick_model() -> ModelConfig:
    """A model that shows in seconds that everything runs."""
    head = {"vocab": 40, "dim": 32}
    return ModelConfig(
        encoder=EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=64, subsampling_channels=4),
        asr=CTCHeadConfig(**head),
        st=CTCHeadConfig(**head),
        mt=TextDecoderConfig(vocab=40, dim=32, encoder_dim=32, layers=1, heads=2, ffn_dim=64),
        unit=UnitDecoderConfig(vocab=25, dim=32, encoder_layers=1, layers=1, heads=2, ffn_dim=64, upsample=5),
    )


def measure(plan: Plan, threads: int) -> dict:
    """Everything with so many threads; half an hour of a stream, and training, with the first number only."""
    sizes = plan.sizes
    if threads != plan.threads[0]:
        sizes = sizes | {"ages": [age for age in sizes["ages"] if age <= 60], "offline": []}
    torch.set_num_threads(threads)
    machine = measure_machine(plan.device, 8 if plan.quick else 256)
    run = {"threads": threads, "machine": asdict(machine)}
    run |= {"encoders": encoder_rows(plan, sizes, machine), "sessions": [], "sessions_bf16": [], "vocoder": []}
    vocoder = None if plan.quick else VocoderConfig(num_embeddings=plan.model.unit.units)
    bundle = random_bundle(plan.model, vocoder).to(plan.device)
    # a bundle's weights are stored in half precision
    optimize(bundle, "half" if plan.device == "cpu" and can_pack() else "auto")
    for seconds in tqdm(sizes["sessions"], desc="sessions"):
        run["sessions"].append(time_session(bundle, seconds))
    if bundle.vocoder is not None:
        vocos = VocosConfig(num_embeddings=vocoder.num_embeddings)
        for config in (bundle.vocoder.config, vocos):
            run["vocoder"] += time_vocoder(config, machine, sizes["offline_runs"], plan.device)
        bundle.vocoder.stream_dtype = torch.bfloat16
        run["sessions_bf16"] = [time_session(bundle, seconds) for seconds in sizes["sessions"]]
    run["batches"] = time_batches(bundle, sizes["batches"], sizes["runs"], plan.device)
    return run | {name: PARTS[part][0](plan.model, plan.device, plan.quick) for name, part in EVERYWHERE.items()}


def encoder_rows(plan: Plan, sizes: dict, machine) -> list[dict]:
    """The steps of every encoder, ours and others', and the whole utterance where it can be trained."""
    found = []
    for stream in tqdm(build_streams(plan.encoder, plan.device, plan.quantize), desc="encoders"):
        steps = time_steps(stream, sizes["ages"], sizes["runs"], plan.device)
        row = {"name": stream.name, "floor_ms": stream.floor(machine), "steps": steps, "offline": []}
        if stream.trains:
            row["offline"] = time_offline(stream, sizes["offline"], sizes["offline_runs"], plan.device)
        found.append(row)
    return found


def profiles(plan: Plan) -> str:
    """A table of where the time of a step goes, on the first number of threads."""
    torch.set_num_threads(plan.threads[0])
    streams = build_streams(plan.encoder, plan.device, plan.quantize)
    ours = [stream for stream in streams if "StreamSpeech" not in stream.name]
    found = [profile_step(stream, plan.sizes["runs"], plan.device) for stream in tqdm(ours, desc="profiling")]
    return table(["", "step, ms", "its matrices alone, ms", "operations, calls, share"], rows(found))
