"""Messages of both protocols, without a server."""

import json

import numpy as np
import pytest

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText
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
