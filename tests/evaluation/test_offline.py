"""Recordings translated by sessions of the evaluation: what SimulEval's agent makes of them, kept, gone on with."""

import json

import pytest
import soundfile

from echostream_plugin.evaluation import offline, simul
from echostream_plugin.evaluation.offline import translate_offline, translate_recordings
from tests.tiny_bundle import save_tiny_bundle, speechlike


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    bundle = save_tiny_bundle(folder)
    wavs = []
    for number, seconds in enumerate((1.28, 1.7)):  # the first a whole number of pushes
        wavs.append(folder / f"{number}.wav")
        soundfile.write(wavs[-1], speechlike(seconds, seed=number), 16000)
    return bundle, wavs


def test_pushes_give_what_simuleval_gives(given, tmp_path):
    pytest.importorskip("simuleval")
    bundle, wavs = given
    ours = translate_recordings(wavs, ["t1 t2", "t3"], tmp_path / "ours", bundle, 320, progress=None)
    theirs = simul.run(wavs, ["t1 t2", "t3"], tmp_path / "theirs", 320, ["--bundle", bundle], progress=None)
    for one, other in zip(ours, theirs, strict=True):
        assert one.translation_text and one.speech.delays
        assert one.transcript == other.transcript and one.translation == other.translation
        assert one.speech.delays == other.speech.delays
        assert one.speech.durations == pytest.approx(other.speech.durations)
        assert one.written == other.written and [p[0] for p in one.pushes] == [p[0] for p in other.pushes]
        lengths = (soundfile.info(u.speech.prediction).duration for u in (one, other))
        assert next(lengths) == pytest.approx(next(lengths), abs=0.01)


def test_what_is_done_is_not_done_again_and_older_lines_are(given, tmp_path, monkeypatch):
    bundle, wavs = given
    first = translate_offline(wavs, ["", ""], tmp_path, bundle, progress=None)
    assert first[0].translation[0][0] == pytest.approx(1280) and first[0].pushes[0][0] == pytest.approx(1280)
    log = tmp_path / "utterances.jsonl"
    lines = log.read_text().splitlines()
    old = json.loads(lines[1])
    del old["pushes"]
    log.write_text(f"{lines[0]}\n{json.dumps(old)}\n" + lines[1][:20])
    done = []
    translate = offline._translate
    monkeypatch.setattr(offline, "_translate", lambda task: done.append(task[0]) or translate(task))
    again = translate_offline(wavs, ["", ""], tmp_path, bundle, progress=None)
    assert done == [1] and [u.translation_text for u in again] == [u.translation_text for u in first]
