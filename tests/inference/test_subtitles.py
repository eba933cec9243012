"""Subtitles that can be read."""

import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, TargetText
from echostream_plugin.inference.results import ResultWriter
from echostream_plugin.inference.subtitles import VTT_HEADER, balanced_lines, cues, srt_cue, vtt_cue

WORDS = st.lists(st.text(alphabet="abcdefgh-'", min_size=1, max_size=60), max_size=60).map(" ".join)
TIMES = st.lists(st.tuples(WORDS, st.integers(0, 4000), st.integers(0, 30000)), max_size=6)


@given(TIMES)
def test_cues_can_be_read_and_come_one_after_the_other(sentences):
    """For any sentences, however fast they were spoken."""
    clock, free = 0.0, 0.0
    for text, pause, length in sentences:
        start, clock = clock + pause, clock + pause + length
        found = cues(text, start, clock, free)
        assert "".join("".join(lines) for _, _, lines in found).replace(" ", "") == text.replace(" ", "")
        for begins, ends, lines in found:
            assert free <= begins < ends and begins >= round(start)
            assert len(lines) <= 2 and all(0 < len(line) <= 42 for line in lines)
            assert sum(map(len, lines)) <= 20 * (ends - begins) / 1000
            free = ends
        if found:
            assert found[-1][1] >= round(clock)


def test_cues_share_the_time_of_their_sentence():
    text = "one two three four five six seven eight nine ten " * 6
    found = cues(text.strip(), 1000.0, 31000.0)
    assert len(found) == 4 and found[0][0] == 1000 and found[-1][1] == 31000
    assert all(a[1] == b[0] for a, b in zip(found, found[1:], strict=False))
    assert max(ends - begins for begins, ends, _ in found) < 9000


def test_lines_are_of_much_the_same_length():
    assert balanced_lines("a " * 25)[0] == "a " * 12 + "a" and balanced_lines("short") == ["short"]
    assert balanced_lines("x" * 50) == ["x" * 25] * 2 and balanced_lines("") == []


def test_formats():
    assert srt_cue(3, 1000, 3_723_045, ["a", "b"]) == "3\n00:00:01,000 --> 01:02:03,045\na\nb\n\n"
    assert vtt_cue(3, 1000, 2000, ["a <b> & c, d"]) == "3\n00:00:01.000 --> 00:00:02.000\na &lt;b&gt; &amp; c, d\n\n"


@pytest.mark.parametrize("cut", [None, 1, 2, 3, 4, 5])
def test_files_of_a_run_that_goes_on_are_those_of_one_that_did_not(tmp_path, cut):
    """Also words.json, which is complete at every moment."""
    long = "so many words that nobody can read them in the second in which they were said " * 3
    events = [
        SourceText("uno", "uno", 320.0, ((40.0, 80.0),)),
        SourceText("uno dos", " dos", 640.0, ((40.0, 80.0), (400.0, 520.0))),
        TargetText(long, long, 700.0),
        Sentence(0, "uno dos", long, 40.0, 1040.0, 1600.0),
        TargetText("next", "next", 2000.0),
        TargetText("nextly", "ly", 2100.0),
        Finished(2500.0),
    ]
    with ResultWriter(tmp_path, 16000) as results:
        results.add(events[:cut])
        position = results.position
        if cut:
            results.add([TargetText("x", "x", 9.0), Finished(9.0)])
    if cut:
        with ResultWriter(tmp_path, 16000, position) as results:
            results.add(events[cut:])
    words = re.findall(r'"word": "(\w+)"', (tmp_path / "words.json").read_text())
    assert words == ["uno", "dos", *long.split(), "nextly"]
    said = (tmp_path / "words.json").read_text()
    uno = '"sentence": 0, "word": "uno", "start_ms": 40.0, "end_ms": 80.0, "written_ms": 320.0},\n'
    assert said.startswith('[\n{"side": "source", ' + uno)
    assert said.endswith('"word": "nextly", "written_ms": 2100.0}\n]\n')
    vtt, srt = ((tmp_path / f"translation.{kind}").read_text() for kind in ("vtt", "srt"))
    assert vtt.startswith(VTT_HEADER) and vtt.count("WEBVTT") == 1
    numbers = [int(line) for line in srt.splitlines() if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 3
    times = re.findall(r"(\S+) --> (\S+)", srt)
    assert all(a[1] <= b[0] for a, b in zip(times, times[1:], strict=False)) and times[0][0] == "00:00:00,040"


def test_no_cue_has_the_end_of_a_sentence_and_the_beginning_of_the_next():
    found = cues("Good morning. How can I get to the airport, please? It is far.", 0.0, 6200.0)
    assert [" ".join(lines) for _, _, lines in found] == [
        "Good morning.",
        "How can I get to the airport, please?",
        "It is far.",
    ]
    assert found[0][0] == 0 and found[-1][1] == 6200 and found[1][0] == found[0][1] == 1343


REVISED = [
    SourceText("uno", "uno", 320.0, ((40.0, 80.0),)),
    TargetText("one two", "one two", 700.0),
    Sentence(0, "uno", "one two", 40.0, 2040.0, 2600.0),
    Revision(0, "Uno.", "Only one.", 40.0, 2040.0, 2600.0, np.full(800, 0.5, np.float32), 16000),
    TargetText("three", "three", 3000.0),
    Sentence(1, "", "three", 3000.0, 4000.0, 4100.0),
    Revision(1, "", "Three.", 3000.0, 4000.0, 4100.0, np.full(800, 0.5, np.float32), 16000),
    Finished(5000.0),
]


@pytest.mark.parametrize("cut", [2, 4, 5, 7])
def test_lines_and_subtitles_are_revised_and_words_stay_what_was_written(tmp_path, cut):
    """Also where a run goes on; revised.wav has each sentence where it was said."""
    with ResultWriter(tmp_path, 16000, revised=True) as results:
        results.add(REVISED[:cut])
        position = results.position
    with ResultWriter(tmp_path, 16000, position, revised=True) as results:
        results.add(REVISED[cut:])
    text = {name: (tmp_path / name).read_text() for name in ("source.txt", "translation.txt", "translation.srt")}
    assert text["source.txt"] == "Uno.\n\n" and text["translation.txt"] == "Only one.\nThree.\n"
    assert "Only one." in text["translation.srt"] and "one two" not in text["translation.srt"]
    words = re.findall(r'"word": "(\w+)"', (tmp_path / "words.json").read_text())
    assert words == ["uno", "one", "two", "three"]
    samples, rate = soundfile.read(tmp_path / "revised.wav")
    assert rate == 16000 and len(samples) == 48000 + 800
    assert np.flatnonzero(samples).tolist() == [*range(640, 1440), *range(48000, 48800)]


def test_an_utterance_without_sentences_is_revised_too(tmp_path):
    events = [TargetText("one two", "one two", 700.0), Revision(0, "", "Only one.", 0.0, 900.0, 900.0), Finished(900.0)]
    with ResultWriter(tmp_path, 16000) as results:
        results.add(events[:1])
        results.add(events[1:])
    assert (tmp_path / "translation.txt").read_text() == "Only one.\n"
    assert not (tmp_path / "revised.wav").exists()


def test_final_lines_open_a_question_and_events_stay_as_they_were_said(tmp_path):
    events = [
        SourceText("Hola, qué tal?", "Hola, qué tal?", 320.0),
        TargetText("How are you?", "How are you?", 700.0),
        Sentence(0, "Hola, qué tal?", "How are you?", 40.0, 1040.0, 1600.0),
        Finished(2500.0),
    ]
    with ResultWriter(tmp_path, 16000, languages={"source": "es", "translation": "en"}) as results:
        results.add(events)
    texts = {name: (tmp_path / name).read_text() for name in ("source.txt", "source.srt", "source.vtt", "words.json")}
    assert texts["source.txt"] == "Hola, ¿qué tal?\n"
    assert "Hola, ¿qué tal?" in texts["source.srt"] and "¿" in texts["source.vtt"]
    assert "¿" not in texts["words.json"] and "¿" not in (tmp_path / "events.jsonl").read_text()
    assert (tmp_path / "translation.txt").read_text() == "How are you?\n"
