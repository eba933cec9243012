"""Texts for the punctuator, from the grammar alone."""

from echostream_plugin.data.punctuated import labelled
from echostream_plugin.punctuation import MARKS
from tests.quickstart.quickstart_text import load


def test_texts_are_reproducible_marked_and_held_out(tmp_path):
    write_texts = load("punctuation_text").write_texts
    files = {path.name: path.read_text() for path in write_texts(tmp_path / "a", 60, 12, seed=2)}
    again = {path.name: path.read_text() for path in write_texts(tmp_path / "b", 60, 12, seed=2)}
    assert files == again and sorted(files) == ["test.en.txt", "test.es.txt", "train.en.txt", "train.es.txt"]
    for name, text in files.items():
        lines = text.splitlines()
        assert len(lines) == (60 if name.startswith("train") else 12)
        assert not name.startswith("test") or not set(lines) & set(files[name.replace("test", "train")].splitlines())
        marks = labelled(lines, complete=False).marks
        assert (marks[labelled(lines).ends] != MARKS.index("")).all() and (marks == MARKS.index("")).mean() > 0.5
    assert "¿" in files["train.es.txt"] and "?" in files["train.en.txt"]
