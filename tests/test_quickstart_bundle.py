"""The bundle that the project ships: small, safe to read, and its model translates each sentence its own way."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Speech, Unsure
from echostream_plugin.inference.session import TranslationSession

FOLDER = Path(__file__).parents[1] / "examples" / "quickstart" / "bundle"
SAMPLES = json.loads((FOLDER / "samples" / "samples.json").read_text(encoding="utf-8"))
HEARD = 0.65  # of the words of the transcripts, the least that may be right


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
    assert sum(path.stat().st_size for path in files) <= 64 * 2**20
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".model", ".wav"}


def test_people_and_several_synthesizers_speak_the_samples():
    assert len([sample for sample in SAMPLES if sample.get("voice") == "human"]) >= 4
    assert len({sample["engine"] for sample in SAMPLES if "engine" in sample}) >= 3
    assert "CC BY-SA 3.0" in (FOLDER / "samples" / "LICENSE.txt").read_text(encoding="utf-8")


def test_a_collapsed_model_would_fail(sessions):
    """Every recording has its own transcript and translation, and most words of both are right."""
    assert len({session.target_text for session, _ in sessions}) == len(SAMPLES)
    assert len({session.source_text for session, _ in sessions}) == len(SAMPLES)
    assert hits([session.target_text for session, _ in sessions], "target") > 0.6
    assert hits([session.source_text for session, _ in sessions], "source") > HEARD


def hits(texts: list, side: str) -> float:
    """The share of the references' words that are in the texts."""
    found = total = 0
    for text, sample in zip(texts, SAMPLES, strict=True):
        wanted = set(normalize(sample[side]).split())
        found, total = found + len(set(normalize(text).split()) & wanted), total + len(wanted)
    return found / total


def test_it_speaks_before_the_speaker_ends(sessions):
    for session, events in sessions:
        speech = [event for event in events if isinstance(event, Speech) and len(event.samples)]
        if not session.target_text:  # not understood, and said so
            assert not speech and any(isinstance(event, Unsure) for event in events)
            continue
        samples = np.concatenate([event.samples for event in speech])
        assert np.abs(samples).max() > 0.05 and np.isfinite(samples).all()
        assert 0.1 < len(samples) / 16000 / len(normalize(session.target_text).split()) < 1.5  # seconds a word
    assert any(events_before_the_end(session, events) for session, events in sessions)


def events_before_the_end(session, events):
    return [event for event in events if isinstance(event, Speech) and event.source_ms < session.source_ms]
