"""simulstream 1.0.0 takes EchoStream as its speech processor: file inference, log, server protocol."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Finished, Revision, Sentence, TargetText
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import save_tiny_bundle, speechlike

processors = pytest.importorskip("simulstream.server.speech_processors", reason="needs: pip install simulstream==1.0.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bundle(
        tmp_path_factory.mktemp("simulstream"), card={"source_language": "es", "target_language": "en"}
    )


def config(folder, **more):
    kind = "echostream_plugin.serve.simulstream.EchoStreamProcessor"
    return SimpleNamespace(type=kind, bundle=str(folder), speech_chunk_size=0.32, **more)


def expected(folder, samples, **options):
    bundle = load_bundle(folder)
    session = TranslationSession(bundle, bundle_options(bundle, **options))
    for start in range(0, len(samples), 5120):
        session.push(samples[start : start + 5120], 16000)
    session.finish()
    return session


@pytest.fixture(autouse=True)
def metrics_are_logged(monkeypatch):
    """Programs that tests ran in this process before may have switched loggers off, or all of them."""
    from simulstream.metrics import logger as simul_logger

    monkeypatch.setattr(simul_logger.METRICS_LOGGER, "disabled", False)
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    yield
    logging.disable(before)


def test_words_are_said_when_the_next_one_begins():
    from echostream_plugin.serve.simulstream import GrowingWords

    words = GrowingWords()
    assert words.grow("the tr") == ["the"] and words.grow("the train") == [] and words.grow("the train is") == ["train"]
    assert words.end() == ["is"] and words.end() == []
    assert words.grow("next one") == ["next"] and words.end() == ["one"]


@pytest.mark.parametrize("output", ["translation", "transcript"])
def test_its_own_processing_gives_the_words_of_a_session(folder, output):
    from simulstream.server.message_processor import MessageProcessor

    samples = np.round(speechlike(2.5, seed=4) * 32767).astype("<i2")
    processor = processors.build_speech_processor(config(folder, output=output))
    log = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(json.loads(record.getMessage()))
    from simulstream.metrics import logger as simul_logger

    simul_logger.METRICS_LOGGER.addHandler(handler)
    simul_logger.METRICS_LOGGER.setLevel(logging.INFO)
    for _ in range(2):  # the second stream finds nothing of the first
        said, messages = "", MessageProcessor(7, processor)
        messages.process_metadata({"sample_rate": 16000, "source_lang": "es", "target_lang": "en"})
        for start in range(0, len(samples), 5120):
            out = messages.process_speech(samples[start : start + 5120].tobytes())
            said += out.new_string if out is not None else ""
        said += messages.end_of_stream().new_string
        session = expected(folder, samples.astype(np.float32) / 32768, speech=False, translate=output == "translation")
        text = session.target_text if output == "translation" else session.source_text
        assert said.split() == text.split() and len(text.split()) > 2
    simul_logger.METRICS_LOGGER.removeHandler(handler)
    logged = [word for line in log for word in line.get("generated_tokens", ())]
    assert logged == text.split() * 2
    assert all(not line.get("deleted_tokens") for line in log)


def test_file_inference_and_its_log_reader(folder, tmp_path):
    from simulstream import inference
    from simulstream.metrics.logger import setup_metrics_logger
    from simulstream.metrics.readers import LogReader

    soundfile.write(tmp_path / "a.wav", speechlike(2.0, seed=1), 16000, subtype="PCM_16")
    setup_metrics_logger(SimpleNamespace(enabled=True, filename=str(tmp_path / "log.jsonl")))
    processor = processors.build_speech_processor(config(folder))
    inference.run_inference(processor, [str(tmp_path / "a.wav")], "en", "es")
    reader = LogReader(SimpleNamespace(detokenizer_type="simuleval", latency_unit="word"), str(tmp_path / "log.jsonl"))
    found = reader.final_outputs_and_latencies()["a"]
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert found.final_text == expected(folder, samples, speech=False).target_text
    assert reader.num_deleted_tokens() == 0 and found.ideal_delays == sorted(found.ideal_delays)


def test_configurations_that_cannot_be_are_named(folder):
    from echostream_plugin.serve.simulstream import EchoStreamProcessor

    with pytest.raises(ConfigError, match="needs 'bundle'"):
        EchoStreamProcessor(SimpleNamespace())
    with pytest.raises(ConfigError, match="output 'speech'"):
        EchoStreamProcessor(config(folder, output="speech"))
    with pytest.raises(ConfigError, match="source language 'fr': the bundle's is 'es'"):
        EchoStreamProcessor(config(folder)).set_source_language("fr")


@pytest.mark.parametrize("seconds", [0, -1, 1e-9, float("nan"), float("inf"), "much"])
def test_a_push_of_no_length_is_refused(folder, seconds):
    settings = config(folder)
    settings.speech_chunk_size = seconds
    with pytest.raises(ConfigError, match="speech_chunk_size .*: seconds of audio"):
        processors.build_speech_processor(settings)


class Scripted:
    """A session that says what a test wants."""

    def __init__(self, *pushes):
        self.pushes = list(pushes)

    def push(self, samples, rate):
        return self.pushes.pop(0)

    finish = reset = lambda self: []


def test_a_revised_sentence_is_deleted_and_said_again_as_its_scorers_read_it(folder, tmp_path):
    from simulstream.metrics.readers import LogReader

    processor = processors.build_speech_processor(config(folder))
    processor._session = Scripted(
        [TargetText("the train lea", "the train lea", 300)],
        [TargetText("the train leaves", "ves", 600), Sentence(0, "", "the train leaves", 0, 1, 600)],
        [TargetText("at ten", "at ten", 900)],
        [Revision(0, "", "the bus leaves", 0, 1, 900)],
        [TargetText("at ten o'clock", " o'clock", 1200), Finished(1200.0)],
    )
    lines = [{"id": 0, "metadata": {"wav_name": "a.wav"}}]
    for number in range(5):
        out = processor.process_chunk(np.zeros(4800, np.float32))
        lines.append({
            "id": 0, "total_audio_processed": 0.3 * (number + 1), "computation_time": 0.0,
            "generated_tokens": out.new_tokens, "deleted_tokens": out.deleted_tokens,
        })  # fmt: skip
    assert lines[4]["deleted_tokens"] == ["train", "leaves", "at"]
    assert lines[4]["generated_tokens"] == ["bus", "leaves", "at"]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = SimpleNamespace(detokenizer_type="simuleval", latency_unit="word")
    reader = LogReader(settings, str(tmp_path / "log.jsonl"))
    found = reader.final_outputs_and_latencies()["a"]
    assert found.final_text == "the bus leaves at ten o'clock" and reader.num_deleted_tokens() == 3
    assert np.allclose(found.ideal_delays, [0.3, 1.2, 1.2, 1.2, 1.5, 1.5])  # words said again are as late as they are


@pytest.mark.parametrize("last", [[], [TargetText("the train leaves", " leaves", 600)]])
@pytest.mark.parametrize("ended", [[], [Sentence(0, "", "the train leaves", 0, 1, 600)]])
def test_a_revision_at_the_end_of_the_stream_is_in_its_log(folder, last, ended):
    """Whether anything was said in the rest of the audio, and whether sentences end at pauses."""
    from simulstream.server.message_processor import MessageProcessor

    processor = processors.build_speech_processor(config(folder))
    processor._session = Scripted([TargetText("the train leaves", "the train leaves", 300)], last)
    processor._session.finish = lambda: [*ended, Revision(0, "", "the bus leaves", 0, 1, 900), Finished(900.0)]
    messages, said = MessageProcessor(1, processor), []
    for out in (messages.process_speech(bytes(2 * 5120)), messages.process_speech(bytes(64)), messages.end_of_stream()):
        if out is not None:
            assert not out.deleted_tokens or said[-len(out.deleted_tokens) :] == out.deleted_tokens
            said = said[: len(said) - len(out.deleted_tokens)] + out.new_tokens
            json.dumps(out.deleted_tokens)
    assert said == ["the", "bus", "leaves"]


def test_revisions_of_a_session_are_the_final_text(folder):
    """Of an utterance, and of a stream; the bundle translates, nothing is scripted."""
    from simulstream.server.message_processor import MessageProcessor

    samples = np.round(speechlike(3.1, seed=4) * 32767).astype("<i2")
    for options in ({"revise": True}, {"revise": True, "pause_ms": 200, "longest_sentence_ms": 800}):
        processor, said = processors.build_speech_processor(config(folder, session=options)), []
        messages = MessageProcessor(1, processor)
        found = [messages.process_speech(samples[at : at + 5120].tobytes()) for at in range(0, len(samples), 5120)]
        for out in [*found, messages.end_of_stream()]:
            if out is not None:
                said = said[: len(said) - len(out.deleted_tokens)] + out.new_tokens
        session, bundle = [], load_bundle(folder)
        stream = TranslationSession(bundle, bundle_options(bundle, speech=False, **options))
        for start in range(0, len(samples), 5120):
            session += stream.push(samples[start : start + 5120].astype(np.float32) / 32768, 16000)
        session += stream.finish()
        revised = [event.target_text for event in session if isinstance(event, Revision)]
        live = [event.text for event in session if isinstance(event, TargetText)]
        assert said == " ".join(revised).split() and said and live[-1].split() != said
        assert len(revised) == 1 or "pause_ms" in options
