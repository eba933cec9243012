"""Run a SimulEval agent over a list of recordings, in several processes, resumable by utterance, and read the result.

    python -m echostream_plugin.evaluation.simul --agent agent/echostream_agent.py --source wav_list.txt ...

takes SimulEval's own flags and the agent's. It is SimulEval (its loader, instances and agent contract) with a loop that
writes every utterance to disk at once, with how long each push took and the texts as they grew (``pushes.jsonl``): the
agent logs those as events into its ``--extra-output-dir``.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.data.tables import write_lines
from echostream_plugin.evaluation.claim import NOTE, SimulError, claim, note_work
from echostream_plugin.evaluation.latency import SpeechInstance, TextInstance, read_speech_log, words_with_delays
from echostream_plugin.files import json_lines, write_text
from echostream_plugin.inference.events import KINDS, REFUSED, Unsure

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "agent" / "echostream_agent.py"
LOG, PUSHES, EVENTS = "instances.log", "pushes.jsonl", "events"
TRANSCRIPT, TRANSLATION, UNSURE = "source_text", "target_text", KINDS[Unsure]  # kinds of events that the agent logs


@dataclass(frozen=True)
class Utterance:
    """One recording and what became of it.

    transcript, translation: (source ms, text added) as written; pushes: (arrival ms, computing ms) of every push;
    refused: why it is no audio that could be translated, None where it is; unsure: (start ms, end ms, confidence) of
    what was heard and not translated, since it was not understood; units: of the translated speech, where they were
    noted.
    """

    index: int
    speech: SpeechInstance
    transcript: list[tuple[float, str]]
    translation: list[tuple[float, str]]
    pushes: list[tuple[float, float]]
    refused: str | None = None
    unsure: tuple = ()
    units: tuple = ()

    @property
    def source_ms(self) -> float:
        """Length of the source."""
        return self.speech.source_ms

    @property
    def transcript_text(self) -> str:
        """The whole transcript."""
        return "".join(text for _, text in self.transcript).strip()

    @property
    def translation_text(self) -> str:
        """The whole translation."""
        return "".join(text for _, text in self.translation).strip()

    @property
    def written(self) -> TextInstance:
        """The translation's words with their delays, for AL and LAAL."""
        words, delays = words_with_delays(self.translation, self.pushes[-1][0] if self.pushes else self.source_ms)
        return TextInstance(self.index, self.source_ms, words, delays, self.speech.reference)


def run(
    wavs, references, output, segment_ms, agent_arguments, agent=AGENT, jobs=1, progress="SimulEval"
) -> list[Utterance]:
    """Translate recordings simultaneously; resumes where an interrupted run stopped.

    agent_arguments: the agent's own flags, such as ["--bundle", folder]. Leaves in `output` a folder for each process.
    """
    if len(wavs) != len(references) or not wavs:
        raise SimulError(f"{len(wavs)} recordings and {len(references)} references: give one of each per utterance")
    output = Path(output).resolve()
    asked = [str(agent), *map(str, agent_arguments)]
    settings = {"wavs": list(map(str, wavs)), "references": list(references), "segment_ms": segment_ms, "agent": asked}
    claim(output, settings, [*wavs, *(path for word in asked[1:] for path in word.split(","))])
    write_lines(output / "wav_list.txt", wavs)
    write_lines(output / "target.txt", (" ".join(text.split()) for text in references))
    shards = _shards(output, len(wavs), jobs)
    if shards:
        note_work(output)
    workers = [_start(output, shard, segment_ms, agent, agent_arguments) for shard in shards]
    _wait(workers, output, len(wavs), progress)
    return read_run(output)


def _shards(output: Path, total: int, jobs: int) -> list[tuple[Path, int, int]]:
    """New folders for the utterances that no part has yet, each with its first index and the one after its last."""
    for part in _parts(output):
        _drop_torn_line(part / LOG)
    done = finished(output)
    waiting = [index for index in range(total) if index not in done]
    jobs = max(1, min(jobs, len(waiting)))
    bounds = [round(len(waiting) * job / jobs) for job in range(jobs + 1)]
    pieces = [waiting[first:last] for first, last in zip(bounds, bounds[1:], strict=False) if first < last]
    free = 1 + max((int(part.name.removeprefix("part")) for part in output.glob("part[0-9]*")), default=-1)
    return [(output / f"part{free + number}", piece[0], piece[-1] + 1) for number, piece in enumerate(pieces)]


def _parts(output: Path) -> list[Path]:
    """The folders of a run's processes that have begun to translate."""
    return sorted(part for part in output.glob("part[0-9]*") if (part / LOG).is_file())


def finished(output) -> set[int]:
    """Indices of the utterances that a claimed folder has."""
    parts = _parts(Path(output)) if (Path(output) / NOTE).is_file() else []
    return {instance.index for part in parts for instance in read_speech_log(part / LOG)}


def _start(output, shard, segment_ms, agent, agent_arguments):
    folder, first, last = shard
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "echostream_plugin.evaluation.simul", "--agent", str(agent),
        "--source", str(output / "wav_list.txt"), "--target", str(output / "target.txt"),
        "--output", str(folder), "--source-segment-size", str(segment_ms), "--start-index", str(first),
        "--end-index", str(last), "--no-progress-bar", "--no-scoring",
        "--extra-output-dir", str(folder / EVENTS), *map(str, agent_arguments),
    ]  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": _python_path(), "PYTHONWARNINGS": "ignore"}
    log = open(folder / "process.log", "a", encoding="utf-8")
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment), folder


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _drop_torn_line(log: Path) -> None:
    if log.is_file():
        text = log.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            write_text(log, text[: text.rfind("\n") + 1])


def _wait(workers, output: Path, total: int, progress) -> None:
    from tqdm import tqdm

    with tqdm(total=total, desc=progress, unit="wav", disable=progress is None) as bar:
        try:
            while True:
                running = [process for process, _ in workers if process.poll() is None]
                news = sum(_lines(part / LOG) for part in _parts(output)) - bar.n
                if news:
                    bar.update(news)
                failed = [(p, folder) for p, folder in workers if p.poll() not in (None, 0)]
                if failed:
                    process, folder = failed[0]
                    log = folder / "process.log"
                    tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
                    raise SimulError(f"SimulEval ended with {process.returncode}; {log} says:\n{tail}")
                if not running:
                    return
                time.sleep(0.3)
        finally:
            for process, _ in workers:
                if process.poll() is None:
                    process.terminate()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def read_run(output) -> list[Utterance]:
    """Everything a run left, in order of index."""
    utterances = {}
    for folder in _parts(Path(output)):
        notes = _read_notes(folder / PUSHES)
        for speech in read_speech_log(folder / LOG):
            note = notes.get(speech.index)
            if note is None:
                silent = f"{folder / PUSHES}: says nothing of utterance {speech.index}"
                raise SimulError(f"{silent}; remove {output} and run again")
            pushes = [tuple(push) for push in note["pushes"]]
            arrivals = [arrival for arrival, _ in pushes]
            pieces = {kind: [] for kind in (TRANSCRIPT, TRANSLATION)}
            for event in note["events"]:
                if event["kind"] in pieces:
                    # events are logged with rounded times; the push that they belong to has the exact one
                    time_ms = _nearest(arrivals, event["source_ms"])
                    pieces[event["kind"]].append((time_ms, event["added"]))
            reasons = [event.get("reason", "") for event in note["events"] if event["kind"] == REFUSED]
            refused = reasons[0] if reasons else None
            texts = (pieces[TRANSCRIPT], pieces[TRANSLATION]) if refused is None else ([], [])
            events = [event for event in note["events"] if event["kind"] == UNSURE and refused is None]
            unsure = tuple((event["start_ms"], event["end_ms"], event["confidence"]) for event in events)
            utterances[speech.index] = Utterance(speech.index, speech, *texts, pushes, refused, unsure)
    if not utterances:
        raise SimulError(f"{output}: holds no finished utterance; see {output}/part0/process.log")
    return [utterances[index] for index in sorted(utterances)]


def _nearest(times: list[float], time_ms: float) -> float:
    return min(times, key=lambda candidate: abs(candidate - time_ms))


def _read_notes(path: Path) -> dict[int, dict]:
    """By index; an utterance whose line is torn is run again."""
    return {entry["index"]: entry for entry in json_lines(path)}


class EventTail:
    """What an agent appended to the jsonl files of its ``--extra-output-dir`` since the last look."""

    def __init__(self, folder):
        self.folder = None if folder is None else Path(folder)
        self.offsets = {}
        self.new()

    def new(self) -> list[dict]:
        """New events in order; lines that are not events of a session are left out."""
        events = []
        for path in sorted(self.folder.glob("**/*.jsonl")) if self.folder else ():
            with open(path, "rb") as file:
                file.seek(self.offsets.get(path, 0))
                for line in file:
                    entry = json.loads(line)
                    if isinstance(entry, dict) and "kind" in entry and "source_ms" in entry:
                        events.append(entry)
                self.offsets[path] = file.tell()
        return sorted(events, key=lambda event: event["source_ms"])


def main() -> None:
    """SimulEval's command line with an evaluator that logs every utterance and push as it goes."""
    from simuleval.utils.agent import build_system_args

    system, arguments = build_system_args()
    evaluator = _logging_evaluator().from_args(arguments)
    evaluator(system)


def _logging_evaluator():
    from simuleval.evaluator import SentenceLevelEvaluator

    class LoggingEvaluator(SentenceLevelEvaluator):
        """SimulEval's evaluator, except that an utterance is on disk when it is done and its pushes are timed."""

        def __call__(self, system) -> None:
            tail = EventTail(getattr(self.args, "extra_output_dir", None))
            done = finished(self.output.parent)  # by the parts of an interrupted run
            for instance in self.iterator:
                if instance.index in done:
                    continue
                system.reset()  # what an earlier utterance left, if its agent never said finished
                pushes = []
                while not self.is_finished(instance):
                    segment = instance.send_source(self.source_segment_size)
                    begin = time.perf_counter()
                    output = system.pushpop(segment)
                    spent_ms = 1000 * (time.perf_counter() - begin)
                    pushes.append((instance.len_sample_to_ms(instance.step), spent_ms))
                    instance.receive_prediction(output)
                    if instance.finish_prediction:
                        system.reset()
                with open(self.output / PUSHES, "a", encoding="utf-8") as log:
                    note = {"index": instance.index, "pushes": pushes, "events": tail.new()}
                    log.write(json.dumps(note, ensure_ascii=False) + "\n")
                self.write_log(instance)
                instance.reset()
                instance.source = instance.sample_list = None

    return LoggingEvaluator


if __name__ == "__main__":
    main()
