#!/usr/bin/env python3
"""How good SpeechLLM-XL is by chunk, context and length, beside CTC and a decoder without chunks; and what it costs.

    python scripts/compare_chunked_decoder.py --bundle BUNDLE --data CORPUS/fbank2unit --out comparison

Trains each system from the bundle's encoder on the corpus (fairseq-train, the same updates, decoders of one size),
writes the test utterances down alone and joined to recordings of 2, 5 and 10, and makes the tables in OUT/tables.md:
word error rates with 95 % intervals (bootstrap over recordings), milliseconds and bytes a chunk. A decoder takes long
to learn to read frames: one with chunks and one without do so, for --updates, and each system continues from its own
for --more-updates. What was done is kept, so that the same command resumes where it was stopped; with --systems the one
without chunks may be trained beside the others. `--quick` does it in seconds on what is there, for a test.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from echostream_plugin.benchmark.chunks import cost_rows
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import read_table
from echostream_plugin.decoders.speechllm import SpeechLLMConfig
from echostream_plugin.evaluation.chunked import Utterance, length_table, measure
from echostream_plugin.evaluation.table import TableError, commit, markdown_table, replace_block, require_marks
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError

LENGTHS = (1, 2, 5, 10)
CONTEXT_FRAMES = 128  # 5.12 s, of the systems whose chunks differ


def seconds(frames: int) -> str:
    """Encoder frames as the tables say them."""
    return f"{frames * FRAME_MS / 1000:.2f} s"


@dataclass(frozen=True)
class System:
    """chunk_frames 0: no chunks; context_chunks -1: all."""

    chunk_frames: int
    context_chunks: int

    @property
    def name(self) -> str:
        return f"chunk{self.chunk_frames}_context{self.context_chunks}"

    def __str__(self):
        if not self.chunk_frames:
            return "without chunks"
        context = "all" if self.context_chunks < 0 else self.context_chunks
        return f"chunks of {seconds(self.chunk_frames)}, context {context}"


MAIN = System(32, 4)
BY_CHUNK = [System(size, CONTEXT_FRAMES // size) for size in (8, 16, 32, 64)]
BY_CONTEXT = [System(32, context) for context in (-1, 4, 2, 1, 0)]
WHOLE = System(0, -1)
SYSTEMS = list(dict.fromkeys([MAIN, WHOLE, *BY_CHUNK, *BY_CONTEXT]))
QUICK = {"systems": [System(8, 4), WHOLE], "updates": 2, "lengths": (1, 2), "limit": 4, "seconds": (1, 10)}
# both in seconds
SECONDS, COST_CONTEXTS = (1, 60, 1800), (-1, 4, 1, 0)
COSTS = {"context": "context, chunks", "seconds": "after, s", "ms": "ms a chunk", "state_mb": "state, MB"}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="whose encoder and CTC heads trainings begin with")
    parser.add_argument("--data", type=Path, required=True, help="data folder: manifests and yamls of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, results and tables.md")
    parser.add_argument("--config-yaml", default="config_gcmvn.yaml")
    parser.add_argument("--multitask-config-yaml", default="config_mtl_asr_st_ctcst.yaml")
    parser.add_argument("--train-subset", default="train")
    parser.add_argument("--test-subset", default="test")
    parser.add_argument("--updates", type=int, default=5000, help="of the first trainings (default %(default)s)")
    parser.add_argument("--more-updates", type=int, default=1000, help="of each system then (default %(default)s)")
    parser.add_argument("--systems", nargs="+", choices=[each.name for each in SYSTEMS], metavar="NAME",
                        help=f"only some, and no tables: {', '.join(each.name for each in SYSTEMS)}")  # fmt: skip
    parser.add_argument("--ctc-only-updates", type=int, default=0, help="at first, with CTC alone, where the bundle's "
                        "dictionary is not the corpus's")  # fmt: skip
    parser.add_argument("--max-tokens", type=int, default=6000, help="feature frames of 10 ms a batch")
    parser.add_argument("--encoder-lr-scale", type=float, default=0.1, help="of the encoder, by that of the rest")
    parser.add_argument("--beam", type=int, default=1, help="hypotheses inside a chunk; 1: greedy")
    parser.add_argument("--limit", type=int, help="test utterances (default: all)")
    parser.add_argument("--decoder", default="--llm-layers 4 --llm-dim 256 --llm-heads 4 --llm-ffn-dim 688",
                        help="flags of fairseq-train: the decoder's size (default %(default)s), and others, as "
                        "--autocast bf16 --freeze-encoder-layers 6 for speed; the encoder is the bundle's")  # fmt: skip
    parser.add_argument("--write", type=Path, help="also put the tables between the marks of this page")
    parser.add_argument("--quick", action="store_true", help="two systems, two updates, four utterances")
    args = parser.parse_args(argv)
    if args.quick:
        args.updates, args.more_updates, args.limit = QUICK["updates"], QUICK["updates"], QUICK["limit"]
    return args


def training_words(args, system: System, folder: Path, before: Path | None = None) -> list[str]:
    """fairseq-train's command line; before: the checkpoint that it goes on from, else the bundle's encoder."""
    from echostream_plugin.fairseq_ext.flags import encoder_words
    from echostream_plugin.fairseq_ext.speechllm.model import architecture_of

    config, updates = load_bundle(args.bundle).config, args.more_updates if before else args.updates
    first = ["--load-bundle-encoder", str(args.bundle), "--ctc-only-updates", str(args.ctc_only_updates)]
    return [
        str(args.data), "--task", "speech_to_text_chunks", "--target", "source_text",
        "--config-yaml", args.config_yaml, "--multitask-config-yaml", args.multitask_config_yaml,
        "--arch", architecture_of(config.encoder.kind), *args.decoder.split(), *encoder_words(config),
        *(["--finetune-from-model", str(before)] if before else first),
        "--encoder-lr-scale", str(args.encoder_lr_scale),
        "--llm-chunk-frames", str(system.chunk_frames), "--llm-context-chunks", str(system.context_chunks),
        "--criterion", "speechllm_ctc", "--optimizer", "adam", "--lr", "0.0005" if before else "0.001",
        "--lr-scheduler", "polynomial_decay", "--power", "1", "--warmup-updates", str(max(1, updates // 10)),
        "--end-learning-rate", "0" if before else "0.0005", "--total-num-update", str(updates),
        "--clip-norm", "1.0", "--max-update", str(updates),
        "--max-tokens", str(args.max_tokens), "--train-subset", args.train_subset, "--disable-validation",
        "--save-dir", str(folder), "--no-epoch-checkpoints", "--save-interval-updates", "250",
        "--keep-interval-updates", "1", "--seed", "1", "--log-interval", "50", "--log-format", "tqdm",
        *([] if torch.cuda.is_available() else ["--cpu"]),
    ]  # fmt: skip


def utterances_of(args, bundle) -> list[Utterance]:
    """The test split, its features normalised as the bundle says."""
    from echostream_plugin.fairseq_ext.dataset import load_features

    rows = read_table(args.data / f"{args.test_subset}.tsv", ("id", "src_audio", "src_text"))
    kind = bundle.config.encoder.features
    return [
        Utterance((load_features(str(args.data / row["src_audio"]), kind) - bundle.cmvn_mean) / bundle.cmvn_std,
                  row["src_text"])
        for row in tqdm(rows[: args.limit], desc="features", unit="utterance")
    ]  # fmt: skip


def trained(args, system: System) -> Path:
    """The checkpoint of a system, from what learnt to read frames with chunks, or without."""
    first = MAIN if system.chunk_frames else WHOLE
    before, folder = args.out / f"first_{first.name}", args.out / system.name
    learnt = _checkpoint(training_words(args, first, before), before, args.updates)
    return _checkpoint(training_words(args, system, folder, learnt), folder, args.more_updates)


def _checkpoint(words: list[str], folder: Path, updates: int) -> Path:
    """The last checkpoint of a training, which goes on where it is not done."""
    from echostream_plugin.fairseq_ext.checkpoints import training_updates
    from echostream_plugin.fairseq_ext.launch import train

    last = folder / "checkpoint_last.pt"
    if not last.is_file() or (training_updates(last) or 0) < updates:
        train(words)
    return last


def evaluated(args, system: System) -> dict:
    """What a system writes, trained and measured now where that was not done before."""
    from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle

    folder = args.out / system.name
    results = folder / "results.json"
    asked = {name: str(value) for name, value in vars(args).items() if name not in ("out", "write", "systems")}
    if results.is_file():
        found = json.loads(results.read_text(encoding="utf-8"))
        if found["asked"] != asked:
            raise ConfigError(f"{results}: of other options; give another --out, or remove it")
        return found["lengths"]
    bundle = load_checkpoint_bundle(trained(args, system), args.data)
    bundle.to("cuda" if torch.cuda.is_available() else "cpu")
    lengths = QUICK["lengths"] if args.quick else LENGTHS
    found = {"system": asdict(system), "asked": asked}
    found["lengths"] = measure(bundle, utterances_of(args, bundle), lengths, args.beam, system.name)
    write_json(results, found)
    return found["lengths"]


def llm_config(args, system: System) -> SpeechLLMConfig:
    """The decoder that a system was trained with."""
    from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle

    return load_checkpoint_bundle(args.out / system.name / "checkpoint_last.pt", args.data).config.llm


def tables(results: dict, chunk_frames: int, costs: list, lengths: tuple) -> str:
    """All that was measured, as markdown; chunk_frames: of the decoder that the costs are of."""
    by_name = {system.name: str(system) for system in SYSTEMS + QUICK["systems"]}
    sections = {
        "By length: joined test utterances": [MAIN, WHOLE, *QUICK["systems"]],
        f"By chunk, context {seconds(CONTEXT_FRAMES)}": BY_CHUNK,
        f"By context, chunks of {seconds(MAIN.chunk_frames)}": BY_CONTEXT,
    }
    parts = []
    for title, systems in sections.items():
        chosen = {each.name: results[each.name] for each in dict.fromkeys(systems) if each.name in results}
        if chosen:
            parts += [f"### {title}", "", length_table(chosen, lengths, by_name.get), ""]
    costs = [row | {"context": "all" if row["context"] < 0 else row["context"]} for row in costs]
    return "\n".join([*parts, f"### Cost of a chunk of {seconds(chunk_frames)}", "", markdown_table(costs, COSTS), ""])


def compare(args) -> str:
    """Train, measure, write the tables."""
    if args.write:
        require_marks(args.write)
    systems = QUICK["systems"] if args.quick else SYSTEMS
    systems = [each for each in systems if not args.systems or each.name in args.systems]
    results = {each.name: evaluated(args, each) for each in tqdm(systems, desc="systems", unit="system")}
    if args.systems:
        return f"done: {', '.join(results)}; without --systems the same command makes the tables"
    config = llm_config(args, systems[0])
    costs = cost_rows(
        config, COST_CONTEXTS, QUICK["seconds"] if args.quick else SECONDS, repeats=1 if args.quick else 9
    )
    page = tables(results, config.chunk_frames, costs, QUICK["lengths"] if args.quick else LENGTHS)
    shown = ("updates", "more_updates", "max_tokens", "encoder_lr_scale", "beam", "decoder")
    page += f"\n{', '.join(f'{name} {getattr(args, name)}' for name in shown)}; commit {commit()}\n"
    write_text(args.out / "tables.md", page)
    if args.write:
        replace_block(args.write, page)
    return page


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        print(compare(args))
    except (ConfigError, BundleError, DataError, TableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
