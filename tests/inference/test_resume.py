"""A run that is killed at any moment and taken up again leaves the results of a run that was not."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from echostream_plugin import cli_translate
from echostream_plugin.cli import main
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import ResumeError
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.results import ResultWriter
from echostream_plugin.inference.runs import CHECKPOINT, Checkpoint, describe, translate_recording
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import save_tiny_bundle, speechlike

PAUSES = {"pause_ms": 200, "longest_sentence_ms": 1600, "max_tokens": 4}
FILES = ("speech.wav", "heard.wav", "source.txt", "translation.txt", "source.srt", "translation.srt", "events.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bundle(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def bundle(folder):
    return load_bundle(folder)


def with_pauses(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Speech of 0.7 s, silence of 0.4 s, and so on."""
    samples = speechlike(seconds, rate, seed)
    period, quiet = int(1.1 * rate), int(0.7 * rate)
    return samples * (np.arange(len(samples)) % period < quiet)


def plain(event):
    """An event as values that compare, samples to the last bit."""
    return (event.units, event.samples.tobytes(), event.source_ms) if isinstance(event, Speech) else event


@pytest.mark.parametrize(
    "changes, rate",
    [
        ({}, 16000),
        (PAUSES, 44100),
        ({**PAUSES, "endpointer": "ctc"}, 8000),
        ({**PAUSES, "fresh_encoder": True, "context_tokens": 3}, 16000),
        ({**PAUSES, "decoding": "recompute", "endpointer": "both"}, 16000),
        ({"translate": False, "chunk_ms": 640}, 16000),
        ({"policy": "wait-k", "wait_segments": 1}, 16000),
    ],
)
def test_a_restored_session_says_what_the_other_would_have(bundle, tmp_path, changes, rate):
    """At every push a new session takes over, through a file."""
    options = SessionOptions(**{"max_tokens": 5, **changes})
    samples = with_pauses(3.0, rate, seed=5)
    step = int(0.21 * rate)
    pieces = [samples[start : start + step] for start in range(0, len(samples), step)]
    whole, relay = TranslationSession(bundle, options), TranslationSession(bundle, options)
    for piece in pieces:
        expected = whole.push(piece, rate)
        snapshot.save(tmp_path / "s", relay.snapshot())
        relay = TranslationSession(bundle, options)
        relay.restore(snapshot.load(tmp_path / "s"))
        assert list(map(plain, relay.push(piece, rate))) == list(map(plain, expected))
        assert (relay.source_ms, relay.source_text, relay.target_text) == (
            *(whole.source_ms, whole.source_text, whole.target_text),
        )
    assert list(map(plain, relay.finish())) == list(map(plain, whole.finish()))


def test_a_snapshot_is_a_value(bundle):
    """What the session does later does not reach it; it can be restored twice."""
    session, samples = TranslationSession(bundle, max_tokens=5), speechlike(2.0, seed=6)
    session.push(samples[:16000], 16000)
    saved = session.snapshot()
    expected = list(map(plain, session.push(samples[16000:], 16000) + session.finish()))
    for _ in range(2):
        other = TranslationSession(bundle, max_tokens=5)
        other.restore(saved)
        assert list(map(plain, other.push(samples[16000:], 16000) + other.finish())) == expected


def test_snapshot_files_hold_values_and_nothing_else(tmp_path):
    transposed = torch.arange(6.0).view(2, 3).t()
    value = {"a": [1, None, "x", 0.1], "b": (transposed, np.zeros(0, dtype=np.float32)), "c": {"d": True}}
    snapshot.save(tmp_path / "s", value)
    back = snapshot.load(tmp_path / "s")
    assert back["a"] == value["a"] and back["c"] == {"d": True} and back["b"][1].dtype == np.float32
    assert torch.equal(back["b"][0], transposed) and back["b"][0].stride() == transposed.stride()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    for junk in (b"", b"junk" * 100):
        (tmp_path / "s").write_bytes(junk)
        with pytest.raises(ValueError, match="not a snapshot"):
            snapshot.load(tmp_path / "s")


class Killed(BaseException):
    """Nothing in the program catches it."""


def contents(out: Path) -> dict:
    return {name: (out / name).read_bytes() for name in FILES}


def attempt(bundle, folder, wav, out, options, kill_at=None) -> bool:
    """Run or go on; killed before push number `kill_at`. Was it finished?"""
    session, pushes = TranslationSession(bundle, options), itertools.count()
    push = session.push_events

    def fragile(samples, rate):
        if next(pushes) == kill_at:
            raise Killed
        return push(samples, rate)

    session.push_events = fragile
    checkpoint = Checkpoint(out, describe(session, wav, folder, 100))
    try:
        translate_recording(session, wav, 100, out, 16000, checkpoint, checkpoint_ms=400)
    except Killed:
        return False
    return True


def tear(out: Path, generator):
    """What a kill can leave: files at any length from the checkpoint's on, torn lines, headers of another time."""
    for name in FILES:
        with open(out / name, "ab") as file:
            file.write(generator.bytes(generator.integers(0, 99)))
    with open(out / "speech.wav", "r+b") as file:
        file.write(b"RIFF\0\0\0\0")
    (out / (CHECKPOINT + ".part")).write_bytes(b"half a checkpoint")


@pytest.mark.parametrize("name, rate, changes", [("in.wav", 16000, PAUSES), ("in.ogg", 44100, {"max_tokens": 4})])
def test_results_after_kills_are_those_without(bundle, folder, tmp_path, name, rate, changes):
    soundfile.write(tmp_path / name, with_pauses(4.0, rate, seed=3), rate)
    options, generator = SessionOptions(**changes), np.random.default_rng(0)
    assert attempt(bundle, folder, tmp_path / name, tmp_path / "whole", options)
    kills = 0
    while not attempt(bundle, folder, tmp_path / name, tmp_path / "out", options, generator.integers(0, 16)):
        kills += 1
        tear(tmp_path / "out", generator)
    assert kills > 4 and contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")["speech.wav"]) > 10000 and not (tmp_path / "out" / CHECKPOINT).exists()
    heard, _ = soundfile.read(tmp_path / "out" / "heard.wav")
    assert len(heard) * 2 + 44 == len(contents(tmp_path / "out")["heard.wav"])


def test_kill_9(folder, tmp_path):
    """The command line, killed by the system as soon as there is a checkpoint, and once more given the same command."""
    wav, out = tmp_path / "in.wav", tmp_path / "out"
    soundfile.write(wav, with_pauses(25.0, seed=4), 16000)
    flags = ["--bundle", str(folder), "--pause-ms", "200", "--max-tokens", "4", "--push-ms", "100", "--quiet"]
    command = ["translate", str(wav), *flags, "-o"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    root = Path(__file__).resolve().parents[2]
    running = subprocess.Popen(
        [sys.executable, "-m", "echostream_plugin.cli", *command, str(out)],
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (out / CHECKPOINT).is_file() and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert main([*command, str(out)]) == 0 and main([*command, str(tmp_path / "whole")]) == 0
    assert contents(out) == contents(tmp_path / "whole")


def killed_at_once(session, audio, push_ms, folder, speech_rate, checkpoint, *rest):
    """A run that is killed after its first checkpoint, in place of `translate_recording`."""
    with ResultWriter(folder, speech_rate) as results:
        checkpoint.save(session, results, 0)
    raise Killed


def test_another_command_does_not_go_on(folder, tmp_path, capsys, monkeypatch):
    wav, other, out = tmp_path / "in.wav", tmp_path / "other.wav", tmp_path / "out"
    soundfile.write(wav, speechlike(1.0), 16000)
    soundfile.write(other, speechlike(1.0, seed=1), 16000)
    command = ["--bundle", str(folder), "--max-tokens", "3", "--push-ms", "100", "--quiet", "-o", str(out)]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(cli_translate, "translate_recording", killed_at_once)
        main(["translate", str(wav), *command])
    for flags, words in (
        ([str(other), *command], "another recording"),
        ([str(wav), *command, "--chunk-ms", "640"], "another chunk_ms"),
        ([str(wav), *command, "--push-ms", "200"], "another push_ms"),
    ):
        assert main(["translate", *flags]) == 2
        error = capsys.readouterr().err
        assert words in error and "--restart" in error
    assert main(["translate", str(wav), *command]) == 0 and "going on" in capsys.readouterr().out
    (out / CHECKPOINT).write_bytes(b"junk")
    assert main(["translate", str(wav), *command]) == 2 and "cannot be read" in capsys.readouterr().err
    assert main(["translate", str(wav), *command, "--restart"]) == 0 and not (out / CHECKPOINT).exists()


def test_a_snapshot_of_another_version_is_refused(bundle, tmp_path):
    """The first ones had no version."""
    session = TranslationSession(bundle, max_tokens=5)
    saved = session.snapshot()
    del saved["version"]
    with pytest.raises(ResumeError, match="snapshot of version 1, where this version of EchoStream reads"):
        session.restore(saved)
    snapshot.save(tmp_path / CHECKPOINT, {"asked": {}, "results": None, "session": saved})
    with pytest.raises(ResumeError, match=f"{CHECKPOINT}: a snapshot of version 1.*--restart"):
        Checkpoint(tmp_path, {}).load()


def test_files_that_lost_what_was_noted(bundle, tmp_path):
    """After a power failure the disk may have less than the checkpoint says."""
    with ResultWriter(tmp_path, 16000) as results:
        results.add([Speech(np.zeros(320, dtype=np.float32), 16000, (1,), 20.0)])
        position = results.position
    os.truncate(tmp_path / "heard.wav", 100)
    with pytest.raises(ResumeError, match="heard.wav: shorter"):
        ResultWriter(tmp_path, 16000, position)
