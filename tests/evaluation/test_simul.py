"""The SimulEval runner: texts and push times of every utterance, several processes, resumption, readable failures."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.latency import score_latency
from echostream_plugin.evaluation.lists import resolve_wavs
from echostream_plugin.evaluation.simul import EventTail, read_run, run

pytest.importorskip("simuleval")
AGENT = Path(__file__).with_name("toy_agent.py")
SECONDS = (1.0, 0.5, 2.0)


@pytest.fixture
def wavs(tmp_path):
    for number, seconds in enumerate(SECONDS):
        soundfile.write(tmp_path / f"{number}.wav", np.full(int(16000 * seconds), 0.1, np.float32), 16000)
    (tmp_path / "wav_list.txt").write_text("".join(f"{number}.wav\n" for number in range(len(SECONDS))))
    return resolve_wavs(tmp_path / "wav_list.txt")


def translate(wavs, output, *flags, jobs=1):
    return run(wavs, ["one two"] * len(wavs), output, 320, flags, agent=AGENT, jobs=jobs, progress=None)


def test_an_interrupted_run_goes_on_and_equals_a_whole_one(wavs, tmp_path):
    with pytest.raises(SimulError, match="asked to fail"):
        translate(wavs, tmp_path / "out", "--fail-at", "1")
    note = tmp_path / "out" / "run.json"
    settings = json.loads(note.read_text())
    assert [u.index for u in read_run(tmp_path / "out")] == [0]
    with pytest.raises(SimulError, match="other settings"):
        translate(wavs, tmp_path / "out")
    settings["agent"] = settings["agent"][:1]
    note.write_text(json.dumps(settings))
    with open(tmp_path / "out" / "part0" / "instances.log", "a") as log:
        log.write('{"index": 1, "del')
    resumed = translate(wavs, tmp_path / "out")
    whole = translate(wavs, tmp_path / "whole", jobs=2)
    for left, right in zip(resumed, whole, strict=True):
        assert left.speech.delays == right.speech.delays and left.translation == right.translation
        assert [arrival for arrival, _ in left.pushes] == [arrival for arrival, _ in right.pushes]
    first = whole[0]
    assert first.translation == [(640.0, " word2"), (1000.0, " word4")]
    assert first.transcript_text == first.translation_text == "word2 word4"
    assert first.speech.delays == (640.0, 1000.0) and first.speech.durations == (200.0, 200.0)
    assert [arrival for arrival, _ in first.pushes] == [320.0, 640.0, 960.0, 1000.0]
    assert soundfile.info(first.speech.prediction).duration == pytest.approx(0.56)
    scores = score_latency([u.speech for u in whole], [u.written for u in whole], {u.index: u.pushes for u in whole})
    assert scores["AL_CA"] >= scores["AL"] > 0 and scores["compute_RTF"] > 0


def test_lists_with_missing_recordings_name_the_line(tmp_path):
    with pytest.raises(SimulError, match="wav_list.txt: no such list"):
        resolve_wavs(tmp_path / "wav_list.txt")
    (tmp_path / "wav_list.txt").write_text("missing.wav\n")
    with pytest.raises(SimulError, match="wav_list.txt:1: no such recording 'missing.wav'"):
        resolve_wavs(tmp_path / "wav_list.txt")
    with pytest.raises(SimulError, match="one of each"):
        run([], [], tmp_path / "out", 320, [])
    with pytest.raises(SimulError, match="no finished utterance"):
        read_run(tmp_path)


def test_the_tail_of_a_log_is_read_once(tmp_path):
    log = tmp_path / "a.jsonl"
    log.write_text('{"kind": "target_text", "source_ms": 1, "added": "old"}\n')
    tail = EventTail(tmp_path)
    assert tail.new() == []
    with open(log, "a") as file:
        file.write('{"kind": "target_text", "source_ms": 2, "added": "new"}\n{"other": 1}\n')
    assert [event["added"] for event in tail.new()] == ["new"]
    assert tail.new() == [] and EventTail(None).new() == []


def test_a_run_goes_on_with_other_jobs_and_does_nothing_twice(wavs, tmp_path):
    with pytest.raises(SimulError, match="asked to fail"):
        translate(wavs, tmp_path / "out", "--fail-at", "1", jobs=2)
    done = [u.index for u in read_run(tmp_path / "out")]
    assert 0 < len(done) < 3
    note = tmp_path / "out" / "run.json"
    settings = json.loads(note.read_text())
    note.write_text(json.dumps(settings | {"agent": settings["agent"][:1]}))
    assert [u.index for u in translate(wavs, tmp_path / "out", jobs=3)] == [0, 1, 2]
    logs = [json.loads(line) for log in (tmp_path / "out").glob("part*/instances.log") for line in open(log)]
    assert sorted(entry["index"] for entry in logs) == [0, 1, 2]


def test_a_run_of_other_recordings_or_another_model_is_refused(wavs, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"old")
    model = ["--fail-at", "-1", "--extra-output-dir", str(tmp_path / "model.pt")]
    with pytest.raises(SimulError, match="SimulEval ended"):  # the toy agent takes no such file
        translate(wavs, tmp_path / "out", *model)
    (tmp_path / "model.pt").write_bytes(b"new")
    with pytest.raises(SimulError, match="the content of .*model.pt"):
        translate(wavs, tmp_path / "out", *model)
    (tmp_path / "model.pt").write_bytes(b"old")
    soundfile.write(wavs[0], np.full(16000, 0.2, np.float32), 16000)
    with pytest.raises(SimulError, match="the content of .*0.wav"):
        translate(wavs, tmp_path / "out", *model)
