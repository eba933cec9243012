"""The demo: recordings go through SimulEval, and a folder gets everything that there is to hear and see of them."""

import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation import samples, simul
from echostream_plugin.evaluation.latency import speech_metrics, text_metrics
from echostream_plugin.evaluation.page import at_a_glance, page, show, summary
from echostream_plugin.evaluation.scores import score_run
from echostream_plugin.evaluation.table import commit, write_tsv
from echostream_plugin.evaluation.timeline import draw_timeline
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.audio import read_audio, read_mono
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.features import to_mono

MARK = ".made_by_the_demo"


class DemoError(ValueError):
    """Something the person at the keyboard can mend; the message says how."""


@dataclass(frozen=True)
class Recording:
    """A source recording, and what it says in both languages where that is known; samples: mono [n] at `rate`; told:
    who speaks, and under which licence; human: whether that is a person."""

    name: str
    samples: np.ndarray
    rate: int
    source: str = ""
    target: str = ""
    told: str = ""
    human: bool = False


def bundled_recordings(bundle: Path, people: Path | None = None) -> list[Recording]:
    """The recordings of samples/samples.json, and those of a folder of people's that it lacks."""
    listing = bundle / "samples" / "samples.json"
    if not listing.is_file():
        raise DemoError(f"{listing}: no such file; give a bundle with samples, or your own recording with --wav")
    found = samples.of_bundle(bundle)
    names = {sample.wav.stem for sample in found}
    found += [sample for sample in (samples.of_people(people) if people else []) if sample.wav.stem not in names]
    recordings = []
    for sample in found:
        told = {"source": sample.source, "target": sample.target, "told": sample.told, "human": sample.human}
        recordings.append(replace(own_recording(sample.wav), **told))
    return recordings


def own_recording(wav: Path) -> Recording:
    """A person's file as mono samples at its own rate; says what is wrong with one that cannot be used."""
    try:
        if not wav.exists():
            raise DemoError(f"{wav}: no such file")
        if wav.is_dir():
            raise DemoError(f"{wav}: is a folder; name one recording")
        if wav.stat().st_size == 0:
            raise DemoError(f"{wav}: is empty (0 bytes)")
        content, rate = read_audio(wav)
    except (InputError, OSError, ValueError) as error:
        if isinstance(error, DemoError):
            raise
        raise DemoError(f"{wav}: cannot be read as audio ({error}); wav, flac, ogg and mp3 work") from error
    if not len(content):
        raise DemoError(f"{wav}: holds no samples")
    if not np.isfinite(content).all():
        raise DemoError(f"{wav}: holds samples that are not numbers (NaN or infinite); export it again")
    try:
        mono = to_mono(content, rate)
    except InputError as error:
        raise DemoError(f"{wav}: {error}") from error
    if np.abs(mono).max() < 1e-4:
        print(f"note: {wav} is silent; expect no translation", file=sys.stderr)
    return Recording(re.sub(r"[^\w.-]+", "_", wav.stem) or "recording", mono, rate)


def fresh_folder(output: Path, needed: tuple = ()) -> Path:
    """An empty output folder; only one that an earlier demo made is emptied, and none that holds what is `needed`."""
    try:
        if output.exists() and not output.is_dir():
            raise DemoError(f"{output}: is a file; name a folder with OUT=")
        if output.is_dir() and any(output.iterdir()):
            if not (output / MARK).is_file():
                raise DemoError(f"{output}: is not empty and no demo made it; name another folder with OUT=")
            for path in needed:
                if output.resolve() in path.resolve().parents:
                    raise DemoError(f"{path}: lies in {output}, which is emptied first; name another folder with OUT=")
            for path in output.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        output.mkdir(parents=True, exist_ok=True)
        (output / MARK).touch()
    except OSError as error:
        raise DemoError(f"{str(output)[:200]}: cannot be made ({error.strerror}); name a folder with OUT=") from error
    return output


def keep(recording: Recording, utterance, asr_text: str | None, folder: Path) -> dict:
    """Leave everything about one recording in its folder; returns its row of scores and texts."""
    folder.mkdir(parents=True, exist_ok=True)
    source = read_mono(utterance.speech.source)
    spoken = utterance.speech.prediction
    translated = read_mono(spoken) if spoken else np.zeros(0, np.float32)
    lead = round(SAMPLE_RATE * utterance.speech.delays[0] / 1000) if utterance.speech.delays else 0
    both = np.zeros((max(len(source), lead + len(translated)), 2), np.float32)
    both[: len(source), 0] = source
    both[lead : lead + len(translated), 1] = translated
    for name, track in (("source", source), ("translated", translated), ("together", both)):
        soundfile.write(folder / f"{name}.wav", np.clip(track, -1, 1), SAMPLE_RATE)
    growth = [("transcript", *piece) for piece in utterance.transcript]
    growth += [("translation", *piece) for piece in utterance.translation]
    lines = [f"{round(time)}\t{what}\t{text}\n" for what, time, text in sorted(growth, key=lambda piece: piece[1])]
    write_text(folder / "written.tsv", "source_ms\twhat\tadded\n" + "".join(lines))
    came_out = samples.verdict(utterance.translation_text, recording.target, bool(utterance.unsure))
    told = ", ".join(filter(None, (recording.told, came_out)))
    draw_timeline(utterance, folder / "timeline.png", source, translated, SAMPLE_RATE, asr_text, told)
    row = {"recording": recording.name, "seconds": utterance.source_ms / 1000}
    if utterance.written.delays:
        row |= text_metrics(utterance.written)
    if utterance.speech.delays:
        row |= speech_metrics(utterance.speech)
    texts = {"source": recording.source, "transcript": utterance.transcript_text, "reference": recording.target}
    who = {"verdict": came_out, "told": recording.told, "human": recording.human}
    return row | texts | {"translation": utterance.translation_text, "asr": asr_text or "", **who}


def demonstrate(recordings: list[Recording], bundle: Path, output: Path, segment_ms: int, jobs: int, asr) -> int:
    """Translate recordings through SimulEval and leave everything about them in the folder; returns the exit status.

    segment_ms: of the source at a time; asr: a `ScoringASR` that transcribes the speech, None: nobody does."""
    given = output / "simuleval" / "given"
    given.mkdir(parents=True)
    for recording in recordings:
        soundfile.write(given / f"{recording.name}.wav", recording.samples, recording.rate, subtype="FLOAT")
    wavs = [given.resolve() / f"{recording.name}.wav" for recording in recordings]
    references = [recording.target for recording in recordings]
    flags = ["--bundle", bundle.resolve()]
    progress = f"translating, {segment_ms} ms at a time"
    utterances = simul.run(wavs, references, output / "simuleval", segment_ms, flags, jobs=jobs, progress=progress)
    cache = output / "simuleval" / "transcripts.jsonl"
    sources = [recording.source for recording in recordings]
    scores = score_run(utterances, references, asr, sources, cache)
    asr_texts = [None] * len(recordings)
    if asr is not None:
        asr_texts = asr.transcribe_all([u.speech.prediction or None for u in utterances], cache=cache, progress=None)
    rows = []
    for recording, utterance, text in zip(recordings, utterances, asr_texts, strict=True):
        rows.append(keep(recording, utterance, text, output / recording.name))
        print(show(rows[-1], output / recording.name) + "\n")
    write_scores(scores, rows, segment_ms, output)
    text = f"{at_a_glance(rows)}\n\n{summary(scores, len(rows))}"
    write_text(output / "summary.txt", text + "\n")
    write_text(output / "index.html", page(rows, text))
    print(f"{text}\n\nOpen {output}/index.html: hear and see everything; {output}/scores.json has the numbers")
    return report_refused(recordings, utterances)


def report_refused(recordings: list[Recording], utterances: list) -> int:
    """Say which recordings have no translation since they are no audio; returns the exit status."""
    refused = [(r.name, u.refused) for r, u in zip(recordings, utterances, strict=True) if u.refused is not None]
    for name, reason in refused:
        print(f"error: {name}: could not be read, there is no translation: {reason}", file=sys.stderr)
    return 1 if refused else 0


def write_scores(scores: dict, rows: list[dict], segment_ms: int, output: Path) -> None:
    """scores.json with everything, scores.tsv with the numbers of each recording and over all."""
    facts = {"segment_ms": segment_ms, "commit": commit(), "scores": scores, "recordings": rows}
    write_json(output / "scores.json", facts)
    words = ("source", "transcript", "reference", "translation", "asr", "verdict", "told", "human")
    numbers = [{key: value for key, value in row.items() if key not in words} for row in rows]
    means = {key: value for key, value in scores.items() if isinstance(value, float)}
    write_tsv(output / "scores.tsv", [*numbers, {"recording": "all", **means}])
