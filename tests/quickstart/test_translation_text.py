"""Pairs of texts that only the MT decoder learns from: none of a test, one translation each, the same every time."""

import pytest

from tests.quickstart.quickstart_text import load

domain, translation_text, understanding = (load(name) for name in ("domain", "translation_text", "understanding"))
split_of, sentences_in = load("utterances").split_of, load("corpus_text").sentences_in


@pytest.fixture(scope="module")
def menus():
    return translation_text.menus(1500)


def test_menus_are_the_same_every_time_and_none_comes_twice(menus):
    assert translation_text.menus(40) == menus[:40]
    assert len({row["source"] for row in menus}) == 1500
    assert max(len(row["source"].split()) for row in menus) > 25


def test_no_menu_is_of_dev_or_test(menus):
    plain = [row["target"][0].lower() + row["target"][1:] for row in menus]
    plain = [
        text for text in plain if text.islower() and not text.startswith("i ") and " an " not in text
    ]  # written as the grammar has it
    assert len(plain) > 500 and all(split_of(domain.words_in(text)) == "train" for text in plain)


def test_menus_are_translated_as_the_grammar_of_the_corpus_translates_them(menus):
    known = 0
    for row in (row for row in menus if len(row["source"].split()) < 10):
        for english in understanding.translations(row["source"]):
            known += 1
            assert domain.words_in(english) == domain.words_in(row["target"])
    assert known > 20


def test_the_menus_are_no_part_of_the_corpus():
    assert translation_text.MENUS not in domain.grammar()


def test_prompts_of_people_are_learnt_from_but_for_those_of_the_test(menus):
    train = {"split": "train", "source": "Hasta luego, y gracias.", "target": "Goodbye and thanks."}
    test = {"split": "test", "source": menus[3]["source"], "target": "Whatever."}
    rows = translation_text.pairs_of(200, [train, test])
    assert 0 < rows.count(train) == round(200 * translation_text.PROMPT_SHARE)
    assert menus[3]["source"] not in [row["source"] for row in rows] and menus[4]["source"] in [
        row["source"] for row in rows
    ]
    assert not any(sentences_in([row["source"]]) & sentences_in([test["source"]]) for row in rows)
