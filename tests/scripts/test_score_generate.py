"""Scoring of fairseq-generate: lines of screen and results file, scores by manifest row, wavs."""

import json

import pytest
import soundfile

from echostream_plugin.evaluation.generate_log import GenerateLogError, read_generate_logs
from tests.scripts.conftest import load_script

score_generate, wavs_from_units = load_script("score_generate"), load_script("wavs_from_units")
SCREEN = """2026-01-01 | INFO | fairseq_cli.generate | loading
A-1\tsa deux
S-1\tt one two three
D-1\tone two three four
A-0\tsa un
S-0\tt one
D-0\tfive six seven eight
D-0\tH-looking line is text
Generate test: done
"""
RESULTS = "S-0\tignored\nT-0\t1 2\nH-0\t-0.5\t3 4 5\nD-0\t-0.5\t3 4 5\nP-0\t-0.1 -0.2\nD-1\t-1.5e-05\t7 8\nD-2\t0.0\t\n"
MANIFEST = """id\tsrc_audio\tsrc_n_frames\tsrc_text\ttgt_text\ttgt_audio\ttgt_n_frames
a\tx\t9\tSa un!\tFive six seven eight.\t3 4 5\t3
b\tx\t9\tsa trois\tone two three four\t7 9\t2
c\tx\t9\tsa\tlong\t1\t1
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "screen.txt").write_text(SCREEN.replace("D-0\tH-looking line is text\n", ""))
    (tmp_path / "generate-test.txt").write_text(RESULTS)
    (tmp_path / "test.tsv").write_text(MANIFEST)
    return tmp_path


def test_texts_and_units_are_told_apart(files):
    log = read_generate_logs([files / "screen.txt", files / "generate-test.txt"])
    assert log.transcripts == {0: "sa un", 1: "sa deux"}
    assert log.ctc_translations == {0: "t one", 1: "t one two three"}
    assert log.translations == {0: "five six seven eight", 1: "one two three four"}
    assert log.units == {0: [3, 4, 5], 1: [7, 8], 2: []}


def test_scores_are_by_row_of_the_manifest(files, capsys):
    arguments = ["--log", str(files / "screen.txt"), str(files / "generate-test.txt")]
    arguments += ["--manifest", str(files / "test.tsv"), "--output", str(files / "out")]
    assert score_generate.main(arguments) == 0
    scores = json.loads((files / "out" / "scores.json").read_text())
    assert scores["text_bleu"] == pytest.approx(100) and scores["utterances"] == 2 and scores["left_out"] == 1
    assert scores["asr_wer"] == pytest.approx(25) and scores["unit_error_rate"] == pytest.approx(100 * 2 / 6)
    assert "text_bleu" in capsys.readouterr().out


def test_units_become_wavs_and_silence_is_told(files, bundle_folder, capsys):
    arguments = ["--log", str(files / "generate-test.txt"), "--vocoder", str(bundle_folder)]
    arguments += ["--output", str(files / "w")]
    assert wavs_from_units.main(arguments) == 0
    assert "2 wavs" in capsys.readouterr().out and not (files / "w" / "2.wav").exists()
    assert soundfile.info(files / "w" / "0.wav").samplerate == 16000
    before = (files / "w" / "0.wav").stat().st_mtime_ns
    assert wavs_from_units.main(arguments) == 0 and (files / "w" / "0.wav").stat().st_mtime_ns == before


@pytest.mark.parametrize("name, text, message", [
    ("none.txt", None, "no such file"), ("empty.txt", "", "no D- line"),
])  # fmt: skip
def test_a_log_without_translations_is_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(GenerateLogError, match=f"{name}: {message}"):
        read_generate_logs([tmp_path / name])


def test_a_manifest_of_another_split_is_noticed(files, capsys):
    (files / "short.tsv").write_text("\n".join(MANIFEST.splitlines()[:2]) + "\n")
    arguments = ["--log", str(files / "screen.txt"), "--manifest", str(files / "short.tsv"), "--output", str(files)]
    assert score_generate.main(arguments) == 1
    assert "row 1, but the manifest only 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "screen, results, message",
    [
        (SCREEN, RESULTS + "D-3\t-0.25\t3 4", r"generate-test.txt:8: torn line 'D-3\t-0.25\t3 4'"),
        (SCREEN, RESULTS + "D-1\t-0.25\n", r"generate-test.txt:8: torn line 'D-1"),
        (SCREEN + "A-2\tsa", RESULTS, r"screen.txt:9: torn line 'A-2"),
        (SCREEN, RESULTS + "P-2\t-0.", r"generate-test.txt:8: torn line 'P-2"),
        (SCREEN, RESULTS.split("D-1")[0], "row 1 has a transcript but no more of it"),
        (SCREEN + "A-2\tsa\nD-2\tlong\nA-3\tsa\n", RESULTS, "row 3 has a transcript"),
    ],
)
def test_a_torn_log_is_refused_with_its_line(tmp_path, screen, results, message, capsys):
    (tmp_path / "screen.txt").write_text(screen.replace("D-0\tH-looking line is text\n", ""))
    (tmp_path / "generate-test.txt").write_text(results)
    (tmp_path / "test.tsv").write_text(MANIFEST)
    logs = [str(tmp_path / "screen.txt"), str(tmp_path / "generate-test.txt")]
    with pytest.raises(GenerateLogError, match=message):
        read_generate_logs(logs)
    arguments = ["--log", *logs, "--manifest", str(tmp_path / "test.tsv"), "--output", str(tmp_path / "out")]
    assert score_generate.main(arguments) == 1 and "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
