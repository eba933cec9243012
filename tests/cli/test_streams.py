"""Pipes in and out, long recordings, and what is made of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from echostream_plugin.cli import main
from echostream_plugin.cli_options import session_options
from echostream_plugin.inference.endpointing.base import LONG_PAUSE_MS
from echostream_plugin.inference.errors import NoRecordingError
from tests import native_library
from tests.cli.runs import standard_input, translate
from tests.tiny_bundle import speechlike, tiny_bundle


def records(text: str) -> list:
    return [json.loads(line) for line in text.splitlines()]


def test_events_on_the_standard_output_and_nothing_else(bundle, wav, tmp_path, capsys, monkeypatch):
    assert translate(bundle, wav, "-o", tmp_path / "out") == 0
    expected = (tmp_path / "out" / "events.jsonl").read_text()
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert translate(bundle, wav, "-o", "-") == 0
    said = capsys.readouterr()
    assert said.out == expected and said.err == "" and not (tmp_path / "-").exists()
    assert translate(bundle, wav, wav, "-o", "-") == 0
    twice = records(capsys.readouterr().out)
    assert [{name: event[name] for name in event if name != "recording"} for event in twice] == 2 * records(expected)
    assert {event["recording"] for event in twice} == {str(wav)}


@pytest.mark.parametrize("kind", ["wav", "raw", "flac"])
def test_a_recording_through_a_pipe(bundle, wav, tmp_path, capsys, monkeypatch, kind):
    samples, rate = soundfile.read(wav, dtype="int16")
    data = {"wav": wav.read_bytes(), "raw": samples.astype("<i2").tobytes()}.get(kind)
    if kind == "flac":
        soundfile.write(tmp_path / "in.flac", samples, rate)
        data = (tmp_path / "in.flac").read_bytes()
    flags = ["--raw", "16000"] if kind == "raw" else []
    pause = ["--pause-ms", "0"]
    assert translate(bundle, wav, "-o", "-", *pause) == 0
    expected = capsys.readouterr().out
    standard_input(monkeypatch, data)
    assert translate(bundle, "-", "-o", "-", *pause, *flags) == 0
    assert capsys.readouterr().out == expected
    standard_input(monkeypatch, data)
    assert translate(bundle, "-", "-o", tmp_path / "out", *pause, *flags) == 0
    assert (tmp_path / "out" / "events.jsonl").read_text() == expected
    capsys.readouterr()
    standard_input(monkeypatch, data)
    assert main(["transcribe", "-", "--bundle", str(bundle), *pause, *flags]) == 0
    transcript = capsys.readouterr().out
    assert main(["transcribe", str(wav), "--bundle", str(bundle), *pause]) == 0
    assert capsys.readouterr().out == transcript != "\n"


def test_an_empty_pipe(bundle, tmp_path, capsys, monkeypatch):
    commands = [["translate", "-", "-o", str(tmp_path / "out")], ["transcribe", "-"], ["translate", "-", "-o", "-"]]
    for flags in ([], ["--raw", "16000"]):
        for command in commands:
            standard_input(monkeypatch, b"")
            assert main([*command, "--bundle", str(bundle), *flags]) != 0
            said = capsys.readouterr()
            assert said.out == "" and "standard input" in said.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


class Length:
    """Of a recording."""

    name = "talk.wav"

    def __init__(self, seconds):
        self.seconds = seconds


@pytest.mark.parametrize(
    "seconds, given, suited, pause_ms",
    [
        (30.0, {}, {}, 0),
        (30.1, {}, {}, LONG_PAUSE_MS),
        (None, {}, {}, LONG_PAUSE_MS),
        (218.0, {}, {"fresh_encoder": True}, LONG_PAUSE_MS),
        (218.0, {"pause_ms": 0}, {}, 0),
        (218.0, {"pause_ms": 320}, {}, 320),
        (218.0, {}, {"pause_ms": 120}, 120),
        (218.0, {"longest_sentence_ms": 240}, {}, 240),
        (218.0, {"chunk_ms": 0}, {}, 0),
    ],
)
def test_long_recordings_have_sentence_ends(seconds, given, suited, pause_ms):
    bundle = tiny_bundle()
    bundle.session = suited
    options, note = session_options(bundle, given, Length(seconds))
    assert options.pause_ms == pause_ms
    noted = pause_ms not in (0, given.get("pause_ms"), suited.get("pause_ms")) or "chunk_ms" in given
    assert ("talk.wav" in note) == noted and ("--pause-ms" in note) == (noted and pause_ms > 0)
    if given.get("chunk_ms") == 0:
        assert "may be lost" in note


def test_a_long_recording_is_translated_to_its_end(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "in.wav", speechlike(42.0, seed=2), 16000)
    flags = ["--longest-sentence-ms", "6000"]
    assert translate(bundle, tmp_path / "in.wav", "-o", tmp_path / "out", "--quiet", *flags) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "42 s long: sentences end at pauses of 400 ms (--pause-ms" in error
    events = records((tmp_path / "out" / "events.jsonl").read_text())
    ends = [event["end_ms"] for event in events if event["kind"] == "sentence"]
    assert len(ends) > 5 and ends[-1] > 38000
    assert len((tmp_path / "out" / "translation.txt").read_text().splitlines()) == len(ends)
    assert main(["transcribe", str(tmp_path / "in.wav"), "--bundle", str(bundle)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) >= 2 and "sentences end at pauses" in said.err


def test_words_have_times(bundle, wav, tmp_path):
    assert translate(bundle, wav, "-o", tmp_path / "out", "--pause-ms", "200", "--longest-sentence-ms", "1000") == 0
    words = json.loads((tmp_path / "out" / "words.json").read_text())
    for side in ("source", "translation"):
        lines = (tmp_path / "out" / f"{side}.txt").read_text().splitlines()
        said = [(number, word) for number, line in enumerate(lines) for word in line.split()]
        mine = [word for word in words if word["side"] == side]
        assert [(word["sentence"], word["word"]) for word in mine] == said and said
        written = [word["written_ms"] for word in mine]
        assert written == sorted(written) and written[-1] <= 3000
    source = [word for word in words if word["side"] == "source"]
    starts = [word["start_ms"] for word in source]
    assert starts == sorted(starts) and len(set(starts)) > 1
    assert all(0 <= word["start_ms"] < word["end_ms"] <= word["written_ms"] + 40 for word in source)


def test_progress_bars_are_for_terminals(bundle, wav, tmp_path, capsys):
    assert translate(bundle, wav, "-o", tmp_path / "out") == 0
    assert main(["transcribe", str(wav), "--bundle", str(bundle)]) == 0
    assert main(["speak", "t1", "-o", str(tmp_path / "x.wav"), "--bundle", str(bundle)]) == 0
    assert capsys.readouterr().err == ""


def test_info_describes_bundle_and_machine(bundle, tmp_path, capsys):
    assert main(["info", str(bundle), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bundle"]["units"] == 20 and facts["bundle"]["speech"] == "16000 Hz"
    assert set(facts["environment"]["versions"]) >= {"echostream", "python", "torch", "libsndfile"}
    assert facts["environment"]["devices"]["cpu"] and facts["environment"]["threads"]["torch"] >= 1
    assert len(facts["bundle"]["sha256 of the weights"]) == 64
    assert main(["info", str(bundle), "--log-level", "info"]) == 0
    said = capsys.readouterr().out
    assert "sha256 of the weights: " + facts["bundle"]["sha256 of the weights"] in said and "chunk_ms: 320" in said
    assert main(["info", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "torch:" in said.out and "config.json" in said.err


def test_info_says_which_instructions_the_compiled_operator_takes(bundle, capsys, monkeypatch):
    native_library.use()
    best = native_library.paths()[-1]
    for variable, said in (("auto", best), ("portable", "portable"), ("off", "off (ECHOSTREAM_NATIVE)")):
        monkeypatch.setenv("ECHOSTREAM_NATIVE", variable)
        assert main(["info", str(bundle)]) == 0
        assert f"compiled operator: {said}" in capsys.readouterr().out
    monkeypatch.setenv("ECHOSTREAM_NATIVE", "fast")
    assert main(["info", str(bundle)]) == 2
    assert "ECHOSTREAM_NATIVE 'fast': use auto, off, portable" in capsys.readouterr().err


def test_without_packages_for_training_the_other_commands_work(bundle):
    """`pip install .` alone has no yaml."""
    program = (
        "import sys; sys.modules['yaml'] = None\n"
        "from echostream_plugin.cli import main\n"
        f"print(main(['info', {str(bundle)!r}]), main(['prepare', 'table.tsv', '-o', 'corpus']))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("0 2\n")
    assert "prepare needs the package yaml: pip install" in ran.stderr


def test_a_name_that_is_missing_is_wrong_use(bundle, tmp_path):
    assert issubclass(NoRecordingError, ValueError)
    assert translate(bundle, tmp_path / "none.wav", "-o", tmp_path / "out") == 2
    assert translate(bundle, tmp_path, "-o", tmp_path / "out") == 2
    (tmp_path / "bad.wav").write_bytes(np.random.default_rng(0).bytes(1000))
    assert translate(bundle, tmp_path / "bad.wav", "-o", tmp_path / "out") == 1
