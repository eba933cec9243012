"""The rows of an evaluation: a bundle's scores offline and at several segment sizes, and the table made of them."""

import datetime
import shlex
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.evaluation import claim, simul
from echostream_plugin.evaluation.asr import ScoringASR
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.offline import translate_offline
from echostream_plugin.evaluation.scores import COLUMNS, LEGEND, bleu, score_run, wer
from echostream_plugin.evaluation.table import commit, markdown_table
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.digest import DIGITS, bundle_digest
from echostream_plugin.inference.languages import language_of, load_card

ROOT = Path(__file__).resolve().parents[2]  # of the source tree


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    bundle: folder; data: folder with wav_list.txt and target.txt, maybe src.txt and unit.txt; output: folder of runs
    and results; segments_ms: sizes of source segments; units: reference units instead of unit.txt; limit: only so many
    utterances (0: all); jobs: processes; agent_args: further flags of the agent; command: words that asked for it."""

    bundle: Path
    data: Path
    output: Path
    segments_ms: list[int]
    no_offline: bool = False
    no_asr_bleu: bool = False
    units: Path | None = None
    no_units: bool = False
    limit: int = 0
    jobs: int = 1
    agent_args: str = ""
    command: tuple = ()

    @property
    def runs(self) -> Path:
        """Where the runs of this bundle's content lie."""
        return self.output / f"bundle-{bundle_digest(self.bundle)[:DIGITS]}"


def resynthesis_row(bundle: Path, unit_lines, references, asr, folder: Path, cache) -> dict:
    """How well the scoring ASR transcribes the vocoder's speech of the reference units: the ceiling of all rows."""
    from echostream_plugin.evaluation.resynthesis import read_back

    transcripts = read_back(bundle, unit_lines, asr, folder, cache)
    row = {"mode": "reference units, resynthesised", "asr_bleu": bleu(transcripts, references)}
    return row | {"speech_wer": wer(transcripts, references)}


def evaluate(asked: Evaluation) -> list[dict]:
    """One row of scores for each way of translating. Raises SimulError, ScoringASRError, ConfigError or BundleError."""
    if not asked.bundle.is_dir():
        raise simul.SimulError(f"{asked.bundle}: no such bundle folder; train one with examples/quickstart/train.sh")
    if asked.segments_ms and not simul.AGENT.is_file():
        raise simul.SimulError(f"{simul.AGENT}: not there; evaluate from the source tree, with pip install -e .")
    data = Folder.read(asked.data, asked.limit, asked.units)
    wavs, references, sources = data.wavs, data.references, data.sources
    bundle, output = asked.bundle.resolve(), asked.runs
    language = language_of(load_card(bundle), "target") or "en"
    asr = None if asked.no_asr_bleu else ScoringASR(threads=asked.jobs, language=language)
    cache = asked.output / "transcripts.jsonl"
    rows = []
    if asr is not None and data.units and not asked.no_units:
        rows.append(resynthesis_row(bundle, data.units, references, asr, output / "reference_units", cache))
    if not asked.no_offline:
        runs = translate_offline(wavs, references, output / "offline", bundle, asked.jobs)
        rows.append({"mode": "offline"} | score_run(runs, references, asr, sources, cache, timed=False))
    for segment_ms in asked.segments_ms:
        flags = ["--bundle", bundle, *shlex.split(asked.agent_args)]
        name = f"{segment_ms} ms"
        folder = output / f"simul{segment_ms}"
        runs = simul.run(wavs, references, folder, segment_ms, flags, jobs=asked.jobs, progress=name)
        rows.append({"mode": name} | score_run(runs, references, asr, sources, cache))
        print(f"{name}: " + ", ".join(f"{key} {row_value(rows[-1], key)}" for key in ("asr_bleu", "text_bleu", "AL")))
    return rows


def row_value(row: dict, key: str) -> str:
    """A row's number with one digit, a dash where it has none."""
    return f"{row[key]:.1f}" if key in row else "-"


def report(rows, asked: Evaluation) -> str:
    """The markdown block: table, legend, and the command and commit that made it."""
    used = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    count = max((row.get("utterances", 0) for row in rows), default=0)
    lines = [markdown_table(rows, used), "", LEGEND, ""]
    for row in rows:
        if row.get("collapsed"):
            lines += [f"**Collapsed** ({row['mode']}): {row['distinct']} distinct outputs for {count} recordings.", ""]
    facts = provenance(asked)
    lines.append(f"{count} utterances, {facts['date']}, commit {facts['commit']}, bundle {facts['bundle'][:DIGITS]}:")
    lines += ["", "    echostream evaluate " + shlex.join(asked.command)]
    return "\n".join(lines)


def provenance(asked: Evaluation) -> dict:
    """The bundle's digest, and when and with which commits its translations were made, not read."""
    folder = asked.runs
    made = claim.made(note.parent for note in sorted(folder.glob(f"*/{claim.NOTE}")))
    now = {"commit": [commit(ROOT)], "date": [str(datetime.date.today())]}
    facts = {name: ", ".join(made[name] or now[name]) for name in now}
    return facts | {"bundle": bundle_digest(asked.bundle)}


def write_results(rows, asked: Evaluation) -> str:
    """Write results.json and results.md; returns the markdown block."""
    text = report(rows, asked)
    for folder in (asked.runs, asked.output):  # a later bundle's results stand beside these
        write_json(folder / "results.json", {"command": list(asked.command), **provenance(asked), "rows": rows})
        write_text(folder / "results.md", text + "\n")
    return text
