#!/usr/bin/env python3
"""What a second of speech costs: EchoStream, torchaudio's Emformer and StreamSpeech's encoder in one process, one run.

    python scripts/benchmark.py --output benchmark              # everything; about 25 minutes on a CPU
    python scripts/benchmark.py --quick                         # a tiny model and short streams: does it run?
    python scripts/benchmark.py --profile                       # only: where does the time of a step go?
    python scripts/benchmark.py --threads 1 2 --device cpu --quantize int8
    python scripts/benchmark.py --compare docs/benchmark.json   # what got slower since that run, beyond the noise?
    python scripts/benchmark.py --rows zipformer                # only the Zipformer, beside what was claimed for it

Writes benchmark.json, benchmark.md and benchmark.png. Weights are random; times are medians with quartiles. Let nothing
else run on the machine meanwhile.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from echostream_plugin.benchmark import regressions, zipformer  # noqa: E402
from echostream_plugin.benchmark.encoders import build_streams, time_offline, time_steps  # noqa: E402
from echostream_plugin.benchmark.hardware import processor  # noqa: E402
from echostream_plugin.benchmark.measure import measure_machine  # noqa: E402
from echostream_plugin.benchmark.parts import PARTS, measure_part  # noqa: E402
from echostream_plugin.benchmark.profile import profile_step, rows  # noqa: E402
from echostream_plugin.benchmark.report import as_json, markdown, table, write  # noqa: E402
from echostream_plugin.benchmark.sessions import random_bundle, time_batches, time_session  # noqa: E402
from echostream_plugin.benchmark.vocoder import time_vocoder  # noqa: E402
from echostream_plugin.config import (  # noqa: E402
    ConfigError,
    CTCHeadConfig,
    EncoderConfig,
    ModelConfig,
    TextDecoderConfig,
    UnitDecoderConfig,
)
from echostream_plugin.evaluation.table import commit, replace_block  # noqa: E402
from echostream_plugin.inference.optimize import optimize  # noqa: E402
from echostream_plugin.modules.native import instructions  # noqa: E402
from echostream_plugin.modules.packed import can_pack  # noqa: E402
from echostream_plugin.vocoder import VocoderConfig, VocosConfig  # noqa: E402

FULL = {
    "ages": [1, 5, 10, 30, 60, 1800],
    "offline": [10, 30, 60, 120],
    "sessions": [5, 30, 300],
    "batches": [1, 2, 4, 8, 16, 32],
    "runs": 30,
    "offline_runs": 3,
}
EVERYWHERE = {"sessions_vocos": "sessions", "crowd": "crowd", "starts": "starts"}  # of the results: the part
QUICK = {"ages": [1, 2], "offline": [2], "sessions": [2], "batches": [1, 2], "runs": 3, "offline_runs": 1}


def quick_model() -> ModelConfig:
    head = {"vocab": 40, "dim": 32}
    return ModelConfig(
        encoder=EncoderConfig(dim=32, layers=2, heads=2, ffn_dim=64, subsampling_channels=4),
        asr=CTCHeadConfig(**head),
        st=CTCHeadConfig(**head),
        mt=TextDecoderConfig(vocab=40, dim=32, encoder_dim=32, layers=1, heads=2, ffn_dim=64),
        unit=UnitDecoderConfig(vocab=25, dim=32, encoder_layers=1, layers=1, heads=2, ffn_dim=64, upsample=5),
    )


def measure(args, sizes: dict, threads: int) -> dict:
    """Everything with so many threads; half an hour of a stream, and training, with the first number only."""
    if threads != args.threads[0]:
        sizes = sizes | {"ages": [age for age in sizes["ages"] if age <= 60], "offline": []}
    torch.set_num_threads(threads)
    model = quick_model() if args.quick else ModelConfig()
    machine = measure_machine(args.device, 8 if args.quick else 256)
    run = {"threads": threads, "machine": asdict(machine), "encoders": [], "sessions": [], "sessions_bf16": []}
    run |= {"vocoder": [], "batches": []}
    for stream in tqdm(build_streams(encoder_config(model), args.device, args.quantize), desc="encoders"):
        steps = time_steps(stream, sizes["ages"], sizes["runs"], args.device)
        row = {"name": stream.name, "floor_ms": stream.floor(machine), "steps": steps, "offline": []}
        if stream.trains:
            row["offline"] = time_offline(stream, sizes["offline"], sizes["offline_runs"], args.device)
        run["encoders"].append(row)
    vocoder = None if args.quick else VocoderConfig(num_embeddings=model.unit.vocab - 5)
    bundle = random_bundle(model, vocoder).to(args.device)
    # a bundle's weights are stored in half precision
    optimize(bundle, "half" if args.device == "cpu" and can_pack() else "auto")
    for seconds in tqdm(sizes["sessions"], desc="sessions"):
        run["sessions"].append(time_session(bundle, seconds))
    if bundle.vocoder is not None:
        vocos = VocosConfig(num_embeddings=vocoder.num_embeddings)
        for config in (bundle.vocoder.config, vocos):
            run["vocoder"] += time_vocoder(config, machine, sizes["offline_runs"], args.device)
        bundle.vocoder.stream_dtype = torch.bfloat16
        run["sessions_bf16"] = [time_session(bundle, seconds) for seconds in sizes["sessions"]]
    run |= {name: PARTS[part][0](model, args.device, args.quick) for name, part in EVERYWHERE.items()}
    run["batches"] = time_batches(bundle, sizes["batches"], sizes["runs"], args.device)
    return run


def profiles(args, runs: int) -> str:
    """A table of where the time of a step goes, on the first number of threads."""
    torch.set_num_threads(args.threads[0])
    encoder = encoder_config(quick_model() if args.quick else ModelConfig())
    streams = [each for each in build_streams(encoder, args.device, args.quantize) if "StreamSpeech" not in each.name]
    found = [profile_step(stream, runs, args.device) for stream in tqdm(streams, desc="profiling")]
    return table(["", "step, ms", "its matrices alone, ms", "operations, calls, share"], rows(found))


def zipformer_rows(args, runs: int) -> int:
    """The Zipformer's tables: printed, written as zipformer.md and zipformer.json, and between a page's marks."""
    torch.set_num_threads(args.threads[0])
    found = zipformer.measure(args.device, runs, args.quick)
    machine = f"{processor(args.device)}, {args.threads[0]} thread(s), torch {torch.__version__}, commit {commit()}"
    tables = f"{machine}; float32, but for chunks, which sessions compute.\n\n{zipformer.markdown(found)}"
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "zipformer.json").write_text(json.dumps(as_json(found), indent=1))
    (args.output / "zipformer.md").write_text(tables)
    if args.write:
        replace_block(args.write, tables)
    print(tables)
    return 0


def encoder_config(model: ModelConfig) -> EncoderConfig:
    return replace(model.encoder, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmark"), help="folder for the results")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="measure with so many threads, in turn")
    parser.add_argument("--quantize", choices=["none", "int8"], default="none", help="add a row: dynamic int8 (CPU)")
    parser.add_argument("--write", type=Path, help="also put the tables between the marks of this page")
    parser.add_argument("--rows", choices=["all", "zipformer", *PARTS], default="all", help="measure only these")
    parser.add_argument("--compare", type=Path, help="json of an earlier run: also print what got slower since")
    parser.add_argument("--profile", action="store_true", help="only say where the time of an encoder step goes")
    parser.add_argument("--quick", action="store_true", help="a tiny model, short streams, few runs")
    args = parser.parse_args(argv)
    if min(args.threads) < 1:
        parser.error("--threads must be at least 1")
    if args.write and not args.write.is_file():
        parser.error(f"--write {args.write}: no such page")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    try:
        earlier = args.compare and regressions.read(args.compare)
    except ConfigError as error:
        parser.error(f"--compare {error}")
    sizes = QUICK if args.quick else FULL
    if args.rows == "zipformer":
        return zipformer_rows(args, sizes["offline_runs"])
    if args.rows in PARTS:
        model = quick_model() if args.quick else ModelConfig()
        found, tables = measure_part(args.rows, model, args.threads[0], args.device, args.quick)
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / f"{args.rows}.json").write_text(json.dumps(as_json(found), indent=1))
        print(f"{processor(args.device)}, {args.threads[0]} thread(s), commit {commit()}\n\n{tables}")
        return 0
    if args.profile:
        print(profiles(args, sizes["runs"]))
        return 0
    results = {
        "command": shlex.join(["python", "scripts/benchmark.py", *(sys.argv[1:] if argv is None else argv)]),
        "commit": commit(),
        "device": args.device,
        "machine": f"{processor(args.device)}, torch {torch.__version__}, operator: {instructions() or 'not used'}",
        "quick": args.quick,
        "runs": [measure(args, sizes, threads) for threads in args.threads],
    }
    write(results, args.output)
    if args.write:
        replace_block(args.write, markdown(results))
    print((args.output / "benchmark.md").read_text())
    if earlier:
        print(regressions.compare(earlier, results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
