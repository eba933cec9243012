"""Text cut into words, sentences and subwords."""

import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from echostream_plugin.constants import SPECIALS, UNK
from echostream_plugin.data import manifests
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.words import (
    LONGEST_WORD,
    SENTENCE_END,
    Subwords,
    WordReader,
    ends_clause,
    ends_sentence,
    normalise,
)


def read(*pushes, lines=False):
    reader = WordReader(lines)
    return [word for text in pushes for word in reader.push(text)] + reader.finish()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", []),
        ("  \n\n \t", [SENTENCE_END]),
        ("a bc", ["a", "bc"]),
        ('He said "no." Then', ["He", "said", '"no."', SENTENCE_END, "Then"]),
        ("one\ntwo", ["one", "two"]),
        ("one\n \r\n\ntwo", ["one", SENTENCE_END, "two"]),
        ("3.5 euros!", ["3.5", "euros!", SENTENCE_END]),
    ],
)
def test_words_and_sentence_ends(text, words):
    assert read(text) == words


def test_lines_can_be_sentences():
    assert read("one\ntwo\n", lines=True) == ["one", SENTENCE_END, "two", SENTENCE_END]


@given(st.lists(st.text(alphabet="ab. \n,?", max_size=6), max_size=8), st.booleans())
def test_any_cutting_gives_the_same_words(pushes, lines):
    assert read(*pushes, lines=lines) == read("".join(pushes), lines=lines)


def test_only_complete_words_are_given_out():
    reader = WordReader()
    assert reader.push("the sta") == ["the"] and reader.push("tion") == [] and reader.push(" ") == ["station"]


def test_an_endless_word_is_not_kept():
    reader = WordReader()
    for _ in range(100):
        assert reader.push("x" * 10000) == []
    assert [len(word) for word in reader.finish()] == [LONGEST_WORD + 1]


def test_punctuation():
    assert ends_sentence('end."') and ends_sentence("what?!") and not ends_sentence("e.g") and not ends_sentence("a,")
    assert ends_clause("first,") and ends_clause("so:)") and not ends_clause("first") and not ends_clause("")
    assert all(map(ends_sentence, ("पिला।", "لأشرب؟", "喝。"))) and ends_clause("ماء،") and not ends_sentence("ماء،")


def test_text_is_normalised_as_for_training():
    assert normalise("It's  5 o'clock,\tDad!") == "its 5 oclock dad"
    assert manifests.normalise is normalise


DICTIONARY = Dictionary((*SPECIALS, "▁sta", "tion", "▁station", "▁", "s", "▁st", "ation", "a"))


@pytest.mark.parametrize(
    "word, subwords",
    [
        ("station", ["▁station"]),
        ("stations", ["▁station", "s"]),
        ("stas", ["▁sta", "s"]),
        ("sass", ["▁", "s", "a", "s", "s"]),
        ("zs", ["▁", "<unk>", "s"]),
    ],
)
def test_fewest_subwords_without_a_model(word, subwords):
    assert [DICTIONARY.symbols[token] for token in Subwords(DICTIONARY).encode(word)] == subwords


@given(st.text(alphabet="station", min_size=1, max_size=12))
def test_subwords_join_to_the_word(word):
    tokens = Subwords(DICTIONARY).encode(word)
    if UNK not in tokens:
        assert DICTIONARY.text(tokens) == word


def test_spelling_is_seen():
    subwords = Subwords(DICTIONARY)
    assert subwords.spells(subwords.encode("sass"), "sass")
    assert not subwords.spells(subwords.encode("stations"), "stations")


def test_a_sentencepiece_model_decides_where_there_is_one(tmp_path):
    words = ["station", "nation", "state", "nations", "stations"]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20), model_writer=buffer, vocab_size=20, hard_vocab_limit=False, minloglevel=2
    )
    (tmp_path / "t.model").write_bytes(buffer.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    symbols = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    dictionary = Dictionary((*SPECIALS, *(symbol for symbol in symbols if symbol not in SPECIALS)))
    subwords = Subwords(dictionary, tmp_path / "t.model")
    text = "stations state nations"
    tokens = [token for word in text.split() for token in subwords.encode(word)]
    assert [dictionary.symbols[token] for token in tokens] == processor.encode(text, out_type=str)
    assert UNK in subwords.encode("quiz")
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(BundleError, match="bad.model"):
        Subwords(dictionary, tmp_path / "bad.model")


@pytest.mark.parametrize(
    "written, words",
    [
        ("Où est l’Hôtel ?", "où est lhôtel"),
        ("Ou\u0300 est l’Ho\u0302tel ?", "où est lhôtel"),  # accents as characters of their own
        ("मुझे पानी पिला।", "मुझे पानी पिला"),  # vowel signs are marks, the danda is none
        ("ขอน้ำหน่อย!", "ขอน้ำหน่อย"),
        ("Soft\u00adhyphen", "softhyphen"),
    ],
)
def test_normalising_keeps_the_letters_of_other_languages(written, words):
    assert normalise(written) == words
