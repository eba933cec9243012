#!/usr/bin/env python3
"""Evaluate a bundle, offline and simultaneously, on a SimulEval folder: wav_list.txt, target.txt, maybe src and unit.

    python scripts/evaluate.py --bundle examples/quickstart/bundle --data corpus/simuleval/test --output eval --jobs 2

Every utterance is kept as it is done, so the same command goes on where it stopped, with any --jobs. Runs lie in a
folder named by the digest of the bundle's content, so a bundle that was replaced is evaluated anew. Writes results.json
and results.md; --write-readme puts the table between the marks of a README. Exit status 3: the model collapsed (one
output for all).
"""

import argparse
import datetime
import logging
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from echostream_plugin.config import ConfigError  # noqa: E402
from echostream_plugin.evaluation import claim, simul  # noqa: E402
from echostream_plugin.evaluation.judge import Judge, JudgeError, bleu, wer  # noqa: E402
from echostream_plugin.evaluation.offline import translate_offline  # noqa: E402
from echostream_plugin.evaluation.scores import COLUMNS, LEGEND, score_run  # noqa: E402
from echostream_plugin.evaluation.table import (  # noqa: E402
    TableError,
    commit,
    markdown_table,
    replace_block,
    write_atomically,
    write_json,
)
from echostream_plugin.inference.digest import bundle_digest  # noqa: E402
from echostream_plugin.inference.errors import BundleError  # noqa: E402

COLLAPSED = 3
DIGITS = 12  # of the bundle's digest, in names and tables


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--data", required=True, type=Path, help="folder with wav_list.txt and target.txt")
    parser.add_argument("--output", required=True, type=Path, help="folder of runs and results; goes on if it exists")
    parser.add_argument("--segments-ms", type=int, nargs="*", default=[320, 640, 960], help="segment sizes")
    parser.add_argument("--no-offline", action="store_true", help="leave the offline translation out")
    parser.add_argument("--no-judge", action="store_true", help="leave ASR-BLEU out (no whisper)")
    parser.add_argument("--units", type=Path, help="reference units, a line each, to resynthesise (default: unit.txt)")
    parser.add_argument("--no-units", action="store_true", help="leave out the resynthesis of the reference units")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many utterances")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--agent-args", default="", help="further flags for the agent, in quotes")
    parser.add_argument("--write-readme", type=Path, help="replace the results block of this file")
    return parser.parse_args(argv)


def read_data(folder: Path, limit: int, units: Path | None = None):
    """Recordings, references, source texts and reference units (empty lists where a file is not there)."""
    wavs = simul.resolve_wavs(folder / "wav_list.txt")
    lists = {}
    for name in ("target", "src", "unit"):
        path = units if units and name == "unit" else folder / f"{name}.txt"
        optional = name == "src" or (name == "unit" and units is None)
        lists[name] = [] if optional and not path.is_file() else simul.read_list(path)
        if lists[name] and len(lists[name]) != len(wavs):
            raise simul.SimulError(f"{path}: {len(lists[name])} lines for {len(wavs)} recordings of wav_list.txt")
    limit = limit or len(wavs)
    return wavs[:limit], lists["target"][:limit], lists["src"][:limit], lists["unit"][:limit]


def resynthesis_row(bundle: Path, unit_lines, references, judge, folder: Path, cache) -> dict:
    """How well the judge reads the vocoder's speech of the reference units: the ceiling of every other row."""
    from echostream_plugin.evaluation.resynthesis import read_back

    heard = read_back(bundle, unit_lines, judge, folder, cache)
    row = {"mode": "reference units, resynthesised", "asr_bleu": bleu(heard, references)}
    return row | {"heard_wer": wer(heard, references)}


def runs_folder(args) -> Path:
    """Where the runs of this bundle's content lie."""
    return args.output / f"bundle-{bundle_digest(args.bundle)[:DIGITS]}"


def evaluate(args) -> list[dict]:
    """One row of scores for each way of translating."""
    wavs, references, sources, unit_lines = read_data(args.data, args.limit, args.units)
    bundle, output = args.bundle.resolve(), runs_folder(args)
    judge = None if args.no_judge else Judge(threads=args.jobs)
    cache = args.output / "transcripts.jsonl"
    rows = []
    if judge is not None and unit_lines and not args.no_units:
        rows.append(resynthesis_row(bundle, unit_lines, references, judge, output / "reference_units", cache))
    if not args.no_offline:
        runs = translate_offline(wavs, references, output / "offline", bundle, args.jobs)
        rows.append({"mode": "offline"} | score_run(runs, references, judge, sources, cache, timed=False))
    for segment_ms in args.segments_ms:
        flags = ["--bundle", bundle, *shlex.split(args.agent_args)]
        name = f"{segment_ms} ms"
        folder = output / f"simul{segment_ms}"
        runs = simul.run(wavs, references, folder, segment_ms, flags, jobs=args.jobs, progress=name)
        rows.append({"mode": name} | score_run(runs, references, judge, sources, cache))
        print(f"{name}: " + ", ".join(f"{key} {row_value(rows[-1], key)}" for key in ("asr_bleu", "text_bleu", "AL")))
    return rows


def row_value(row: dict, key: str) -> str:
    return f"{row[key]:.1f}" if key in row else "-"


def report(rows, args) -> str:
    """The markdown block: table, legend, and the command and commit that made it."""
    used = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    count = max((row.get("utterances", 0) for row in rows), default=0)
    lines = [markdown_table(rows, used), "", LEGEND, ""]
    for row in rows:
        if row.get("collapsed"):
            lines += [f"**Collapsed** ({row['mode']}): {row['distinct']} distinct outputs for {count} recordings.", ""]
    facts = provenance(args)
    lines.append(f"{count} utterances, {facts['date']}, commit {facts['commit']}, bundle {facts['bundle'][:DIGITS]}:")
    lines += ["", "    python " + shlex.join(["scripts/evaluate.py", *args.command])]
    return "\n".join(lines)


def provenance(args) -> dict:
    """The bundle's digest, and when and with which commits its translations were made, not read."""
    folder = runs_folder(args)
    made = claim.made(note.parent for note in sorted(folder.glob(f"*/{claim.NOTE}")))
    now = {"commit": [commit(ROOT)], "date": [str(datetime.date.today())]}
    facts = {name: ", ".join(made[name] or now[name]) for name in now}
    return facts | {"bundle": bundle_digest(args.bundle)}


def main(argv=None) -> int:
    args = parse_args(argv)
    logging.disable(logging.INFO)  # fairseq turns on everybody's
    args.command = list(sys.argv[1:] if argv is None else argv)
    try:
        if not args.bundle.is_dir():
            raise simul.SimulError(f"{args.bundle}: no such bundle folder; train one with examples/quickstart/train.sh")
        rows = evaluate(args)
        text = report(rows, args)
        for folder in (runs_folder(args), args.output):  # a later bundle's results stand beside these
            write_json(folder / "results.json", {"command": args.command, **provenance(args), "rows": rows})
            write_atomically(folder / "results.md", text + "\n")
        if args.write_readme:
            replace_block(args.write_readme, text)
    except (simul.SimulError, JudgeError, TableError, ConfigError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return COLLAPSED if any(row.get("collapsed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
