#!/usr/bin/env python3
"""Hear EchoStream translate: the bundled recordings and those of people, your own one, or a sentence of the domain.

    python scripts/demo.py --output demo_out
    python scripts/demo.py --output demo_out --wav my.wav
    python scripts/demo.py --output demo_out --text "¿Dónde está la estación?"

The recordings go through SimulEval with agent/echostream_agent.py, a segment at a time. For each recording the output
folder gets source.wav, translated.wav, together.wav (source left, translation right, as a listener has them in time),
written.tsv (both texts as they grew) and timeline.png; over all of them index.html (everything to hear and see on one
page, with who speaks and the licence), scores.json, scores.tsv and summary.txt, which begins with what came out right.
"""

import argparse
import importlib.util
import logging
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from echostream_plugin.data.tables import DataError  # noqa: E402
from echostream_plugin.evaluation import samples, simul  # noqa: E402
from echostream_plugin.evaluation.judge import SAMPLE_RATE, Judge, JudgeError, read_mono  # noqa: E402
from echostream_plugin.evaluation.latency import speech_metrics, text_metrics  # noqa: E402
from echostream_plugin.evaluation.page import at_a_glance, page, show, summary  # noqa: E402
from echostream_plugin.evaluation.scores import score_run  # noqa: E402
from echostream_plugin.evaluation.table import commit, write_atomically, write_json, write_tsv  # noqa: E402
from echostream_plugin.evaluation.timeline import draw_timeline  # noqa: E402
from echostream_plugin.inference.audio import read_audio  # noqa: E402
from echostream_plugin.inference.errors import InputError  # noqa: E402
from echostream_plugin.inference.features import to_mono  # noqa: E402

QUICKSTART = ROOT / "examples" / "quickstart"
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


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder for what the demo makes")
    parser.add_argument("--bundle", type=Path, default=QUICKSTART / "bundle", help="folder of the model bundle")
    parser.add_argument(
        "--recordings", type=Path, metavar="FOLDER",
        help="play people's recordings of this folder too (default: those beside the bundled model)",
    )  # fmt: skip
    parser.add_argument("--segment-ms", type=int, default=320, help="how much speech goes in at a time")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--no-judge", action="store_true", help="do not read the translated speech back with whisper")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--wav", type=Path, help="your own recording, any format and rate that libsndfile reads")
    given.add_argument("--text", help="a sentence of the demo's domain, spoken by espeak")
    return parser.parse_args(argv)


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


def spoken_sentence(text: str) -> Recording:
    """A sentence of the grammar, spoken by espeak; another one is refused with sentences that would do."""
    grammar, speech = _quickstart("grammar"), _quickstart("speech")
    if not text.strip():
        raise DemoError('the text is empty; try TEXT="¿Dónde está la estación?"')
    target = grammar.translate(text)
    if target is None:
        likely = "\n".join(f"  {sentence}" for sentence in grammar.nearest(text, 3))
        raise DemoError(f'the small model knows a traveller\'s sentences, and not "{text}". Near ones:\n{likely}')
    return Recording("sentence", speech.speak_spanish(text), speech.SAMPLE_RATE, text, target)


def _quickstart(name: str):
    """A module of examples/quickstart, by path (`examples` is the name of other projects' packages too)."""
    path = QUICKSTART / f"{name}.py"
    sys.path.insert(0, str(QUICKSTART))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(QUICKSTART))


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


def keep(recording: Recording, utterance, heard: str | None, folder: Path) -> dict:
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
    write_atomically(folder / "written.tsv", "source_ms\twhat\tadded\n" + "".join(lines))
    came_out = samples.verdict(utterance.translation_text, recording.target, bool(utterance.unsure))
    told = ", ".join(filter(None, (recording.told, came_out)))
    draw_timeline(utterance, folder / "timeline.png", source, translated, SAMPLE_RATE, heard, told)
    row = {"recording": recording.name, "seconds": utterance.source_ms / 1000}
    if utterance.written.delays:
        row |= text_metrics(utterance.written)
    if utterance.speech.delays:
        row |= speech_metrics(utterance.speech)
    texts = {"source": recording.source, "transcript": utterance.transcript_text, "reference": recording.target}
    who = {"verdict": came_out, "told": recording.told, "human": recording.human}
    return row | texts | {"translation": utterance.translation_text, "heard": heard or "", **who}


def main(argv=None) -> int:
    args = parse_args(argv)
    logging.disable(logging.INFO)  # fairseq turns on everybody's
    try:
        return demo(args)
    except (DemoError, DataError, simul.SimulError, JudgeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what was done is in {args.output}", file=sys.stderr)
        return 130


def choose(args) -> list[Recording]:
    """What is to be translated; anything wrong with it is said before the last demo's output goes."""
    if args.segment_ms < 1 or args.jobs < 1:
        raise DemoError(f"--segment-ms {args.segment_ms} --jobs {args.jobs}: each must be at least 1")
    if not (args.bundle / "model.safetensors").is_file():
        raise DemoError(f"{args.bundle}: holds no model.safetensors; examples/quickstart/train.sh makes a bundle")
    if args.wav is not None:
        return [own_recording(args.wav)]
    if args.text is not None:
        return [spoken_sentence(args.text)]
    beside = QUICKSTART / "recordings" if args.bundle.resolve() == (QUICKSTART / "bundle").resolve() else None
    return bundled_recordings(args.bundle, args.recordings or beside)


def demo(args) -> int:
    recordings = choose(args)
    output = fresh_folder(args.output, (args.bundle, *([args.wav] if args.wav is not None else [])))
    given = output / "simuleval" / "given"
    given.mkdir(parents=True)
    for recording in recordings:
        soundfile.write(given / f"{recording.name}.wav", recording.samples, recording.rate, subtype="FLOAT")
    wavs = [given.resolve() / f"{recording.name}.wav" for recording in recordings]
    references = [recording.target for recording in recordings]
    flags = ["--bundle", args.bundle.resolve()]
    progress = f"translating, {args.segment_ms} ms at a time"
    utterances = simul.run(
        wavs, references, output / "simuleval", args.segment_ms, flags, jobs=args.jobs, progress=progress
    )
    judge, cache = (None if args.no_judge else Judge(threads=args.jobs)), output / "simuleval" / "heard.jsonl"
    sources = [recording.source for recording in recordings]
    scores = score_run(utterances, references, judge, sources, cache, progress="whisper listens")
    heard = [None] * len(recordings)
    if judge is not None:
        heard = judge.transcribe_all([u.speech.prediction or None for u in utterances], cache=cache, progress=None)
    rows = []
    for recording, utterance, text in zip(recordings, utterances, heard, strict=True):
        rows.append(keep(recording, utterance, text, output / recording.name))
        print(show(rows[-1], output / recording.name) + "\n")
    write_scores(scores, rows, args.segment_ms, output)
    text = f"{at_a_glance(rows)}\n\n{summary(scores, len(rows))}"
    write_atomically(output / "summary.txt", text + "\n")
    write_atomically(output / "index.html", page(rows, text))
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
    facts = {"segment_ms": segment_ms, "commit": commit(ROOT), "scores": scores, "recordings": rows}
    write_json(output / "scores.json", facts)
    words = ("source", "transcript", "reference", "translation", "heard", "verdict", "told", "human")
    numbers = [{key: value for key, value in row.items() if key not in words} for row in rows]
    means = {key: value for key, value in scores.items() if isinstance(value, float)}
    write_tsv(output / "scores.tsv", [*numbers, {"recording": "all", **means}])


if __name__ == "__main__":
    sys.exit(main())
