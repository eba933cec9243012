"""Translate recordings with sessions of this project's own, resumable by utterance: each as a whole (offline, nothing
decided before its end), or as it would come from a microphone, a push at a time."""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from echostream_plugin.evaluation.claim import claim, note_work
from echostream_plugin.evaluation.latency import SpeechInstance, playback
from echostream_plugin.evaluation.simul import Utterance
from echostream_plugin.files import json_lines
from echostream_plugin.inference.events import Sentence, SourceText, Speech, TargetText, Unsure

_worker = {}  # session and push of this process


def translate_offline(wavs, references, output, bundle, jobs=1, options=None, progress="offline") -> list[Utterance]:
    """`translate_recordings`, each recording as one push with a session whose encoder sees the whole utterance."""
    options = {"chunk_ms": 0, **(options or {})}
    return translate_recordings(wavs, references, output, bundle, 0, jobs, options, progress)


def translate_recordings(
    wavs, references, output, bundle, push_ms, jobs=1, options=None, progress="translating"
) -> list[Utterance]:
    """Translate every recording with a session of the bundle.

    bundle: its folder; push_ms: how much source is pushed at a time, as SimulEval's source segment, 0: all at once;
    options: `SessionOptions` by name in place of the bundle's. Leaves ``utterances.jsonl`` and wavs in `output`."""
    from tqdm import tqdm

    output, options = Path(output).resolve(), options or {}
    (output / "wavs").mkdir(parents=True, exist_ok=True)
    settings = {"wavs": list(map(str, wavs)), "bundle": str(bundle), "options": options, "push_ms": push_ms}
    claim(output, settings, [*wavs, bundle])
    log = output / "utterances.jsonl"
    done = _read(log)
    waiting = [index for index in range(len(wavs)) if index not in done]
    if waiting:
        note_work(output)
    bar = tqdm(total=len(wavs), initial=len(done), desc=progress, unit="wav", disable=progress is None)
    with bar, open(log, "a", encoding="utf-8") as file:
        for entry in _translations(waiting, wavs, output, (str(bundle), options, push_ms), jobs):
            done[entry["index"]] = entry
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            file.flush()
            bar.update()
    return [_utterance(done[index], references[index]) for index in range(len(wavs))]


def _translations(waiting, wavs, output, asked, jobs):
    if not waiting:
        return
    tasks = [(index, str(wavs[index]), str(output / "wavs" / f"{index}.wav")) for index in waiting]
    if jobs <= 1:
        _prepare(*asked)
        yield from map(_translate, tasks)
        return
    # spawned, since a forked process shares the threads' locks of torch
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_prepare, initargs=asked) as pool:
        for future in as_completed([pool.submit(_translate, task) for task in tasks]):
            yield future.result()


def _prepare(bundle: str, options: dict, push_ms: int) -> None:
    import torch

    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.optimize import PUSH_MS, optimize
    from echostream_plugin.inference.options import bundle_options
    from echostream_plugin.inference.session import TranslationSession

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    bundle = load_bundle(bundle)
    options = bundle_options(bundle, **options)
    optimize(bundle, options=options, push_ms=push_ms or PUSH_MS)
    _worker.update(session=TranslationSession(bundle, options), push_ms=push_ms)


def _translate(task) -> dict:
    from echostream_plugin.inference.audio import read_audio

    index, wav, target = task
    session = _worker["session"]
    session.reset()
    samples, rate = read_audio(wav)
    pushes, written, chunks, unsure, units = [], {SourceText: [], TargetText: []}, [], [], []
    for arrival_ms, spent_ms, events in _pushed(session, samples, rate, _worker["push_ms"]):
        pushes.append((arrival_ms, spent_ms))
        for event in events:
            if isinstance(event, SourceText | TargetText):
                written[type(event)].append((arrival_ms, event.added))
            elif isinstance(event, Sentence):  # what follows is the next one's
                for pieces in filter(None, written.values()):
                    pieces.append((arrival_ms, " "))
            elif isinstance(event, Unsure):
                unsure.append((event.start_ms, event.end_ms, event.confidence))
            elif isinstance(event, Speech):
                units += event.units
        said = [event for event in events if isinstance(event, Speech) and len(event.samples)]
        if said:
            chunks.append((arrival_ms, said))
    return {
        "index": index,
        "source": wav,
        "source_ms": 1000 * len(samples) / rate,
        "pushes": pushes,
        "transcript": written[SourceText],
        "translation": written[TargetText],
        "unsure": unsure,
        "units": units,
        **_spoken(chunks, target),
    }


def _pushed(session, samples, rate: int, push_ms: int):
    """(source ms that have arrived, ms of computing, events) of each push; the last one finishes the utterance."""
    step = max(1, rate * push_ms // 1000) if push_ms else max(1, len(samples))
    for start in range(0, max(1, len(samples)), step):
        end = min(start + step, len(samples))
        begin = time.perf_counter()
        events = session.push(samples[start:end], rate, last=end == len(samples))
        if end == len(samples):
            events += session.finish()
        yield 1000 * end / rate, 1000 * (time.perf_counter() - begin), events


def _spoken(chunks: list, target: str) -> dict:
    """The speech as a listener hears it, from its first sample on, written to `target`; chunks: (source ms, Speech
    events) of each push that spoke."""
    import numpy as np
    import soundfile

    if not chunks:
        return {"prediction": "", "delays": [], "durations": []}
    rate = chunks[0][1][0].sample_rate
    waves = [np.concatenate([event.samples for event in said]) for _, said in chunks]
    delays, durations = [delay for delay, _ in chunks], [1000 * len(wave) / rate for wave in waves]
    track = np.zeros(0, np.float32)
    for (start_ms, _), wave in zip(playback(delays, durations), waves, strict=True):
        silence = round((start_ms - delays[0]) * rate / 1000) - len(track)
        track = np.concatenate([track, np.zeros(max(0, silence), np.float32), wave])
    soundfile.write(target, track, rate)
    return {"prediction": target, "delays": delays, "durations": durations}


def _read(log: Path) -> dict[int, dict]:
    """By index; an older version's lines lack something: they are done again."""
    wanted = {"index", "pushes", "units"}
    return {entry["index"]: entry for entry in json_lines(log, mend=True) if wanted <= entry.keys()}


def _utterance(entry: dict, reference: str) -> Utterance:
    speech = SpeechInstance(
        index=entry["index"],
        source_ms=entry["source_ms"],
        delays=tuple(entry["delays"]),
        durations=tuple(entry["durations"]),
        reference=reference,
        prediction=entry["prediction"],
        source=entry["source"],
    )
    texts = ([tuple(piece) for piece in entry[key]] for key in ("transcript", "translation"))
    pushes, unsure = ([tuple(item) for item in entry[key]] for key in ("pushes", "unsure"))
    return Utterance(entry["index"], speech, *texts, pushes, unsure=tuple(unsure), units=tuple(entry["units"]))
