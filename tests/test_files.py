"""Files are written whole or not at all."""

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from echostream_plugin.files import json_lines, whole_file, write_json, write_tensors, write_text


def test_what_breaks_off_leaves_the_file_that_was_there(tmp_path):
    path = write_text(tmp_path / "new folder" / "a.txt", "old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("killed")
    assert path.read_text() == "old" and [each.name for each in path.parent.iterdir()] == ["a.txt"]
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and [each.name for each in path.parent.iterdir()] == ["a.txt"]


def test_what_a_kill_left_goes_away_where_one_process_writes(tmp_path):
    path, left = tmp_path / "a.json", tmp_path / "a.json.part"
    left.write_text("half of what a killed run wrote")
    with whole_file(path, alone=True, synced=True) as partial:
        assert partial == left and not left.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole" and not left.exists()


def test_json_is_written_as_it_is_read(tmp_path):
    value = {"words": ["mañana", "naïve"], "score": 0.5}
    path = write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text(encoding="utf-8")) == value and "mañana" in path.read_text(encoding="utf-8")


def test_weights_may_be_read_by_whoever_may_read_the_users_texts(tmp_path):
    text, weights = write_text(tmp_path / "a.txt", "a"), write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(3)})
    assert weights.stat().st_mode == text.stat().st_mode
    assert load_file(weights)["a"].tolist() == [1, 1, 1]


def test_a_log_is_read_up_to_where_it_is_torn(tmp_path):
    path, line = tmp_path / "log.jsonl", '{"n": 1}\n'
    assert json_lines(path, mend=True) == [] and not path.exists()
    path.write_text(line + "no json\n[2]\n" + '{"n": "half')
    assert json_lines(path) == [{"n": 1}] and path.read_text().endswith("half")
    assert json_lines(path, mend=True) == [{"n": 1}]
    with open(path, "a") as log:
        log.write('{"n": 3}\n')
    assert json_lines(path) == [{"n": 1}, {"n": 3}]


ROOT = Path(__file__).resolve().parents[1] / "echostream_plugin"
IN_PLACE = {"agents/event_log.py", "benchmark/measure.py"}  # a log that begins anew; the kernel's own file


def test_everybody_writes_whole_files():
    """What is not a partial file of `whole_file` is written by `files`."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes"):
                partial = isinstance(node.value, ast.Name) and node.value.id.startswith("partial")
                found |= set() if partial else {path.relative_to(ROOT).as_posix()}
    assert found == IN_PLACE
