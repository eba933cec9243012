"""Verses of two languages: paired by their numbers, cleaned, chosen, and whole books held out."""

import importlib.util
import sqlite3
from pathlib import Path

import pytest

from echostream_plugin.data import punctuated
from echostream_plugin.data.punctuated import bible

ROOT = Path(__file__).resolve().parents[2]
LINE = "one two three four five"


@pytest.fixture
def database(tmp_path, monkeypatch):
    """Ten verses of Genesis, and three of each held-out book, in French and English."""
    path = tmp_path / "bible.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bible (bbName, bNumber INT, cNumber INT, vNumber INT, vText)")
        for edition in "lk3":
            for book, count in ((1, 10), (8, 3), (41, 3), (59, 3)):
                rows = [(edition, book, 1, verse, f"{LINE} {edition}{book}.{verse}.") for verse in range(1, count + 1)]
                connection.executemany("INSERT INTO bible VALUES (?, ?, ?, ?, ?)", reversed(rows))
        connection.execute("UPDATE bible SET vText = '(1:9) [un]  deux trois' WHERE bbName = 'l' AND vNumber = 3")
        connection.execute("UPDATE bible SET vText = 'too short' WHERE bbName = '3' AND bNumber = 1 AND vNumber = 2")
    monkeypatch.setattr(punctuated, "_bible_path", lambda: path)


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("verses_script", ROOT / "examples" / "own_language" / "verses.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_texts_of_the_punctuator_are_split_by_book(database):
    assert bible("fr", "train")[0] == f"{LINE} l1.1." and len(bible("fr", "train")) == 10
    assert len(bible("en", "dev")) == 3 and len(bible("en", "test")) == 6
    with pytest.raises(punctuated.DataError, match="no bible for language 'xx'; there are en, fr"):
        bible("xx", "train")


def test_pairs_have_one_number_and_books_are_held_out(database, script):
    rows = script.chosen(("fr", "en"), 20, 20)
    assert {row["split"] for row in rows} == {"train", "dev", "test"}
    for row in rows:
        book, chapter, verse = int(row["id"][1:3]), int(row["id"][4:7]), int(row["id"][8:])
        assert row["split"] == {1: "train", 8: "dev"}.get(book, "test") and row["id"] != "b01c001v002"
        assert chapter == 1 and row["tgt_text"] == f"{LINE} 3{book}.{verse}."
        assert row["src_text"] == ("un deux trois" if verse == 3 else f"{LINE} l{book}.{verse}.")
    assert sum(row["split"] == "train" for row in rows) == 9  # all but the one that is too short
    assert script.chosen(("fr", "en"), 20, 4) == []


def test_each_recording_is_spoken_once_by_its_voice(database, script, monkeypatch, tmp_path):
    spoken = []

    class Engine:
        def speak(self, text, **manner):
            spoken.append((text, manner["voice"], manner["speed"]))
            return b"\1\0" * 1600

    monkeypatch.setattr(script, "engine", Engine)
    command = ["--count", "12", "--jobs", "1", "--out", str(tmp_path / "out")]
    script.main(command)
    table = (tmp_path / "out" / "table.tsv").read_text(encoding="utf-8").splitlines()
    others = (tmp_path / "out" / "others.tsv").read_text(encoding="utf-8").splitlines()
    assert table[0].split("\t") == list(script.COLUMNS) and len(spoken) == 2 * len(table[1:]) + len(others[1:])
    assert {voice for _, voice, speed in spoken if speed == 1.0} == {"en-GB"}
    assert len({speed for _, voice, speed in spoken if voice == "fr-FR"}) == len(table[1:])
    assert others == ["kind\twav", *(f"en\twav/b08c001v00{verse}.en.wav" for verse in (1, 2))]  # the database's
    assert [text for text, *_ in spoken[-2:]] == [f"{LINE} 38.1.", f"{LINE} 38.2."]
    assert (tmp_path / "out" / "wav" / "b08c001v001.en.wav").is_file()
    before = len(spoken)
    script.main(command)
    assert len(spoken) == before
