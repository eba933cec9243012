"""Long streams: sentences end at pauses, memory and time do not grow, results are written as they come."""

import gc
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.inference import stages
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.endpointing import sentence_ends
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.pushes import push_all
from echostream_plugin.inference.results import ResultWriter
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.subtitles import srt_time
from echostream_plugin.modules.streaming import StreamState
from tests.tiny_bundle import speechlike, tiny_bundle

CHUNK = 5120  # 320 ms


@pytest.mark.parametrize(
    "silent, opened, pause, longest, over",
    [(9, 50, 10, 100, False), (10, 50, 10, 100, True), (3, 100, 10, 100, True), (999, 999, 0, 10, False)],
)
def test_when_a_sentence_ends(silent, opened, pause, longest, over):
    assert sentence_ends(silent, opened, pause, longest) is over


@pytest.fixture(scope="module")
def bundle():
    """Heads that are silent in silence: their blank is likely unless the encoder is excited."""
    return tiny_bundle()


def run(session, samples, push_samples=CHUNK):
    return push_all(session, samples, 16000, push_samples)


def options(**changes):
    values = {"pause_ms": 400, "longest_sentence_ms": 1600, "max_tokens": 4, **changes}
    return SessionOptions(**values)


def test_every_sentence_is_a_whole_of_its_own(bundle):
    events = run(TranslationSession(bundle, options()), speechlike(8.0, seed=1))
    sentences = [event for event in events if isinstance(event, Sentence)]
    assert len(sentences) > 3 and [event.index for event in sentences] == list(range(len(sentences)))
    texts = {SourceText: "", TargetText: ""}
    for event in events:
        if isinstance(event, SourceText | TargetText):
            assert event.text == texts[type(event)] + event.added
            texts[type(event)] = event.text
        elif isinstance(event, Sentence):
            assert (event.source_text, event.target_text) == (texts[SourceText], texts[TargetText])
            assert 0 <= event.start_ms < event.end_ms <= event.source_ms + 40
            texts = {SourceText: "", TargetText: ""}
    assert texts == {SourceText: "", TargetText: ""} and isinstance(events[-1], Finished)
    assert all(a.end_ms <= b.end_ms for a, b in zip(sentences, sentences[1:], strict=False))


def test_sentences_do_not_depend_on_the_size_of_a_push(bundle):
    samples = speechlike(5.0, seed=2)
    whole, cut = (run(TranslationSession(bundle, options()), samples, size) for size in (len(samples), CHUNK))
    said = [
        [(e.source_text, e.target_text, e.start_ms, e.end_ms) for e in events if isinstance(e, Sentence)]
        for events in (whole, cut)
    ]
    assert said[0] == said[1] != []


def test_without_pause_ms_nothing_changes(bundle):
    events = run(TranslationSession(bundle, max_tokens=4), speechlike(2.0, seed=2))
    assert not any(isinstance(event, Sentence) for event in events)


def test_silence_of_any_length_is_dropped():
    bundle = tiny_bundle()
    for head in (bundle.model.source_unigram_decoder, bundle.model.ctc_target_unigram_decoder):
        torch.nn.init.constant_(head.proj.bias[:1], 1e4)
    session = TranslationSession(bundle, options())
    for _ in range(20):
        assert session.push(np.zeros(CHUNK, dtype=np.float32), 16000) == []
        assert session._stream.translator.writer._state.source_frames <= 20
    assert session.finish() == [Finished(6400.0)]


def test_options_that_do_not_fit():
    for changes in ({"pause_ms": 500, "chunk_ms": 0}, {"pause_ms": 500, "longest_sentence_ms": 400}):
        with pytest.raises(ConfigError, match="pause_ms needs"):
            SessionOptions(**changes)


def held_bytes(session) -> int:
    """Bytes of everything that a session holds of its stream: states, arrays, tensors, lists and texts."""
    total, todo, seen = 0, [session], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, torch.nn.Module | Bundle):
            continue
        seen.add(id(thing))
        if isinstance(thing, StreamState | torch.Tensor | np.ndarray):
            total += thing.nbytes
        elif isinstance(thing, str):
            total += len(thing)
        elif isinstance(thing, list | tuple):
            total += 8 * len(thing)
            todo += thing
        elif type(thing).__module__.startswith("echostream_plugin.inference"):
            todo += list(vars(thing).values())
    return total


def resident_bytes() -> int:
    """Of this process, now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def watch_minutes(count: int) -> list:
    """Stream minutes of speech; of each: the most bytes held, the longest source of the MT decoder, model calls and
    their frames, sentences, and the bytes of the process."""
    session = TranslationSession(tiny_bundle(), options(chunk_ms=1280, longest_sentence_ms=6000, max_tokens=2))
    work, run_call, minute, minutes = Counter(), stages.Call.run, speechlike(60.0, seed=7), []

    def counted(call):
        work["calls"] += 1
        work["frames"] += 0 if call.inputs is None else call.inputs.size(1)
        return run_call(call)

    stages.Call.run = counted
    for _ in range(count):
        work.clear()
        for start in range(0, len(minute), 8 * CHUNK):
            events = session.push(minute[start : start + 8 * CHUNK], 16000)
            work["sentences"] += sum(isinstance(event, Sentence) for event in events)
            work["held"] = max(work["held"], held_bytes(session))
            work["source"] = max(work["source"], session._stream.translator.writer._state.source_frames)
        gc.collect()
        minutes.append({**work, "resident": resident_bytes()})
    return minutes


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process from /proc")
def test_the_twentieth_minute_costs_what_the_first_does():
    """Twenty minutes at 16 kHz, in a process of its own: what a session holds, what it asks the model for and the
    memory of the process do not grow.

    oneDNN keeps a kernel for every shape it has seen, up to a thousand. The vocoder's windows have many lengths, so
    that cache alone takes half an hour to fill; here it is small."""
    small = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "OMP_NUM_THREADS": "1"}
    command = "import json; from tests.inference.test_long import watch_minutes; print(json.dumps(watch_minutes(20)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=root, env={**os.environ, **small}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    minutes = json.loads(done.stdout)
    assert len(minutes) == 20 and minutes[-1]["sentences"] >= 5 and minutes[0]["held"] > 10000
    for name in ("held", "source", "calls", "frames"):  # pushes and segments take eight minutes to come round
        assert max(minute[name] for minute in minutes[8:]) <= 1.05 * max(minute[name] for minute in minutes[:8])
    resident = [minute["resident"] for minute in minutes]
    assert max(resident[1:]) - resident[0] < 4 << 20


def test_times_of_subtitles():
    assert srt_time(0) == "00:00:00,000" and srt_time(3_723_045.4) == "01:02:03,045"


def test_results_are_written_as_they_come(tmp_path):
    speech = Speech(np.full(320, 0.5, dtype=np.float32), 16000, (1, 2), 100.0)
    with ResultWriter(tmp_path, 16000) as results:
        results.add([SourceText("hola", "hola", 80.0), TargetText("hello", "hello", 100.0), speech])
        assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 3
        results.add([Sentence(0, "hola", "hello", 40.0, 1240.0, 1600.0)])
        assert (tmp_path / "translation.srt").read_text() == "1\n00:00:00,040 --> 00:00:01,240\nhello\n\n"
        results.add([TargetText("again", "again", 2000.0), speech, Finished(2500.0)])
    assert (tmp_path / "translation.txt").read_text() == "hello\nagain\n"
    assert "2\n00:00:02,000 --> 00:00:02,500\nagain" in (tmp_path / "translation.srt").read_text()
    heard, _ = soundfile.read(tmp_path / "heard.wav")
    assert len(heard) == 1600 + 640 and not heard[:1600].any() and heard[1600:].all()
    assert len(soundfile.read(tmp_path / "speech.wav")[0]) == 640
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert kinds == ["source_text", "target_text", "speech", "sentence", "target_text", "speech", "finished"]
