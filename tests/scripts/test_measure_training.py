"""Updates per second, from fairseq's own log."""

import json

import pytest

from echostream_plugin.evaluation import architectures
from echostream_plugin.evaluation.architectures import LOG, Training, TrainingError, updates_per_second
from tests.scripts.conftest import load_script

script = load_script("measure_training")


def write_log(folder, seconds_per_update, updates=40):
    """A log of fairseq-train, whose first update takes a minute."""
    records = [
        {"ups": "0.5", "num_updates": str(n), "wall": str(round(60 + seconds_per_update * (n - 1)))}
        for n in range(1, updates + 1)
    ]
    lines = [f"2026-11-22 | INFO | train_inner | {json.dumps(record)}" for record in records]
    lines.append(json.dumps({"dev_num_updates": "40", "dev_wall": "900", "train_ups": "1", "wall": "900"}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_text("\n".join(lines) + "\n")


def test_the_first_updates_and_validation_do_not_count(tmp_path):
    write_log(tmp_path, 2.0)
    assert updates_per_second(tmp_path, 10) == pytest.approx(0.5)
    write_log(tmp_path, 0.25)
    with pytest.raises(TrainingError, match=r"8 s after 10 updates are too few"):
        updates_per_second(tmp_path, 10)
    with pytest.raises(TrainingError, match="0 s after 50 updates"):
        updates_per_second(tmp_path, 50)


def test_the_table_compares_with_the_first_architecture(tmp_path, monkeypatch, capsys):
    trained = []

    def run(self, arch, flags):
        trained.append((arch, self.flags))
        write_log(self.folder, {"streamspeech": 3.0, "echostream": 2.0}[arch])

    monkeypatch.setattr(Training, "run", run)
    assert script.main(["--data", str(tmp_path), "--clusters", "500", "--", "--dropout", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "| streamspeech | 0.333 | 1.000 |" in printed and "| echostream | 0.500 | 1.500 |" in printed
    assert [arch for arch, _ in trained] == ["streamspeech", "echostream"] and trained[0][1] == trained[1][1]
    assert trained[0][1][-4:] == ("--target-code-size", "500", "--dropout", "0.2")


def test_wrong_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        script.main(["--data", "x", "--clusters", "5", "--updates", "10", "--warm-up", "10"])
    assert "--warm-up must be at least 1, and below --updates" in capsys.readouterr().err
    assert architectures.LEAST_SECONDS > 1  # the clock has whole seconds
