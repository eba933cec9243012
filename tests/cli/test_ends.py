"""How commands end: one line, an exit code, and what was done is kept."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin import cli_errors
from echostream_plugin.cli import main
from echostream_plugin.inference import results
from echostream_plugin.inference.runs import CHECKPOINT
from tests.cli.runs import translate
from tests.tiny_bundle import speechlike

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "echostream_plugin.cli"]


def one_line(capsys, *words):
    """The standard error is a single line with these words."""
    error = capsys.readouterr().err
    assert error.startswith("echostream: ") and error.count("\n") == 1 and "Traceback" not in error, error
    assert all(word in error for word in words), error


@pytest.mark.parametrize("device", ["nonsense", "mps", "cuda", "cuda:99", "meta", ""])
@pytest.mark.parametrize("command", ["translate", "transcribe", "speak"])
def test_devices_that_are_not_there(bundle, wav, tmp_path, capsys, command, device):
    try:
        import torch

        torch.zeros(1, device=device).cpu()
        pytest.skip("this machine has it")
    except (RuntimeError, AssertionError, NotImplementedError):
        pass
    output = [] if command == "transcribe" else ["-o", str(tmp_path / "out.wav")]
    source = "t1" if command == "speak" else str(wav)
    assert main([command, source, *output, "--bundle", str(bundle), "--device", device]) == 2
    one_line(capsys, f"--device {device}", "this machine has cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--push-ms", "0"], "--push-ms"),
        (["--raw", "0"], "--raw 0"),
        (["--raw", "99999999"], "--raw"),
        (["--pause-ms", "-1"], "pause_ms"),
        (["--chunk-ms", "-40"], "chunk_ms"),
        (["--max-tokens", "0"], "max_tokens"),
        (["-"], "no such"),
    ],
)
def test_flags_that_make_no_sense(bundle, wav, tmp_path, capsys, monkeypatch, flags, words):
    recording = ["-", "-"] if flags == ["-"] else [str(wav)]
    words = "can be read once" if flags == ["-"] else words
    flags = [] if flags == ["-"] else flags
    command = ["translate", *recording, "-o", str(tmp_path / "out"), "--bundle", str(bundle), *flags]
    assert main(command) == 2
    one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(bundle, wav, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "x", "/proc/x/y", "x" * 5000, "/dev/null"):
        assert translate(bundle, wav, "-o", out) == 1
        one_line(capsys, "cannot be made a folder")
    assert (tmp_path / "file").read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_what_is_left_of_a_cut_recording_is_translated(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "whole.flac", speechlike(4.0, seed=3), 16000)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert translate(bundle, tmp_path / "cut.flac", "-o", tmp_path / "out") == 1
    one_line(capsys, "cut.flac: breaks off: only", "of 4.00 s")
    records = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert records[-1]["kind"] == "finished" and 1000 < records[-1]["source_ms"] < 3000
    assert main(["transcribe", str(tmp_path / "cut.flac"), "--bundle", str(bundle)]) == 1
    said = capsys.readouterr()
    assert said.out.strip() and "breaks off" in said.err


def test_samples_that_are_refused_end_a_recording(bundle, tmp_path, capsys):
    """No silence stands for them, of which the model would make words."""
    samples = speechlike(4.0, seed=3)
    samples[40000] = np.inf
    soundfile.write(tmp_path / "in.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "start.wav", samples[:38400], 16000, subtype="FLOAT")
    assert translate(bundle, tmp_path / "in.wav", "-o", tmp_path / "out") == 1
    one_line(capsys, "in.wav: is heard up to 2.24 s", "not a finite number")
    assert not (tmp_path / "out" / CHECKPOINT).exists()
    last = json.loads((tmp_path / "out" / "events.jsonl").read_text().splitlines()[-1])
    assert last == {"kind": "finished", "source_ms": 2240.0}


class FullDisk:
    """Files whose disk takes so many bytes more."""

    def __init__(self, monkeypatch, room):
        self.room = room
        monkeypatch.setattr(results, "open_at", self.open_at)

    def open_at(self, path, size):
        disk, file = self, OPEN_AT(path, size)

        class Full(io.BufferedRandom):
            def write(self, data):
                if len(data) > disk.room:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                disk.room -= len(data)
                return super().write(data)

        mode = os.open(path, os.O_RDWR)
        full = Full(io.FileIO(mode, "r+"))
        full.seek(file.tell())
        file.close()
        return full


OPEN_AT = results.open_at


def test_a_full_disk_is_said_and_the_same_command_goes_on(bundle, wav, tmp_path, capsys, monkeypatch):
    assert translate(bundle, wav, "-o", tmp_path / "whole", "--push-ms", "100") == 0
    capsys.readouterr()
    for room in (0, 30_000):
        with monkeypatch.context() as patched:
            FullDisk(patched, room)
            assert translate(bundle, wav, "-o", tmp_path / "out", "--push-ms", "100", "--quiet") == 1
        one_line(capsys, "the disk is full")
        assert (tmp_path / "out").exists() == bool(room)
    assert (tmp_path / "out" / "events.jsonl").stat().st_size > 0
    assert translate(bundle, wav, "-o", tmp_path / "out", "--push-ms", "100") == 0
    assert "going on" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == set(results.RESULT_FILES) - {"revised.wav"}  # which is asked for by --resynthesize
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_ctrl_c_keeps_what_was_done(bundle, wav, tmp_path, capsys, monkeypatch):
    from echostream_plugin.inference.session import TranslationSession

    push, pushes = TranslationSession.push_events, []

    def interrupted(session, samples, rate):
        pushes.append(samples)
        if len(pushes) == 20:
            raise KeyboardInterrupt
        return push(session, samples, rate)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(TranslationSession, "push_events", interrupted)
        assert translate(bundle, wav, "-o", tmp_path / "out", "--push-ms", "100", "--quiet") == 130
    signal.signal(signal.SIGINT, before)
    one_line(capsys, "stopped")
    assert (tmp_path / "out" / "events.jsonl").stat().st_size > 0
    assert translate(bundle, wav, "-o", tmp_path / "out", "--push-ms", "100") == 0


def test_ctrl_c_ends_live_speech_as_its_end_would(bundle, tmp_path, capsys, monkeypatch):
    class Live(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            if not data:
                raise KeyboardInterrupt
            return data

    samples = (speechlike(2.0, seed=3) * 32767).astype("<i2")
    stdin = io.TextIOWrapper(io.BytesIO())
    stdin = type("Stdin", (), {"buffer": Live(samples.tobytes()), "isatty": lambda self: False})()
    monkeypatch.setattr(sys, "stdin", stdin)
    assert translate(bundle, "-", "--raw", "16000", "-o", tmp_path / "out", "--quiet", "--push-ms", "100") == 130
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert events[-1] == {"kind": "finished", "source_ms": 2000.0}


def raising(error):
    """A function that does nothing but raise it."""

    def fail(*arguments):
        raise error

    return fail


def test_whatever_goes_wrong_is_one_line(bundle, wav, tmp_path, capsys, monkeypatch):
    errors = [(MemoryError(), 1), (ZeroDivisionError("a\nb"), 70), (PermissionError(13, "Denied", "x"), 1)]
    for error, code in errors:
        with monkeypatch.context() as patched:
            patched.setattr("echostream_plugin.cli_translate.open_bundle", raising(error))
            assert translate(bundle, wav, "-o", tmp_path / "out") == code
        one_line(capsys)
        assert not (tmp_path / "out").exists()


def test_names_that_are_no_text(bundle, tmp_path, capsys):
    """A name of bytes that are not UTF-8."""
    name = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        soundfile.write(os.fsencode(name), speechlike(0.5), 16000)
    except OSError:
        pytest.skip("this file system takes no such names")
    assert translate(bundle, name, "-o", tmp_path / "out") == 0
    assert main(["speak", os.fsdecode(b"caf\xe9"), "-o", str(tmp_path / "x.wav"), "--bundle", str(bundle)]) == 2


def test_help_says_how_commands_end(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "exit codes:" in said
    for name in ("DONE", "INCOMPLETE", "USAGE", "DEFECT", "INTERRUPTED", "BROKEN_PIPE"):
        assert f"\n  {getattr(cli_errors, name)} " in said
    with pytest.raises(SystemExit):
        main(["transcribe", "--help"])
    assert "--vocoder-bf16" not in capsys.readouterr().out


def start(*arguments, **more):
    """A command of its own that Ctrl-C reaches, though a shell that runs the tests in its background ignores it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, **more)
    finally:
        signal.signal(signal.SIGINT, before)


def test_nobody_reads_the_output(bundle, tmp_path):
    """As `| head -1`: no word of it."""
    soundfile.write(tmp_path / "in.wav", speechlike(20.0), 16000)
    with start("translate", tmp_path / "in.wav", "-o", "-", "--bundle", bundle, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_an_output_that_is_full(bundle, wav):
    with open("/dev/full", "wb") as full, start("transcribe", wav, "--bundle", bundle, stdout=full) as process:
        error = process.stderr.read().decode()
    assert process.returncode == 1 and error.count("\n") == 1 and "disk is full" in error


@pytest.mark.parametrize("seconds", [0.5, 6])
def test_sigint_at_any_time(bundle, tmp_path, seconds):
    """While the libraries load, and later."""
    soundfile.write(tmp_path / "in.wav", speechlike(600.0), 16000)
    flags = ["-o", tmp_path / "out", "--bundle", bundle, "--quiet", "--push-ms", "40"]
    with start("translate", tmp_path / "in.wav", *flags, stdout=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read().decode()
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in error, error


def test_no_garbage_is_looked_for_at_the_end():
    """Half a second of every command, after its last line: the interpreter would go through all of torch's objects."""
    script = (
        "import atexit, gc, sys; from echostream_plugin.cli import main;"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count() > 0));"  # runs after those registered later
        "sys.argv = ['echostream', '--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "frozen True"
