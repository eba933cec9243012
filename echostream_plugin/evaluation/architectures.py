"""Architectures side by side: trained on the same corpus for the same time, evaluated offline and in segments."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.intervals import CorpusBleu, CorpusWer, bootstrap
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.offline import translate_recordings
from echostream_plugin.evaluation.simul import Utterance
from echostream_plugin.evaluation.voices import average_lagging
from echostream_plugin.files import write_json
from echostream_plugin.inference.digest import DIGITS, bundle_digest

LOG = "train.jsonl"
LEAST_SECONDS = 10  # that a speed is measured over
COLUMNS = {
    "arch": "--arch", "parameters": "parameters, M", "updates": "updates", "mode": "mode", "wer": "ASR WER %",
    "text_bleu": "text BLEU", "uer": "unit error rate %", "AL": "AL ms",
}  # fmt: skip


class TrainingError(RuntimeError):
    """fairseq-train failed; the message names its log."""


@dataclass(frozen=True)
class Training:
    """What all architectures share. Raises ConfigError where nothing would end it.

    data: fbank2unit folder; folder: of the checkpoints and the log; hours: of training over all resumptions (0: no
    limit); updates: at most so many (0: no limit); flags: further ones for fairseq-train; threads: of torch, in each of
    `procs` processes, which share an update: every one has a batch of its own."""

    data: Path
    folder: Path
    hours: float
    updates: int = 0
    flags: tuple = ()
    threads: int = 2
    procs: int = 1

    def __post_init__(self):
        if not (self.hours or self.updates):
            raise ConfigError("a training without a limit never ends: give hours (minutes) or updates")

    def run(self, arch: str, flags: list[str]) -> Path:
        """Train, or resume where it was stopped or is given more than before; returns the last checkpoint. Raises
        TrainingError."""
        last, done = self.folder / "checkpoint_last.pt", self.folder / "done.json"
        limits = {"hours": self.hours, "updates": self.updates}
        if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == limits:
            return last
        self.folder.mkdir(parents=True, exist_ok=True)
        program = [sys.executable, "-m", *self._launcher(), "fairseq_cli.train"]
        command = [*program, str(self.data), *self._flags(), "--arch", arch]
        with open(self.folder / "train.log", "a", encoding="utf-8") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
            words = [*command, *flags, *self.flags]
            code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
        if code or not last.is_file():
            raise TrainingError(f"{arch}: fairseq-train ended with {code}; {self.folder / 'train.log'} says why")
        write_json(done, limits)
        return last

    def _launcher(self) -> list[str]:
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.procs), "-m"]
        return several if self.procs > 1 else []

    def _flags(self) -> list[str]:
        plugin = Path(__file__).resolve().parents[1]
        limits = ["--stop-time-hours", str(self.hours)] if self.hours else []
        limits += ["--max-update", str(self.updates)] if self.updates else []
        return [
            "--user-dir", str(plugin), "--task", "speech_to_speech_ctc", "--config-yaml", "config_gcmvn.yaml",
            "--multitask-config-yaml", "config_mtl_asr_st_ctcst.yaml", "--target-is-code", "--vocoder", "code_hifigan",
            "--criterion", "speech_to_unit_2pass_ctc_asr_st", "--label-smoothing", "0.1",
            "--k1", "0", "--n1", "1", "--k2", "0", "--n2", "1", "--uni-encoder", "--optimizer", "adam",
            "--adam-betas", "(0.9,0.98)", "--clip-norm", "5.0", "--train-subset", "train", "--valid-subset", "dev",
            "--save-dir", str(self.folder), "--log-format", "json", "--log-file", str(self.folder / LOG),
            "--no-epoch-checkpoints", "--keep-interval-updates", "1", "--seed", "1", "--num-workers", "1", "--cpu",
            *limits,
        ]  # fmt: skip


def learning_curve(folder: Path) -> list[dict]:
    """Minutes of training, updates and dev scores of each validation, from fairseq's log (whatever ran between)."""
    clock, points = {0: 0.0}, []
    for record in _records(Path(folder) / LOG):
        if "train_wall" in record and "wall" in record and "num_updates" in record:
            clock[int(record["num_updates"])] = float(record["wall"]) / 60
        if "dev_num_updates" in record:
            updates = int(record["dev_num_updates"])
            before = max(update for update in clock if update <= updates)
            scores = {name.removeprefix("dev_"): float(v) for name, v in record.items() if _is_score(name)}
            points.append({"minutes": clock[before], "updates": updates, **scores})
    return points


def updates_per_second(folder: Path, warm_up: int) -> float:
    """The speed of a training whose every update is logged, without the first ones. Raises TrainingError where there
    are too few: fairseq's clock has whole seconds."""
    log = Path(folder) / LOG
    clock = [(float(r["wall"]), int(r["num_updates"])) for r in _records(log) if {"ups", "wall"} <= r.keys()]
    counted = [(wall, updates) for wall, updates in clock if updates >= warm_up]
    seconds = counted[-1][0] - counted[0][0] if counted else 0.0
    if seconds < LEAST_SECONDS:
        raise TrainingError(f"{log}: {seconds:g} s after {warm_up} updates are too few to measure; train for more")
    return (counted[-1][1] - counted[0][1]) / seconds


def _is_score(name: str) -> bool:
    return name in ("dev_loss", "dev_asr_wer", "dev_st_wer", "dev_uer", "dev_asr_ter", "dev_st_ter")


def _records(log: Path):
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        start = line.find("{")
        try:
            record = json.loads(line[start:]) if start >= 0 else None
        except ValueError:  # torn by an interruption, or no record
            continue
        if isinstance(record, dict):
            yield record


def scores(utterances: list[Utterance], folder: Folder, units: list[str]) -> dict:
    """Word error rate of the transcript, BLEU of the translation, error rate of the units, average lagging of the
    written words, each with its interval. units: a line of reference units for each recording, [] where there are
    none."""
    count, row = len(utterances), {}
    if folder.sources:
        row["wer"] = bootstrap(count, CorpusWer([u.transcript_text for u in utterances], folder.sources))
    row["text_bleu"] = bootstrap(count, CorpusBleu([u.translation_text for u in utterances], folder.references))
    if units:
        row["uer"] = bootstrap(count, CorpusWer([" ".join(map(str, u.units)) for u in utterances], units))
    return row | average_lagging(utterances)


def evaluate(bundle: Path, output: Path, folder: Folder, units, segments_ms, jobs: int) -> list[dict]:
    """A row of `scores` offline (segment 0) and for every segment size; results are kept in `output`, for each content
    of the bundle. units: as in `scores`; they are made by bundles with a vocoder only."""
    rows, kept = [], output / f"bundle-{bundle_digest(bundle)[:DIGITS]}"
    for ms in segments_ms:
        name = f"{ms} ms" if ms else "offline"
        asked = {"chunk_ms": ms, "speech": bool(units)}
        found = translate_recordings(
            folder.wavs, folder.references, kept / f"segments{ms}", bundle, ms, jobs, asked, f"{output.name}, {name}"
        )
        row = scores(found, folder, units)
        if not ms:
            row.pop("AL", None)
        rows.append({"mode": name, **row})
    return rows
