"""The bundle that the project ships: small, safe to read, and its model translates each sentence its own way."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.session import TranslationSession

FOLDER = Path(__file__).parents[1] / "examples" / "quickstart" / "bundle"
SAMPLES = json.loads((FOLDER / "samples" / "samples.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sessions():
    """A finished session and its events for each sample, 320 ms at a time."""
    bundle, finished = load_bundle(FOLDER), []
    for sample in SAMPLES:
        audio, rate = soundfile.read(FOLDER / "samples" / sample["wav"], dtype="float32")
        session, events = TranslationSession(bundle, chunk_ms=320), []
        for start in range(0, len(audio), rate * 320 // 1000):
            events += session.push(audio[start : start + rate * 320 // 1000], rate)
        finished.append((session, events + session.finish()))
    return finished


def test_size_and_kinds_of_files():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".model", ".wav"}


def test_a_collapsed_model_would_fail(sessions):
    """Every recording has its own transcript and translation, and most words of the translation are right."""
    assert len({session.target_text for session, _ in sessions}) == len(SAMPLES)
    assert len({session.source_text for session, _ in sessions}) == len(SAMPLES)
    hits = words = 0
    for (session, _), sample in zip(sessions, SAMPLES, strict=True):
        said, wanted = set(normalize(session.target_text).split()), set(normalize(sample["target"]).split())
        hits, words = hits + len(said & wanted), words + len(wanted)
    assert hits / words > 0.6


def test_it_speaks_before_the_speaker_ends(sessions):
    for session, events in sessions:
        speech = [event for event in events if isinstance(event, Speech) and len(event.samples)]
        samples = np.concatenate([event.samples for event in speech])
        assert np.abs(samples).max() > 0.05 and np.isfinite(samples).all()
        assert 0.1 < len(samples) / 16000 / len(normalize(session.target_text).split()) < 1.5  # seconds a word
    assert any(events_before_the_end(session, events) for session, events in sessions)


def events_before_the_end(session, events):
    return [event for event in events if isinstance(event, Speech) and event.source_ms < session.source_ms]
