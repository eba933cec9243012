"""Translate recordings offline: the whole recording at once, nothing decided before its end. Resumable by utterance."""

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from echostream_plugin.evaluation.claim import claim, note_work
from echostream_plugin.evaluation.latency import SpeechInstance
from echostream_plugin.evaluation.simul import Utterance

_worker = {}  # bundle and session options of this process


def translate_offline(wavs, references, output, bundle, jobs=1, options=None, progress="offline") -> list[Utterance]:
    """Translate every recording as one push with a session whose encoder sees the whole utterance.

    bundle: its folder; options: further `SessionOptions` by name. Leaves ``utterances.jsonl`` and wavs in `output`.
    """
    from tqdm import tqdm

    output = Path(output).resolve()
    (output / "wavs").mkdir(parents=True, exist_ok=True)
    claim(output, {"wavs": list(map(str, wavs)), "bundle": str(bundle), "options": options or {}}, [*wavs, bundle])
    log = output / "utterances.jsonl"
    done = _read(log)
    waiting = [index for index in range(len(wavs)) if index not in done]
    if waiting:
        note_work(output)
    bar = tqdm(total=len(wavs), initial=len(done), desc=progress, unit="wav", disable=progress is None)
    with bar, open(log, "a", encoding="utf-8") as file:
        for entry in _translations(waiting, wavs, output, bundle, jobs, options or {}):
            done[entry["index"]] = entry
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            bar.update()
    return [_utterance(done[index], references[index]) for index in range(len(wavs))]


def _translations(waiting, wavs, output, bundle, jobs, options):
    if not waiting:
        return
    tasks = [(index, str(wavs[index]), str(output / "wavs" / f"{index}.wav")) for index in waiting]
    if jobs <= 1:
        _prepare(str(bundle), options)
        yield from map(_translate, tasks)
        return
    # spawned, since a forked process shares the threads' locks of torch
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_prepare, initargs=(str(bundle), options)) as pool:
        for future in as_completed([pool.submit(_translate, task) for task in tasks]):
            yield future.result()


def _prepare(bundle: str, options: dict) -> None:
    import torch

    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.optimize import optimize
    from echostream_plugin.inference.session import TranslationSession, bundle_options

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bundle = load_bundle(bundle)
    options = bundle_options(bundle, **{"chunk_ms": 0, **options})
    _worker["session"] = TranslationSession(optimize(bundle, options=options), options)


def _translate(task) -> dict:
    import numpy as np
    import soundfile

    from echostream_plugin.inference.audio import read_audio

    index, wav, target = task
    session = _worker["session"]
    session.reset()
    samples, rate = read_audio(wav)
    events = session.push(samples, rate) + session.finish()
    speech = [event for event in events if hasattr(event, "samples")]
    duration_ms = 0.0
    if speech:
        track = np.concatenate([event.samples for event in speech])
        duration_ms = 1000 * len(track) / speech[0].sample_rate
        soundfile.write(target, track, speech[0].sample_rate)
    return {
        "index": index,
        "source": wav,
        "source_ms": 1000 * len(samples) / rate,
        "transcript": session.source_text,
        "translation": session.target_text,
        "prediction": target if duration_ms else "",
        "duration_ms": duration_ms,
    }


def _read(log: Path) -> dict[int, dict]:
    entries = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            entry = json.loads(line)
            entries[entry["index"]] = entry
        except ValueError:
            continue  # torn by an interruption
    if log.is_file() and not log.read_text(encoding="utf-8").endswith("\n"):
        with open(log, "a", encoding="utf-8") as file:
            file.write("\n")
    return entries


def _utterance(entry: dict, reference: str) -> Utterance:
    """Everything was written when the source ended."""
    end, spoken = entry["source_ms"], entry["duration_ms"] > 0
    speech = SpeechInstance(
        index=entry["index"],
        source_ms=end,
        delays=(end,) if spoken else (),
        durations=(entry["duration_ms"],) if spoken else (),
        reference=reference,
        prediction=entry["prediction"],
        source=entry["source"],
    )
    transcript, translation = ([(end, entry[key])] if entry[key] else [] for key in ("transcript", "translation"))
    return Utterance(entry["index"], speech, transcript, translation, [])
