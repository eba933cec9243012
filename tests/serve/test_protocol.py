"""Messages of both protocols, without a server."""

import json
from pathlib import Path

import numpy as np
import pytest

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, Speech, TargetText, Unsure
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.protocol import EventWriter, ProtocolError, Settings, TextWriter, read_audio, read_message

SPEECH = Speech(np.array([0.0, 0.5, -1.0, 2.0], np.float32), 16000, (3, 4), 640.0)


@pytest.mark.parametrize(
    "message, why",
    [
        ({"sample_rate": "16000"}, "sample_rate: expected int"),
        ({"sample_rate": True}, "sample_rate: expected int"),
        ({"sample_rate": 100}, "sample_rate 100: expected 4000 to 384000"),
        ({"format": "mp3"}, "format 'mp3': use int16 or float32"),
        ({"protocol": "grpc"}, "protocol 'grpc'"),
        ({"audio_out": 1}, "audio_out: expected bool"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"received": None}, "received: expected int, got null"),
        ({"received": -1}, "received: expected the number of an event"),
        ({"received": 10**30}, "received: expected the number of an event"),
        ({"received": float("nan")}, "received: expected int, got NaN"),
        ({"sample_rate": float("inf")}, "sample_rate: expected int"),
        ({"sample_rate": 10**400}, "sample_rate 1000.*: expected 4000"),
        ({"sample_rate": 16000.0}, "sample_rate: expected int"),
        ({"format": {"a": [1]}}, "format: expected str"),
        ({"end_of_stream": "no"}, "end_of_stream: expected bool"),
        ({"\ud800": 1}, "unknown setting"),
    ],
)
def test_settings_that_cannot_be_are_named(message, why):
    with pytest.raises(ProtocolError, match=why):
        Settings().changed(message)


def test_simulstreams_first_message_is_understood():
    message = {
        "sample_rate": 44100,
        "metrics_metadata": {"wav_name": "a.wav"},
        "target_lang": "en",
        "source_lang": "es",
    }
    assert Settings().changed(message) == Settings(sample_rate=44100, source_lang="es", target_lang="en")


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"x"', "[" * 100000, "NaN"])
def test_text_that_is_no_object_is_refused(text):
    with pytest.raises(ProtocolError, match="json object"):
        read_message(text)


def test_audio_is_read_as_it_was_sent_and_half_samples_are_refused():
    samples = np.array([0, 1, -32768, 32767], "<i2")
    assert read_audio(samples.tobytes(), "int16").tolist() == samples.tolist()
    floats = np.array([0.25, -1.0], "<f4")
    assert read_audio(floats.tobytes(), "float32").dtype == np.float32
    for format, size in (("int16", 3), ("float32", 6)):
        with pytest.raises(ProtocolError, match=f"{size} bytes holds no whole number"):
            read_audio(b"x" * size, format)


def test_the_text_protocol_says_what_is_new_and_separates_sentences():
    writer = TextWriter(audio_out=False)
    events = [
        SourceText("hola", "hola", 1),
        TargetText("hello", "hello", 1),
        TargetText("hello you", " you", 2),
        SPEECH,
    ]
    assert [json.loads(m) for m in writer.messages(events, 1.0)] == [{"new": "hello you", "deleted": ""}]
    assert json.loads(writer.messages([], 1.0)[0]) == {"new": "", "deleted": ""}
    assert json.loads(writer.messages([TargetText("next", "next", 3)], 2.0)[0])["new"] == " next"
    assert json.loads(writer.closing()[0]) == {"end_of_processing": True}


def test_the_voice_follows_its_description_only_where_it_was_asked_for():
    head, samples = TextWriter(audio_out=True).messages([SPEECH], 1.0)[1:]
    assert json.loads(head)["audio"] == {"sample_rate": 16000, "samples": 4, "source_ms": 640.0}
    assert np.frombuffer(samples, "<i2").tolist() == [0, 16383, -32767, 32767]
    record, same, heard = EventWriter(audio_out=True).messages([SPEECH], 1.0)
    assert json.loads(record)["kind"] == "speech" and same == samples and json.loads(heard)["kind"] == "heard"
    assert len(list(EventWriter(audio_out=False).messages([SPEECH], 1.0))) == 1


def test_events_are_numbered_and_complete():
    writer = EventWriter(audio_out=True)
    events = [SourceText("a", "a", 1.0), TargetText("b", "b", 2.0), Sentence(0, "a", "b", 0.0, 1.0, 3.0), Finished(4.0)]
    records = [json.loads(m) for m in [*writer.messages(events, 0.5), *writer.closing()]]
    assert [record["n"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [r["kind"] for r in records] == ["source_text", "target_text", "sentence", "finished", "heard", "end"]
    assert records[2]["target_text"] == "b" and records[4]["seconds"] == 0.5


@pytest.mark.parametrize(
    "changes", [{"max_sessions": 0}, {"backlog": 0.0}, {"idle": -1.0}, {"resume": -1.0}, {"push_ms": 0}]
)
def test_limits_that_cannot_be_are_named(changes):
    with pytest.raises(ConfigError, match=f"--{next(iter(changes)).replace('_', '-')}"):
        Limits(**changes)


REVISED = Revision(0, "hola a todos", "hello everybody", 100.0, 900.0, 2000.0)
UNSURE = Unsure(1000.0, 1500.0, 0.25, 2100.0)


def test_revisions_and_unsure_speech_are_sent_with_all_their_fields():
    revision, unsure, _ = (json.loads(m) for m in EventWriter(audio_out=False).messages([REVISED, UNSURE], 2.1))
    assert revision == {
        "n": 1, "kind": "revision", "index": 0, "source_text": "hola a todos", "target_text": "hello everybody",
        "start_ms": 100.0, "end_ms": 900.0, "source_ms": 2000.0,
    }  # fmt: skip
    assert unsure == {
        "n": 2, "kind": "unsure", "start_ms": 1000.0, "end_ms": 1500.0, "confidence": 0.25, "source_ms": 2100.0,
    }  # fmt: skip


def test_the_page_that_lists_the_events_knows_all_of_them_and_their_fields():
    page = (Path(__file__).resolve().parents[2] / "docs" / "live.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for event in (
        SourceText("a", "a", 1),
        TargetText("a", "a", 1),
        SPEECH,
        Sentence(0, "a", "b", 0, 1, 2),
        REVISED,
        UNSURE,
    ):
        record = json.loads(next(EventWriter(audio_out=True).messages([event], 1.0)))
        row = next(row for row in rows if f"`{record['kind']}`" in row.split("|")[1])
        missing = [name for name in record if name not in ("n", "kind") and f"`{name}`" not in row]
        assert not missing, f"docs/live.md: {record['kind']}: {missing}"
    assert any("`finished`" in row for row in rows)


def replies(writer, *pushes):
    """(what a reader sees after each push, all replies): the end of the text is taken away and something added."""
    text, seen, found = "", [], []
    for events in pushes:
        reply = json.loads(writer.messages(events, 1.0)[0])
        assert text.endswith(reply["deleted"])
        text = text[: len(text) - len(reply["deleted"])] + reply["new"]
        seen.append(text)
        found.append((reply["new"], reply["deleted"]))
    return seen, found


def sentence(index, text):
    return Sentence(index, "", text, 0.0, 1.0, 1.0)


def test_the_text_protocol_takes_back_no_more_than_what_is_other_now():
    writer = TextWriter(audio_out=False)
    seen, found = replies(
        writer,
        [TargetText("hello you", "hello you", 1)],
        [sentence(0, "hello you"), TargetText("how", "how", 2)],
        [REVISED],
        [TargetText("how are", " are", 3)],
        [sentence(1, "how are"), Revision(1, "", "how are we", 0, 1, 2)],
        [Revision(7, "", "nobody said this", 0, 1, 2), Revision(0, "", "hello everybody", 0, 1, 2), UNSURE],
    )
    assert seen == [
        "hello you", "hello you how", "hello everybody how", "hello everybody how are", "hello everybody how are we",
        "hello everybody how are we",
    ]  # fmt: skip
    assert found[2] == (" everybody how", " you how") and found[4] == (" we", "") and found[5] == ("", "")


def test_a_sentence_that_is_long_over_stays_as_it_was_said():
    writer = TextWriter(audio_out=False)
    pushes = [[TargetText(f"s{i}", f"s{i}", 1), sentence(i, f"s{i}")] for i in range(12)]
    revised = [[Revision(index, "", "new", 0, 1, 2)] for index in (3, 4)]
    seen, found = replies(writer, *pushes, *revised)
    assert found[12] == ("", "")
    assert seen[-1] == "s0 s1 s2 s3 new s5 s6 s7 s8 s9 s10 s11"


def test_a_revision_is_told_where_no_sentence_was_ended_and_where_nothing_was_said():
    writer = TextWriter(audio_out=False)
    pushes = [
        [TargetText("hello", "hello", 1.0)],
        [REVISED, Finished(2.0)],  # an utterance without pauses
    ]
    assert [json.loads(writer.messages(events, 1.0)[0]) for events in pushes] == [
        {"new": "hello", "deleted": ""},
        {"new": " everybody", "deleted": ""},
    ]
    writer = TextWriter(audio_out=False)
    events = [Sentence(0, "hola", "", 0, 1, 2), REVISED, TargetText("how", "how", 3.0)]
    assert json.loads(writer.messages(events, 1.0)[0]) == {"new": "hello everybody how", "deleted": ""}
