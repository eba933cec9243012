"""`echostream translate`: a file through a session in real chunks."""

import json
import subprocess
import sys

import pytest
import soundfile

from echostream_plugin.cli import COMMANDS, build_parser, main
from echostream_plugin.cli_options import options_of
from echostream_plugin.inference.options import SessionOptions
from tests.tiny_bundle import speechlike


def test_translate_writes_everything(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "in.flac", speechlike(2.0, 44100, seed=3), 44100)
    wav, out = tmp_path / "in.flac", tmp_path / "out"
    assert main(["translate", str(wav), "-o", str(out), "--bundle", str(bundle), "--max-tokens", "5"]) == 0
    records = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert records[-1] == {"kind": "finished", "source_ms": 2000.0}
    grown = [record["text"] for record in records if record["kind"] == "target_text"]
    assert (out / "translation.txt").read_text().strip("\n") == grown[-1] and len(grown) > 1
    speech, rate = soundfile.read(out / "speech.wav")
    heard, _ = soundfile.read(out / "heard.wav")
    duration = sum(record["duration_ms"] for record in records if record["kind"] == "speech")
    assert rate == 16000 and len(speech) == pytest.approx(duration * 16) and len(heard) > len(speech)
    assert "2.0 s translated" in capsys.readouterr().out


def test_errors_are_one_line(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "in.wav", speechlike(0.5), 16000)
    for flags, words in (
        ([str(tmp_path / "none.wav"), "--bundle", str(bundle)], "no such audio file"),
        ([str(tmp_path / "in.wav"), "--bundle", str(tmp_path / "none")], "no such bundle folder"),
        ([str(tmp_path / "in.wav"), "--bundle", str(bundle), "--chunk-ms", "330"], "multiple of 40"),
    ):
        assert main(["translate", *flags, "-o", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err


def test_a_level_may_be_called_like_a_command(bundle, capsys):
    assert main(["--log-level", "info", "info", str(bundle)]) == 0
    assert main(["info", str(bundle), "--log-level", "info"]) == 0


@pytest.mark.parametrize("line", ("--help", "--version", "no-such-command", "--log-level info --help"))
def test_torch_is_not_needed_to_say_what_there_is(line):
    program = (
        "import sys; from echostream_plugin.cli import main\n"
        f"try: main({line.split()!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'fairseq', 'numpy', 'silero_vad'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("[]\n"), ran.stdout


def test_help_names_every_command():
    words = " ".join(build_parser("").format_help().split())
    assert all(f" {name} {summary} " in words for name, summary in COMMANDS.items())


def test_flags_are_the_options():
    parser = build_parser()
    plain = parser.parse_args(["translate", "a.wav", "-o", "out"])
    assert set(options_of(plain, SessionOptions).values()) == {None}
    changed = parser.parse_args("translate a.wav -o o --chunk-ms 640 --no-speech --no-whole-word --stride-n 3".split())
    given = {name: value for name, value in options_of(changed, SessionOptions).items() if value is not None}
    assert given == {"chunk_ms": 640, "speech": False, "whole_word": False, "stride_n": 3}
