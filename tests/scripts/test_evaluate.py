"""The evaluation command: offline and simultaneous rows, the README's block, resumption, the collapse status."""

import json
import shutil

import pytest
import soundfile
import torch

from echostream_plugin.cli import main
from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation import claim
from echostream_plugin.evaluation.resynthesis import open_vocoder, write_wavs
from tests.tiny_bundle import speechlike

pytest.importorskip("simuleval")
evaluate = pytest.importorskip("echostream_plugin.cli_evaluate")


def run(arguments) -> int:
    return main(["evaluate", *arguments])


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    for number in range(2):
        soundfile.write(folder / f"{number}.wav", speechlike(1.0 + 0.4 * number, seed=number), 16000)
    (folder / "wav_list.txt").write_text("0.wav\n1.wav\n")
    (folder / "target.txt").write_text("t1 t2 t3 t4\nt5 t6 t7 t8\n")
    (folder / "src.txt").write_text("s1 s2\ns3 s4\n")
    return folder


def test_a_table_is_written_and_a_second_run_translates_nothing_again(bundle_folder, data, tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results:begin -->\n<!-- results:end -->\nafter\n")
    arguments = ["--bundle", str(bundle_folder), "--data", str(data), "--output", str(tmp_path / "eval")]
    arguments += ["--no-asr-bleu"]
    arguments += ["--segments-ms", "320", "--write-readme", str(readme)]
    assert run(arguments) == 0
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    offline, simultaneous = results["rows"]
    assert offline["mode"] == "offline" and simultaneous["mode"] == "320 ms" and results["command"] == arguments
    for row in (offline, simultaneous):
        assert {"text_bleu", "asr_wer", "AL", "LAAL", "ATD", "StartOffset", "distinct"} <= set(row)
    assert simultaneous["AL_CA"] >= simultaneous["AL"] and "AL_CA" not in offline
    assert offline["StartOffset"] == pytest.approx(1200) and offline["utterances"] == 2
    text = readme.read_text()
    assert "| 320 ms |" in text and "echostream evaluate --bundle" in text and text.endswith("after\n")

    monkeypatch.setattr("echostream_plugin.evaluation.simul._start", lambda *args: pytest.fail("translated again"))
    monkeypatch.setattr("echostream_plugin.evaluation.offline._prepare", lambda *args: pytest.fail("translated again"))
    assert run(arguments) == 0


def test_a_collapsed_model_has_its_own_exit_status(bundle_folder, data, tmp_path, monkeypatch, capsys):
    row = {"mode": "320 ms", "text_bleu": 0.1, "distinct": 1, "collapsed": True, "utterances": 240}
    monkeypatch.setattr(evaluate, "evaluate", lambda args: [row])
    arguments = ["--bundle", str(bundle_folder), "--data", str(data), "--output", str(tmp_path / "eval")]
    assert run(arguments) == evaluate.COLLAPSED
    assert "**Collapsed** (320 ms): 1 distinct outputs for 240 recordings" in capsys.readouterr().out


@pytest.mark.parametrize("file, text, message", [
    ("wav_list.txt", None, "wav_list.txt: no such list"), ("target.txt", "one\n", "1 lines for 2 recordings"),
    ("wav_list.txt", "9.wav\n", "no such recording '9.wav'"),
])  # fmt: skip
def test_lists_that_do_not_fit_are_named(bundle_folder, data, tmp_path, capsys, file, text, message):
    (data / file).unlink() if text is None else (data / file).write_text(text)
    arguments = ["--bundle", str(bundle_folder), "--data", str(data), "--output", str(tmp_path / "eval")]
    arguments += ["--no-asr-bleu"]
    assert run(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_missing_bundle_is_named(data, tmp_path, capsys):
    assert run(["--bundle", "nowhere", "--data", str(data), "--output", str(tmp_path / "eval")]) == 2
    assert "nowhere: no such bundle folder" in capsys.readouterr().err


def test_a_replaced_bundle_is_evaluated_anew_and_its_digest_named(bundle_folder, data, tmp_path, monkeypatch):
    bundle, output = tmp_path / "bundle", tmp_path / "eval"
    shutil.copytree(bundle_folder, bundle)
    arguments = ["--bundle", str(bundle), "--data", str(data), "--output", str(output), "--no-asr-bleu"]
    arguments += ["--segments-ms", "640"]

    def results():
        assert run(arguments) == 0
        return json.loads((output / "results.json").read_text())

    first = results()
    (bundle / "card.json").write_text('{"name": "the same model"}')
    monkeypatch.setattr(claim, "commit", lambda folder=None: "another")
    assert results() == first  # neither another date nor another commit: nothing was translated
    config = json.loads((bundle / "config.json").read_text())
    config["session"] = {"k1": 5} if "k1" in config["session"] else {"lagging_k1": 5}
    (bundle / "config.json").write_text(json.dumps(config))
    second = results()
    assert second["bundle"] != first["bundle"] and second["commit"] == "another"
    assert second["rows"][1]["AL"] > first["rows"][1]["AL"]
    text = (output / "results.md").read_text()
    assert f"commit another, bundle {second['bundle'][:12]}" in text
    kept = output / f"bundle-{first['bundle'][:12]}" / "results.json"
    assert json.loads(kept.read_text()) == first


def test_a_replaced_recording_is_refused_and_jobs_are_no_setting(bundle_folder, data, tmp_path, capsys):
    arguments = ["--bundle", str(bundle_folder), "--data", str(data), "--output", str(tmp_path / "eval")]
    arguments += ["--no-asr-bleu"]
    arguments += ["--segments-ms", "640"]
    assert run([*arguments, "--jobs", "2"]) == 0
    assert run(arguments) == 0
    soundfile.write(data / "1.wav", speechlike(1.0, seed=9), 16000)
    assert run(arguments) == 2
    assert f"the content of {data / '1.wav'}" in capsys.readouterr().err


def test_reference_units_are_those_of_the_units_and_the_vocoder(bundle_folder, tmp_path):
    vocoder = open_vocoder(bundle_folder)
    first = write_wavs(vocoder, {"a": [1, 2, 3], "b": [4]}, tmp_path, None)["a"].read_bytes()
    before = (tmp_path / "b.wav").stat().st_mtime_ns
    other_units = write_wavs(vocoder, {"a": [5, 6, 7], "b": [4]}, tmp_path, None)["a"].read_bytes()
    assert first[44:] != other_units[44:] and (tmp_path / "b.wav").stat().st_mtime_ns == before
    with torch.no_grad():
        next(vocoder.parameters()).mul_(2)
    assert write_wavs(vocoder, {"a": [5, 6, 7]}, tmp_path, None)["a"].read_bytes() != other_units
    with open(tmp_path / "made.jsonl", "a") as notes:
        notes.write('{"wav": "a", "dig')
    assert write_wavs(vocoder, {"a": [], "c": [1]}, tmp_path, None)["a"] is None and not (tmp_path / "a.wav").exists()
    (tmp_path / "mine.wav").write_bytes(b"somebody's own")
    with pytest.raises(ConfigError, match="mine.wav: not made from units here"):
        write_wavs(vocoder, {"mine": [1]}, tmp_path, None)
    assert (tmp_path / "mine.wav").read_bytes() == b"somebody's own"
