"""`echostream benchmark -o benchmark`: what a second of speech costs, on this machine."""

import argparse
import shlex
from pathlib import Path

import matplotlib  # noqa: F401  the picture comes last: it is missed before the measuring
import torch
import torchaudio  # noqa: F401  one of those that are measured

from echostream_plugin.benchmark import regressions, zipformer
from echostream_plugin.benchmark.parts import PARTS, measure_part
from echostream_plugin.benchmark.report import as_json, markdown, write
from echostream_plugin.benchmark.run import Plan, measure, profiles
from echostream_plugin.cli_errors import DONE, check_free
from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.table import TableError, commit, replace_block, require_marks
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.machine import device_name
from echostream_plugin.modules.native import instructions

DESCRIPTION = """Measures what a second of speech costs: EchoStream, torchaudio's Emformer and StreamSpeech's encoder in
one process, one run. About 25 minutes on a CPU. Writes benchmark.json, benchmark.md and benchmark.png. Weights are
random; times are medians with quartiles. Let nothing else run on the machine meanwhile."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("benchmark"), help="folder for the results (default: %(default)s)")
    add("--device", default="cpu", help="torch device (default: %(default)s)")
    add("--threads", type=int, nargs="+", default=[1, 2], help="measure with so many threads, in turn (default: 1 2)")
    add("--quantize", choices=["none", "int8"], default="none", help="add a row: dynamic int8 (CPU)")
    add("--write", type=Path, metavar="PAGE", help="also put the tables between the marks of this page")
    add("--rows", choices=["all", "zipformer", *PARTS], default="all", help="measure only these (default: %(default)s)")
    add("--compare", type=Path, metavar="JSON", help="of an earlier run: also print what got slower since")
    add("--profile", action="store_true", help="only say where the time of an encoder step goes")
    add("--quick", action="store_true", help="a tiny model, short streams, few runs: does it run?")
    add("--overwrite", action="store_true", help="replace the results that are there")
    parser.set_defaults(run=run_benchmark)


def run_benchmark(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    check(args)
    plan = Plan(args.device, tuple(args.threads), args.quantize, args.quick)
    if args.profile:
        print(profiles(plan))
        return DONE
    name = "benchmark" if args.rows == "all" else args.rows
    check_free(args.output / f"{name}.json", args.overwrite)
    earlier, compared = regressions.read(args.compare) if args.compare else None, ""
    if earlier:
        regressions.check_settings(earlier, args.compare, plan.threads, plan.quick)
    try:
        if args.write:
            require_marks(args.write)
        if args.rows == "all":
            text, compared = everything(plan, args, earlier)
        else:
            text = zipformer_tables(plan, args.output) if args.rows == "zipformer" else part(plan, args)
        if args.write:
            replace_block(args.write, text)
    except TableError as error:
        raise InputError(str(error)) from error
    print(f"{text}\n{compared}" if compared else text)
    return DONE


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for what would be found out only in the end."""
    if min(args.threads) < 1:
        raise ConfigError("--threads must be at least 1")
    if args.compare and (args.profile or args.rows != "all"):
        raise ConfigError("--compare compares whole runs: leave out --rows and --profile")
    if args.write and not args.write.is_file():
        raise ConfigError(f"--write {args.write}: no such page")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch finds no GPU here")


def everything(plan: Plan, args: argparse.Namespace, earlier: dict | None) -> tuple[str, str]:
    """The tables of all that is measured, and what is worse than in an earlier run; tables and picture are written."""
    words = args.argv[args.argv.index("benchmark") + 1 :]
    results = {
        "command": shlex.join(["echostream", "benchmark", *words]),
        "commit": commit(),
        "device": plan.device,
        "machine": f"{device_name(plan.device)}, torch {torch.__version__}, operator: {instructions() or 'not used'}",
        "quick": plan.quick,
        "runs": [measure(plan, threads) for threads in plan.threads],
    }
    write(results, args.output)
    return markdown(results), regressions.compare(earlier, results) if earlier else ""


def part(plan: Plan, args: argparse.Namespace) -> str:
    """The table of one part, which is written as json too."""
    rows, table = measure_part(args.rows, plan.model, plan.threads[0], plan.device, plan.quick)
    write_json(args.output / f"{args.rows}.json", as_json(rows))
    return f"{device_name(plan.device)}, {plan.threads[0]} thread(s), commit {commit()}\n\n{table}"


def zipformer_tables(plan: Plan, output: Path) -> str:
    """The Zipformer's tables, written as zipformer.md and zipformer.json too."""
    torch.set_num_threads(plan.threads[0])
    found = zipformer.measure(plan.device, plan.sizes["offline_runs"], plan.quick)
    machine = f"{device_name(plan.device)}, {plan.threads[0]} thread(s), torch {torch.__version__}, commit {commit()}"
    tables = f"{machine}; float32, but for chunks, which sessions compute.\n\n{zipformer.markdown(found)}"
    write_json(output / "zipformer.json", as_json(found))
    write_text(output / "zipformer.md", tables)
    return tables
