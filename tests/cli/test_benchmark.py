"""`echostream benchmark` runs on a tiny model and writes what it promises."""

import json
from pathlib import Path

import pytest
import torch

from echostream_plugin.benchmark.encoders import forms
from echostream_plugin.benchmark.measure import Machine, Spread, peak_bytes
from echostream_plugin.benchmark.regressions import compare, read
from echostream_plugin.benchmark.report import ratios
from echostream_plugin.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_a_quick_run_writes_table_json_and_plot(tmp_path, capsys):
    command = ["benchmark", "--quick", "--threads", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    results = json.loads((tmp_path / "benchmark.json").read_text())
    (run,) = results["runs"]
    rows = {row["name"]: row for row in run["encoders"]}
    assert len(rows) == len(forms("cpu")) * 2 + 3 and all(
        step["ms"]["median"] > 0 for row in rows.values() for step in row["steps"]
    )
    ours = rows["EchoStream encoder, float32"]["steps"]
    assert ours[0]["state_bytes"] == ours[-1]["state_bytes"] > 0
    assert run["sessions"][0]["rtf"] > 0 and set(run["sessions"][0]["stages_rtf"]) > {"encoder", "MT"}
    assert [row["sessions"] for row in run["batches"]] == [1, 2]
    assert "operator: " in results["machine"]
    page = (tmp_path / "benchmark.md").read_text()
    assert "torchaudio Emformer.infer" in page and "Offline forward+backward, --checkpoint-activations" in page
    assert (tmp_path / "benchmark.png").stat().st_size > 1000
    assert results["command"].startswith("echostream benchmark --quick --threads 1 --output ")
    assert main(command) == 2 and "benchmark.json: is there already" in capsys.readouterr().err
    assert run["crowd"] and run["starts"] and run["sessions_vocos"][0]["push_worst_ms"] > 0
    assert "Nothing got slower or larger" in compare(read(tmp_path / "benchmark.json"), results)


@pytest.mark.parametrize("part", ["sessions", "crowd"])
def test_a_part_is_measured_alone(part, tmp_path, capsys):
    assert main(["benchmark", "--quick", "--rows", part, "--threads", "1", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / f"{part}.json").read_text())[0]["rtf"] > 0
    assert "real-time factor" in capsys.readouterr().out


def test_the_rows_of_the_zipformer(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results:begin -->\n<!-- results:end -->\nafter\n")
    flags = ["--rows", "zipformer", "--quick", "--threads", "1", "--output", str(tmp_path), "--write", str(page)]
    assert main(["benchmark", *flags]) == 0
    found = json.loads((tmp_path / "zipformer.json").read_text())
    assert set(found["claims"]) == {"small", "medium"}
    assert len({step["name"] for step in found["steps"]}) == 3 and len(found["steps"]) >= 6
    for step in found["steps"]:
        first, last = step["ages"][0], step["ages"][-1]
        assert first["state_bytes"] == last["state_bytes"] > 0 and first["ms"]["median"] > 0
        assert len(step["ages"]) == (1 if step["form"] == "float32" else 2)
    written = page.read_text()
    assert "| 42.15 M parameters | true |" in written and "heard after" in written and written.endswith("after\n")


def test_the_profile_names_the_parts_of_a_step(capsys):
    assert main(["benchmark", "--quick", "--profile", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "torchaudio Emformer.infer" in printed and "addmm" in printed


@pytest.mark.parametrize(
    "flags, why",
    [
        ("--threads 0", "--threads must be at least 1"),
        ("--write nowhere.md", "nowhere.md: no such page"),
        ("--compare nothing.json", "nothing.json: cannot be read"),
        ("--compare docs/benchmark.json --rows starts", "--compare compares whole runs: leave out --rows"),
        ("--compare docs/benchmark.json --profile", "--compare compares whole runs"),
        ("--compare docs/benchmark.json --quick", "docs/benchmark.json: one of the two runs is --quick"),
        ("--compare docs/benchmark.json --threads 3", "measured with other threads, use --threads 1"),
    ],
)
def test_wrong_flags_are_refused_before_the_measuring(flags, why, capsys, monkeypatch, tmp_path):
    flags = flags.replace("docs/", f"{ROOT}/docs/")
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *flags.split()]) == 2
    assert why in capsys.readouterr().err


def test_the_floor_is_the_larger_of_reading_and_computing():
    machine = Machine(bytes_per_second=1e9, operations_per_second=1e10)
    assert machine.floor_ms(5_000_000, 1e6) == pytest.approx(5.0)
    assert machine.floor_ms(1000, 2e8) == pytest.approx(20.0)


def test_peak_memory_sees_what_was_freed():
    peak = peak_bytes(lambda: torch.ones(8_000_000).sum())
    assert peak is None or 20e6 < peak < 100e6


def test_a_spread_of_few_runs_has_extremes():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)


def test_ratios_name_what_was_measured():
    def encoder(name, ms):
        steps = [{"age_s": age, "ms": Spread(ms, ms, ms, 3)} for age in (5, 30)]
        return {"name": name, "steps": steps, "offline": [], "floor_ms": 2.0}

    ours = "EchoStream encoder, recorded"
    run = {"encoders": [encoder(ours, 4.0), encoder("torchaudio Emformer.infer", 10.0)]}
    found = {name: value for name, value, _ in ratios(run | {"sessions": [], "sessions_bf16": []})}
    assert found == {
        f"step at 30 s: {ours} / torchaudio Emformer.infer": 0.4,
        f"step at 30 s: {ours} / its floor": 2.0,
    }
