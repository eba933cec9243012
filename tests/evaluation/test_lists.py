"""SimulEval's folders: what is read of one, and lists that do not fit."""

import pytest

from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.lists import Folder


@pytest.fixture
def lists(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"")
    (tmp_path / "wav_list.txt").write_text("a.wav\nb.wav\n")
    (tmp_path / "target.txt").write_text("one\ntwo\n")
    return tmp_path


def test_columns_that_are_not_there_are_empty(lists):
    folder = Folder.read(lists)
    assert folder.wavs == [lists / "a.wav", lists / "b.wav"] and folder.references == ["one", "two"]
    assert folder.sources == folder.units == []


def test_the_first_recordings_with_every_column(lists):
    (lists / "src.txt").write_text("uno\ndos\n")
    (lists / "unit.txt").write_text("1 2\n3\n")
    assert Folder.read(lists, 1) == Folder([lists / "a.wav"], ["one"], ["uno"], ["1 2"])
    (lists / "others.unit").write_text("7\n8\n")
    assert Folder.read(lists, units=lists / "others.unit").units == ["7", "8"]


@pytest.mark.parametrize("name, text, message", [
    ("target", "", r"target.txt: 0 lines for 2 recordings"), ("src", "uno\n", r"src.txt: 1 lines for 2 recordings"),
    ("unit", "1\n2\n3\n", r"unit.txt: 3 lines for 2 recordings"), ("wav_list", "", r"wav_list.txt: no recordings"),
])  # fmt: skip
def test_lists_that_do_not_fit_are_refused(lists, name, text, message):
    (lists / f"{name}.txt").write_text(text)
    with pytest.raises(SimulError, match=message):
        Folder.read(lists)


def test_units_that_were_asked_for_must_be_there(lists):
    with pytest.raises(SimulError, match="no.unit: no such list"):
        Folder.read(lists, units=lists / "no.unit")
