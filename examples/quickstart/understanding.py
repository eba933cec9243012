"""Recognises and translates sentences of the quickstart domain."""

from __future__ import annotations

import functools
import random
import unicodedata
from collections import Counter

import synchronous
from domain import (
    change_conjunctions,
    english_surface,
    grammar,
    sentence_symbols,
    spanish_surface,
    word_index,
    words_in,
)

MAX_SENTENCES = 4
MAX_SENTENCE_WORDS = 30  # either side


@functools.lru_cache(maxsize=1)
def _first_words() -> synchronous.FirstWords:
    return synchronous.FirstWords(grammar())


def source_words(text: str) -> list[str]:
    """Lower-case words without punctuation, del and al, e and u undone: what the parser reads."""
    parts = {"del": ["de", "el"], "al": ["a", "el"]}
    words = [part for word in words_in(unicodedata.normalize("NFC", text)) for part in parts.get(word, [word])]
    return change_conjunctions(words, {"e": "y", "u": "o"})


def translations(sentence: str) -> list[str]:
    """Every English reading of one Spanish sentence; there is never a second, which the tests check."""
    words = source_words(sentence)
    parser = synchronous.Parser(_first_words(), words)
    found: dict[str, None] = {}
    for symbol in sentence_symbols():
        for end, english in parser.parse(symbol, 0):
            if end == len(words):
                found[english_surface(english)] = None
    return list(found)


def translate(source_sentence: str) -> str | None:
    """The English translation of one to four Spanish sentences of the domain, or None if they are not of it.

    Case and punctuation do not matter: where a sentence ends is found from the words.
    """
    words = source_words(source_sentence)
    if not words or len(words) > MAX_SENTENCES * MAX_SENTENCE_WORDS:
        return None
    parser = synchronous.Parser(_first_words(), words)

    def sentences_from(start: int, most: int) -> list[str] | None:
        if start == len(words):
            return []
        for symbol in sentence_symbols() if most else ():
            for end, english in parser.parse(symbol, start):
                following = sentences_from(end, most - 1)
                if following is not None:
                    return [english_surface(english), *following]
        return None

    for most in range(1, MAX_SENTENCES + 1):  # the reading with the fewest sentences
        english = sentences_from(0, most)
        if english is not None:
            return " ".join(english)
    return None


def _folded_words(text: str) -> set[str]:
    """The words without their accents, which people leave out when they type."""
    decomposed = unicodedata.normalize("NFD", " ".join(source_words(text)))
    return set("".join(c for c in decomposed if not unicodedata.combining(c)).split())


@functools.lru_cache(maxsize=1)
def _examples() -> list[tuple[str, set[str]]]:
    sampler = synchronous.Sampler(word_index(), random.Random(1))
    drawn = dict.fromkeys(spanish_surface(sampler.draw(s)[0]) for _ in range(400) for s in sentence_symbols())
    return [(sentence, _folded_words(sentence)) for sentence in drawn]


def nearest(source_sentence: str, n: int = 3) -> list[str]:
    """``n`` example sentences of the domain that share the most words with a text, rare words counting more."""
    wanted = _folded_words(source_sentence)
    frequency = Counter(word for _, words in _examples() for word in words)

    def likeness(example: tuple[str, set[str]]) -> float:
        shared = sorted(wanted & example[1])  # sums of floats depend on their order
        return sum(frequency[word] ** -0.5 for word in shared) / (3 + len(example[1])) ** 0.5

    return [sentence for sentence, _ in sorted(_examples(), key=likeness, reverse=True)[:n]]
