#!/usr/bin/env python3
"""StreamSpeech's model as its agent runs it, the same weights run incrementally, and EchoStream, on the same speech.

    python scripts/compare_streamspeech.py --write docs/streamspeech.md      # on an idle machine; some minutes
    python scripts/compare_streamspeech.py --quick                           # tiny models: does it run?

Full-size models with random weights, the same decoders and vocoder in all, but for a second EchoStream with weights of
half precision and the light vocoder; blanks are biased so that all write and speak at the rates of speech. Every system
hears the recordings of the quickstart's bundle, one after the other, in pushes of 320 ms; the systems take turns,
`--rounds` times. --write puts the table between the marks of a page.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from echostream_plugin.benchmark.compare import build_systems, read_recordings, summary, time_pushes
from echostream_plugin.benchmark.sessions import PUSH_MS
from echostream_plugin.config import (
    ChunkConformerConfig,
    CTCHeadConfig,
    EncoderConfig,
    ModelConfig,
    TextDecoderConfig,
    UnitDecoderConfig,
)
from echostream_plugin.evaluation.table import TableError, commit, markdown_table, replace_block
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.machine import device_name
from echostream_plugin.vocoder import VocoderConfig, VocosConfig
from echostream_plugin.vocoder.codehifigan import duration_params

SAMPLES = Path(__file__).resolve().parents[1] / "examples" / "quickstart" / "bundle" / "samples"
COLUMNS = {
    "audio": "audio",
    "system": "system",
    "rtf": "real-time factor",
    "push_ms": "push, median ms",
    "push_p95_ms": "95 % ms",
    "push_worst_ms": "worst ms",
    "encoder_ms": "encoder at the last push, ms",
    "encoder_mb": "its state, MB",
    "held_mb": "whole state, MB",
    "tokens_per_second": "tokens / s",
    "units_per_second": "units / s",
}
LEGEND = (
    "Times are of pushes of {push} ms; one that takes longer falls behind the speaker. State: the tensors that "
    "the encoder, and the whole session, hold after the last push; the rest of it is the decoders' caches, which grow "
    "with the sentence. Tokens and units: what was written and spoken for a second of source."
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, nargs="+", help="audio files (default: those of the bundle)")
    parser.add_argument("--seconds", type=float, nargs="+", help="lengths of speech (default: 5 10 30)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each system at each length")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--write", type=Path, help="replace the results block of this page")
    parser.add_argument("--quick", action="store_true", help="tiny models, short speech, one round")
    args = parser.parse_args(argv)
    args.seconds = args.seconds or ([1, 2] if args.quick else [5, 10, 30])
    args.rounds = 1 if args.quick else args.rounds
    args.recordings = args.recordings or sorted(SAMPLES.glob("*.wav"))
    if min(args.seconds) < PUSH_MS / 1000:
        parser.error(f"--seconds must be at least {PUSH_MS / 1000}, a push")
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if args.write and not args.write.is_file():
        parser.error(f"--write {args.write}: no such page")
    return args


def models(quick: bool) -> tuple[ModelConfig, ModelConfig, VocoderConfig, VocosConfig]:
    """EchoStream, StreamSpeech, vocoder, light vocoder: the defaults are the full sizes."""
    if not quick:
        unit = UnitDecoderConfig()
        vocoder = VocoderConfig(num_embeddings=unit.units)
        light = VocosConfig(num_embeddings=unit.units)
        return ModelConfig(), ModelConfig(encoder=ChunkConformerConfig()), vocoder, light
    size = {"dim": 32, "heads": 2, "ffn_dim": 64}
    parts = {
        "asr": CTCHeadConfig(vocab=60, dim=32),
        "st": CTCHeadConfig(vocab=60, dim=32),
        "mt": TextDecoderConfig(vocab=60, encoder_dim=32, layers=1, **size),
        "unit": UnitDecoderConfig(vocab=45, encoder_layers=1, layers=1, **size),
    }
    vocoder = VocoderConfig(
        num_embeddings=40,
        embedding_dim=8,
        model_in_dim=8,
        upsample_initial_channel=32,
        dur_predictor_params=duration_params(8),
    )
    return (
        ModelConfig(encoder=EncoderConfig(layers=2, subsampling_channels=4, **size), **parts),
        ModelConfig(encoder=ChunkConformerConfig(layers=2, conv_channels=32, **size), **parts),
        vocoder,
        VocosConfig(num_embeddings=40, embedding_dim=8, dim=16, hidden_dim=16, coarse_blocks=1, fine_blocks=1),
    )


def measure(args) -> list[dict]:
    """A row for every length and system."""
    lengths = [read_recordings(args.recordings, seconds) for seconds in args.seconds]
    systems = build_systems(*models(args.quick), max(lengths, key=len))
    rows = []
    with tqdm(total=len(lengths) * len(systems) * args.rounds, unit="session") as bar:
        for seconds, samples in zip(args.seconds, lengths, strict=True):
            runs = {system.name: [] for system in systems}
            for _ in range(args.rounds):
                for system in systems:
                    bar.set_description(f"{seconds:g} s, {system.name}")
                    runs[system.name].append(time_pushes(system, samples))
                    bar.update()
            for system in systems:
                rows.append({"audio": f"{seconds:g} s", **summary(system.name, runs[system.name])})
    return rows


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        rows = measure(args)
        command = shlex.join(["python", "scripts/compare_streamspeech.py", *(sys.argv[1:] if argv is None else argv)])
        machine = f"{device_name()}, {args.threads} thread(s), torch {torch.__version__}, commit {commit()}"
        table = markdown_table(rows, COLUMNS)
        text = f"{table}\n\n{LEGEND.format(push=PUSH_MS)}\n\n{machine}:\n\n    {command}"
        print(text)
        if args.write:
            replace_block(args.write, text)
    except (TableError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
