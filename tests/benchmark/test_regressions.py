"""What a comparison with an earlier run calls slower."""

import copy
import json
from pathlib import Path

import pytest

from echostream_plugin.benchmark.measure import Spread
from echostream_plugin.benchmark.regressions import check_settings, compare, read
from echostream_plugin.benchmark.report import as_json
from echostream_plugin.config import ConfigError


def results():
    step = {"age_s": 30, "ms": Spread(10.0, 9.8, 10.2, 30), "state_bytes": 1000, "peak_bytes": None}
    encoder = {"name": "EchoStream encoder", "floor_ms": 2.0, "steps": [step], "offline": []}
    session = {"seconds": 30, "rtf": 0.2, "push_worst_ms": 300.0, "tokens": 90, "stages_rtf": {"MT": 0.001}}
    batch = {"sessions": 4, "ms": Spread(20.0, 19.0, 21.0, 30), "at_real_time": 64.0}
    run = {"threads": 1, "machine": {"bytes_per_second": 1e9}, "encoders": [encoder], "sessions": [session]}
    return {"machine": "a processor", "commit": "abc", "runs": [run | {"batches": [batch]}]}


def changed(**changes):
    """The results with numbers of the only row of each list changed."""
    found = results()
    run = found["runs"][0]
    rows = {"steps": run["encoders"][0]["steps"][0], "sessions": run["sessions"][0], "batches": run["batches"][0]}
    for name, values in changes.items():
        rows[name].update(values)
    return found


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"steps": {"ms": Spread(12.0, 11.8, 12.2, 30)}}, "1 threads: encoders: EchoStream encoder: steps: 30 age_s"),
        ({"steps": {"state_bytes": 2000}}, "state_bytes | 1000 | 2000 | 2.00"),
        ({"sessions": {"rtf": 0.3}}, "sessions: 30 seconds: rtf | 0.2 | 0.3 | 1.50"),
        ({"sessions": {"push_worst_ms": 400.0}}, "push_worst_ms"),
        ({"batches": {"at_real_time": 40.0}}, "at_real_time | 64 | 40 | 1.60"),
    ],
)
def test_what_got_slower_is_listed(changes, line):
    text = compare(results(), changed(**changes))
    assert line in text and text.count("\n| ") == 3  # heading, dashes, one row


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": {"ms": Spread(12.0, 10.1, 14.0, 30)}},  # the quartiles meet
        {"steps": {"ms": Spread(10.9, 10.8, 11.0, 30)}},  # less than the margin
        {"steps": {"ms": Spread(5.0, 4.9, 5.1, 30), "state_bytes": 500}},
        {"sessions": {"rtf": 0.22, "tokens": 200, "stages_rtf": {"MT": 0.0029}}},
        {"batches": {"at_real_time": 90.0}},
    ],
)
def test_noise_and_what_got_faster_are_not(changes):
    text = compare(results(), changed(**changes))
    assert "Nothing got slower or larger beyond the noise." in text and "|" not in text


def test_two_runs_without_a_number_in_common_are_not_called_as_fast():
    new = results()
    new["runs"][0]["threads"] = 2
    text = compare(results(), new)
    assert "Nothing could be compared" in text and "Nothing got slower" not in text
    assert "7 numbers of this run are not in the earlier one." in text


def test_the_recorded_run_can_be_compared_with():
    path = Path(__file__).resolve().parents[2] / "docs" / "benchmark.json"
    old = read(path)
    check_settings(old, path, (1, 2), quick=False)
    new = copy.deepcopy(old)
    for row in new["runs"][0]["starts"]:
        row["ms"] = {name: value * (1 if name == "runs" else 2) for name, value in row["ms"].items()}
    assert "Nothing got slower" in compare(old, old)
    assert compare(old, new).count("\n| 1 threads: starts: ") == len(old["runs"][0]["starts"]) > 0


def test_another_machine_and_missing_numbers_are_said():
    new = results() | {"machine": "another processor"}
    new["runs"][0]["batches"] = []
    text = compare(as_json(copy.deepcopy(results())), new)
    assert "another machine, or with other parts: another processor" in text
    assert "2 numbers of the earlier run were not measured now" in text


def test_a_file_that_is_no_benchmark_is_named(tmp_path):
    wrong = {"text": "{", "list": "[]", "other": '{"runs": 3}', "empty": '{"runs": []}', "numbers": '{"runs": [3]}'}
    wrong |= {"run": '{"runs": [{"x": 3}]}', "spread": '{"runs": [{"threads": 1, "ms": {"median": "a"}}]}'}
    for name, content in {"none": None, **wrong}.items():
        name = f"{name}.json"
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            read(tmp_path / name)
    (tmp_path / "good.json").write_text(json.dumps(as_json(results())))
    assert compare(read(tmp_path / "good.json"), results()).count("Nothing got slower") == 1
