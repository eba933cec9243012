"""Recordings with their speakers and licences, how they came out, and the page that shows it."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.data import DataError
from echostream_plugin.data.tables import write_table
from echostream_plugin.evaluation import samples
from echostream_plugin.evaluation.page import at_a_glance, page
from echostream_plugin.evaluation.samples import verdict

RECORDINGS = Path(__file__).parents[2] / "examples" / "quickstart" / "recordings"


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "simuleval" / "test"
    (tmp_path / "src_wav").mkdir()
    folder.mkdir(parents=True)
    for number in range(3):
        soundfile.write(tmp_path / "src_wav" / f"test_{number}.wav", np.full(160, 0.1 * number), 16000)
    for name, line in (("wav_list", "../../src_wav/test_{}.wav"), ("src", "s {}"), ("target", "t {}")):
        (folder / f"{name}.txt").write_text("".join(line.format(number) + "\n" for number in range(3)))
    rows = [{"id": f"test_{n}", "engine": engine, "voice": "es"} for n, engine in enumerate(("espeak", "pico", "pico"))]
    (tmp_path / "text").mkdir()
    write_table(tmp_path / "text" / "test.tsv", ("id", "engine", "voice"), rows)
    return folder


def test_a_bundle_has_the_recordings_of_a_corpus_and_of_people(lists, tmp_path):
    chosen = samples.of_list(lists, [2, 0]) + samples.of_people(RECORDINGS)[:4]
    samples.copy_samples(chosen, tmp_path / "bundle" / "samples")
    found = samples.of_bundle(tmp_path / "bundle")
    assert [sample.told for sample in found] == ["pico es", "espeak es", *["Allison Smith, CC BY-SA 3.0"] * 4]
    assert [sample.human for sample in found] == [False, False, True, True, True, True]
    assert (found[0].source, found[0].target, found[0].wav.name) == ("s 2", "t 2", "test_2.wav")
    for one, other in zip(chosen, found, strict=True):
        assert other.wav.suffix == ".wav"
        assert np.array_equal(*(soundfile.read(sample.wav, dtype="int16")[0] for sample in (one, other)))
    assert "Allison" in (tmp_path / "bundle" / "samples" / "LICENSE.txt").read_text()


def test_every_recording_of_people_says_whose_it_is():
    people = samples.of_people(RECORDINGS)
    assert len(people) >= 4 and all(sample.wav.is_file() and sample.target and sample.licence for sample in people)


def test_what_is_missing_is_named(lists, tmp_path):
    with pytest.raises(DataError, match="has 3 lines, counted from 0"):
        samples.of_list(lists, [3])
    with pytest.raises(DataError, match="wav_list.txt: no such list"):
        samples.of_list(tmp_path, [0])
    (lists / "src.txt").unlink()
    with pytest.raises(DataError, match="src.txt: no such list"):
        samples.of_list(lists)
    with pytest.raises(DataError, match="samples.json: no list of recordings"):
        samples.of_bundle(tmp_path)
    listing = tmp_path / "samples" / "samples.json"
    listing.parent.mkdir()
    listing.write_text('[{"wav": "a.wav", "colour": "red"}]')
    with pytest.raises(DataError, match="colour"):
        samples.of_bundle(tmp_path)


@pytest.mark.parametrize("text, reference, unsure, wanted", [
    ("My room is number 100.", "my room is number one hundred", False, "exact"),
    ("my house is number", "my room is number one hundred", False, "3 of 6 words off"),
    ("my house is not here", "my room is number one hundred", False, "another sentence"),
    ("", "my room", True, "refused"), ("", "my room", False, "refused"),
    ("my", "my room", True, "broken off"), ("", "", True, "refused"), ("", "", False, ""), ("a word", "", False, ""),
])  # fmt: skip
def test_how_it_came_out(text, reference, unsure, wanted):
    assert verdict(text, reference, unsure) == wanted


class Files(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name == "src"]

    def handle_data(self, data):
        self.text += data


def row(name, verdict, human, translation="<b>it</b>"):
    texts = dict.fromkeys(("source", "transcript", "reference"), "words")
    who = {"told": "Allison Smith, CC BY-SA 3.0" if human else "pico es-ES", "human": human}
    return {"recording": name, "verdict": verdict, "translation": translation, **texts, **who}


def test_the_summary_says_at_a_glance_and_the_page_shows_everything():
    rows = [row("a", "exact", False), row("longer", "2 of 9 words off", False), row("d", "broken off", False)]
    rows.append(row("c", "refused", True, ""))
    text = at_a_glance(rows)
    lines = text.splitlines()
    assert lines[0].startswith("exact             a       pico es-ES") and lines[3].endswith("(nothing)")
    assert lines[-2] == "synthetic: 1 of 3 exactly right, 0 refused, 1 broken off"
    assert lines[-1] == "human: 0 of 1 exactly right, 1 refused"
    seen = Files()
    seen.feed(page(rows, text))
    assert seen.sources[:4] == ["a/source.wav", "a/translated.wav", "a/together.wav", "a/timeline.png"]
    assert len(seen.sources) == 16 and seen.text.count("CC BY-SA 3.0") == 2 and "<b>it</b>" in seen.text
