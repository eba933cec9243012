"""A long recording through a session, resumable, with how long every push took and what the process held then."""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation.claim import claim, note_work
from echostream_plugin.evaluation.oracle import ORACLE, oracle_ends
from echostream_plugin.files import json_lines
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.digest import DIGITS, value_digest
from echostream_plugin.inference.machine import resident_mb
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.runs import CHECKPOINT, Checkpoint, claimed, describe, translate_recording
from echostream_plugin.inference.session import TranslationSession

PUSHES, EVENTS, HEARD = "pushes.jsonl", "events.jsonl", "heard.wav"


@dataclass(frozen=True)
class Push:
    """source_ms: how much had been pushed; spent_ms: computing; opened_ms: where the open sentence begins; resident_mb:
    of the process, 0 where the system does not say; events: records (`events.as_record`) that it led to."""

    source_ms: float
    spent_ms: float
    opened_ms: float
    resident_mb: float
    events: list


class TimedSession(TranslationSession):
    """A session that notes every push in a file, a line each. The end of the stream counts to the last push."""

    notes = None  # an open text file

    def push_events(self, samples, sample_rate: int, last: bool = False) -> Iterator:
        return self._noted("push", super().push_events, samples, sample_rate, last)

    def finish_events(self) -> Iterator:
        return self._noted("finish", super().finish_events)

    def _noted(self, call: str, function, *given) -> Iterator:
        begin = time.perf_counter()
        events = list(function(*given))
        spent_ms = 1000 * (time.perf_counter() - begin)
        note = {"call": call, "source_ms": self.source_ms, "spent_ms": round(spent_ms, 3)}
        note |= {"opened_ms": self.sentence_start_ms, "resident_mb": round(resident_mb(), 1)}
        self.notes.write(json.dumps(note) + "\n")
        self.notes.flush()  # before a checkpoint can be written that counts this push
        return iter(events)


def run(bundle: Bundle, folder, wav: Path, ends_ms: list, policy: dict, push_ms: int, output: Path) -> Path:
    """Translate a recording, or go on with it, or take what is there; returns the folder of the results in `output`,
    whose name tells recordings, bundles and options apart by their contents.

    folder: the bundle's; ends_ms: where sentences end, which `endpointer='oracle'` is told; policy: session options by
    name in place of the bundle's."""
    knows = policy.get("endpointer") == ORACLE
    with oracle_ends(ends_ms) if knows else nullcontext():
        session = TimedSession(bundle, bundle_options(bundle, **policy))
        asked = describe(session, wav, folder, push_ms, ends=value_digest(ends_ms) if knows else "")
        results = output / f"{wav.stem}-{session.options.endpointer}-{value_digest(asked)[:DIGITS]}"
        if is_complete(results):
            return results
        with claimed(results):
            claim(results, asked)
            note_work(results)
            rate = bundle.vocoder.config.sampling_rate if session.options.speaks else SAMPLE_RATE  # of empty wav files
            with open(results / PUSHES, "a", encoding="utf-8") as session.notes:
                session.notes.write("\n")  # a kill may have left half a line
                translate_recording(session, wav, push_ms, results, rate, Checkpoint(results, asked))
    return results


def is_complete(results: Path) -> bool:
    """Is a run over?"""
    return (results / EVENTS).is_file() and not (results / CHECKPOINT).exists()


def read_pushes(results: Path) -> list[Push]:
    """The pushes of a run. Of one that was repeated after a kill the newest note counts."""
    spent, others = {}, {}
    for note in json_lines(results / PUSHES):  # without one that a kill has torn: its push was repeated
        spent[note["source_ms"], note["call"]] = note["spent_ms"]
        others[note["source_ms"]] = note["opened_ms"], note["resident_mb"]
    events = {source_ms: [] for source_ms in others}
    for record in json_lines(results / EVENTS):
        events[record["source_ms"]].append(record)
    sums = {source_ms: sum(spent.get((source_ms, call), 0.0) for call in ("push", "finish")) for source_ms in others}
    return [Push(at, sums[at], *others[at], events[at]) for at in sorted(others)]
