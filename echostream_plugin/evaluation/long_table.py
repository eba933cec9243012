"""The tables of an evaluation on long recordings: a row for each recording, policy and kind of output."""

import datetime
import shlex
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.evaluation import claim
from echostream_plugin.evaluation.intervals import Interval, places
from echostream_plugin.evaluation.long_recordings import Segment, read_segmentation
from echostream_plugin.evaluation.long_run import Push, read_pushes, run
from echostream_plugin.evaluation.longform import (
    COURSE,
    LEGEND,
    QUALITY,
    SCORED,
    revised_bleu,
    score_boundaries,
    score_course,
    score_words,
    write_scored,
    written,
)
from echostream_plugin.evaluation.oracle import ORACLE
from echostream_plugin.evaluation.rows import ROOT
from echostream_plugin.evaluation.speech_words import speech_words
from echostream_plugin.evaluation.table import commit, markdown_table
from echostream_plugin.evaluation.voices import flat
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.bundle import Bundle, load_bundle
from echostream_plugin.inference.digest import DIGITS, bundle_digest
from echostream_plugin.inference.endpointing.base import LONG_PAUSE_MS
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import bundle_options, read_policy

DEFAULTS = {"pause_ms": LONG_PAUSE_MS}


@dataclass(frozen=True)
class LongEvaluation:
    """What is evaluated, and how.

    bundle: folder; recordings: folder with segmentation.yaml; output: folder of runs and results; policies: session
    options as `read_policy` takes them; push_ms: how much source is pushed at a time; asr: a `ScoringASR`, None:
    nothing is spoken; command: words that asked for it."""

    bundle: Path
    recordings: Path
    output: Path
    policies: list[str]
    push_ms: int = 320
    asr: object = None
    command: tuple = ()


def evaluate(asked: LongEvaluation) -> tuple[list[dict], list[Path]]:
    """The rows, and the folders of the runs that they are of. Raises DataError, ConfigError, BundleError, InputError,
    OutputError or ResumeError."""
    recordings = read_segmentation(asked.recordings)
    rows, folders = [], []
    for text in asked.policies:
        policy = {**DEFAULTS, "speech": asked.asr is not None, **read_policy(text)}
        bundle = ready(asked, policy)
        for wav, segments in tqdm(recordings.items(), desc=text, unit="recording", leave=False, disable=None):
            ends_ms = told_ends(segments, policy["pause_ms"])
            results = run(bundle, asked.bundle, wav, ends_ms, policy, asked.push_ms, asked.output)
            named = {"recording": wav.stem, "policy": text}
            rows += [named | row for row in scores(results, wav.name, segments, asked.asr)]
            folders.append(results)
    return rows, folders


def told_ends(segments: list[Segment], pause_ms: float) -> list[float]:
    """Where the oracle ends sentences: after as much silence as other end-pointers hear, or where the next begins, if
    that is sooner. With none, the rest of the silence would be the beginning of the next sentence."""
    starts = [segment.start_ms for segment in segments[1:]] + [float("inf")]
    return [min(segment.end_ms + pause_ms, start) for segment, start in zip(segments, starts, strict=True)]


def ready(asked: LongEvaluation, policy: dict) -> Bundle:
    """The bundle, prepared for the pushes of a policy."""
    if policy.get("endpointer") == ORACLE:
        policy = {**policy, "endpointer": "energy"}
    bundle = load_bundle(asked.bundle)
    return optimize(bundle, options=bundle_options(bundle, **policy), push_ms=asked.push_ms)


def scores(results: Path, wav: str, segments: list[Segment], asr) -> list[dict]:
    """Rows of a run: of its text and, where it spoke and there is a scoring ASR, of its speech."""
    pushes = read_pushes(results)
    text = written(pushes)
    write_scored(results / SCORED / "text", wav, text, segments, pushes[-1].source_ms)
    row = {"output": "text", **score_words(text, segments), "revised_bleu": revised_bleu(pushes, segments)}
    rows = [row | score_boundaries(pushes, segments) | score_course(pushes)]
    if asr is not None and _spoke(pushes):
        heard = speech_words(results, pushes, asr)
        write_scored(results / SCORED / "speech", wav, heard, segments, pushes[-1].source_ms)
        rows.append({"output": "speech", **score_words(heard, segments)})
    return rows


def _spoke(pushes: list[Push]) -> bool:
    return any(record.get("duration_ms") for push in pushes for record in push.events)


def report(rows: list[dict], folders: list[Path], asked: LongEvaluation) -> str:
    """Both tables as markdown, with the command and the commits that made them."""
    lines = []
    for columns in (QUALITY, COURSE):
        used = {key: title for key, title in columns.items() if any(row.get(key) is not None for row in rows)}
        lines += [markdown_table([_shown(row) for row in rows], used), ""]
    facts = provenance(folders, asked)
    lines += [LEGEND, "", f"{facts['date']}, commit {facts['commit']}, bundle {facts['bundle'][:DIGITS]}:", ""]
    return "\n".join([*lines, "    python " + shlex.join(["scripts/evaluate_longform.py", *asked.command])])


def _shown(row: dict) -> dict:
    """Numbers as intervals print them."""
    return {key: f"{v:.{places(v)}f}" if isinstance(v, float) else _text(v) for key, v in row.items() if v is not None}


def _text(value):
    return str(value) if isinstance(value, Interval) else value


def provenance(folders: list[Path], asked: LongEvaluation) -> dict:
    """The bundle's digest, and when and with which commits its translations were made."""
    made = claim.made(folders)
    now = {"commit": [commit(ROOT)], "date": [str(datetime.date.today())]}
    return {name: ", ".join(made[name] or now[name]) for name in now} | {"bundle": bundle_digest(asked.bundle)}


def write_results(rows: list[dict], folders: list[Path], asked: LongEvaluation) -> str:
    """Write longform.json and longform.md; returns the markdown."""
    text, facts = report(rows, folders, asked), provenance(folders, asked)
    written_rows = [flat(row) for row in rows]
    write_json(asked.output / "longform.json", {"command": list(asked.command), **facts, "rows": written_rows})
    write_text(asked.output / "longform.md", text + "\n")
    return text
