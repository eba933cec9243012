"""`echostream speak`: text in, one sound file out."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from echostream_plugin.cli import build_parser, main
from echostream_plugin.cli_options import options_of
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.speak import SpeakOptions, TextSpeaker
from tests.tiny_bundle import save_tiny_bundle, speechlike

TEXT = "T0y2 t3, t11y7y1. t8 t5y0!"


def run(bundle, out, *flags):
    return main(["speak", *map(str, flags), "-o", str(out), "--bundle", str(bundle)])


def expected(bundle, text):
    speaker = TextSpeaker(optimize(load_bundle(bundle)))
    events = speaker.push(text) + speaker.finish()
    return np.concatenate([event.samples for event in events if isinstance(event, Speech)])


def assert_wav(path, samples):
    spoken, rate = soundfile.read(path)
    assert rate == 16000 and len(spoken) == len(samples) > 0
    np.testing.assert_allclose(spoken, samples, atol=1e-4 + 1 / 32768)


def test_a_text_is_spoken(bundle, tmp_path, capsys):
    assert run(bundle, tmp_path / "out.wav", *TEXT.split(), "--times", tmp_path / "times.json") == 0
    assert_wav(tmp_path / "out.wav", expected(bundle, TEXT))
    said = capsys.readouterr().out
    assert "t0y2 t3 t11y7y1" in said and "5 words" in said
    times = [json.loads(line) for line in (tmp_path / "times.json").read_text().splitlines()]
    assert [word["word"] for word in times] == ["t0y2", "t3", "t11y7y1", "t8", "t5y0"]
    assert all(0 <= word["start_ms"] <= word["end_ms"] for word in times)


@pytest.mark.parametrize("flag", ["--word-by-word", "--no-word-by-word"])
def test_files_of_any_size_are_spoken(bundle, tmp_path, flag):
    text = "t1 t3y2\n\nt5 " * 60
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    assert run(bundle, tmp_path / "out.flac", "--text-file", tmp_path / "in.txt", flag) == 0
    assert_wav(tmp_path / "out.flac", expected(bundle, text))


def test_standard_input_is_spoken_as_it_comes(bundle, tmp_path):
    """The speech of the first sentence is in the file while the second is not yet typed."""
    out = tmp_path / "out.wav"
    command = [sys.executable, "-m", "echostream_plugin.cli", "speak", "-", "-o", str(out), "--bundle", str(bundle)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"t0y2 t3 t11y7y1. t")
        process.stdin.flush()
        assert b"t0y2 t3 t11y7y1" in process.stdout.readline()
        assert process.poll() is None and out.is_file()
        process.stdin.write(b"8 t5y0")
        process.stdin.close()
        assert b"t8 t5y0" in process.stdout.readline() and process.wait(60) == 0
    assert_wav(out, expected(bundle, TEXT))


def test_a_source_recording_is_heard(bundle, tmp_path):
    soundfile.write(tmp_path / "in.wav", speechlike(1.0, 44100), 44100)
    assert run(bundle, tmp_path / "without.wav", TEXT) == 0
    assert run(bundle, tmp_path / "with.wav", TEXT, "--source", tmp_path / "in.wav", "--lead", 0, "--quiet") == 0
    assert (tmp_path / "without.wav").read_bytes() != (tmp_path / "with.wav").read_bytes()


def test_unknown_words_are_warned_of(bundle, tmp_path, capsys):
    assert run(bundle, tmp_path / "out.wav", "t0y2 zebra, t3 t11y7y1") == 0
    assert "warning: 'zebra,': not in the model's dictionary, left out" in capsys.readouterr().err
    assert_wav(tmp_path / "out.wav", expected(bundle, "t0y2 t3 t11y7y1"))


def test_errors_are_one_line_and_leave_no_file(bundle, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("déjà".encode("latin-1"))
    (tmp_path / "dir.wav").mkdir()
    (tmp_path / "short.wav").write_bytes(b"RIFF")
    silent = save_tiny_bundle(tmp_path)
    (silent / "vocoder").rename(tmp_path / "vocoder")
    out = tmp_path / "out.wav"
    for where, path, flags, words in (
        (bundle, out, [], "give the text"),
        (bundle, out, ["t1", "--text-file", "x"], "give the text"),
        (bundle, out, [""], "no word"),
        (bundle, out, ["zebra ..."], "no word"),
        (bundle, out, ["--text-file", tmp_path / "none.txt"], "no such text file"),
        (bundle, out, ["--text-file", tmp_path / "latin.txt"], "latin.txt: not UTF-8"),
        (bundle, tmp_path / "out.mp4", ["t1"], "use .wav"),
        (bundle, tmp_path / "none" / "out.wav", ["t1"], "no such folder"),
        (bundle, tmp_path / "dir.wav", ["t1"], "a folder"),
        (bundle, out, ["t1", "--times", tmp_path / "none" / "t.json"], "no such folder"),
        (bundle, out, ["t1", "--source", tmp_path / "none.wav"], "no such audio file"),
        (bundle, out, ["t1", "--source", tmp_path / "short.wav"], "not a readable audio file"),
        (bundle, out, ["t1", "--longest-sentence", "0"], "at least 1"),
        (tmp_path / "none", out, ["t1"], "no such bundle"),
        (silent, out, ["t1"], "no vocoder"),
    ):
        assert run(where, path, *flags) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
        assert not out.exists()


def test_bad_bytes_on_standard_input_keep_what_was_spoken(bundle, tmp_path, capsys, monkeypatch):
    text = b"t0y2 t3 t11y7y1. " * 20 + b"\xff\xff t1"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert run(bundle, tmp_path / "out.wav", "-") == 2
    assert "standard input: not UTF-8" in capsys.readouterr().err
    assert soundfile.info(tmp_path / "out.wav").frames > 0


def test_flags_are_the_options():
    args = build_parser().parse_args(["speak", "a", "-o", "o.wav", "--lead", "2.5", "--lines", "--no-word-by-word"])
    given = {name: value for name, value in options_of(args, SpeakOptions).items() if value is not None}
    assert given == {"lead": 2.5, "lines": True, "word_by_word": False}
