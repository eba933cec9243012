"""The words of the quickstart domain, read from ``text/words.txt``, as grammar productions.

``productions()``: nonterminal -> list of (Spanish, English). Agreement is in the name of the nonterminal:
``.ms .fs .mp .fp`` for gender and number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numerals
from conjugation import GENDER_NUMBER, agree, english_plural, plural

WORDS = Path(__file__).resolve().parent / "text" / "words.txt"
NAMES = ("man", "woman", "surname", "city", "country")  # written with a capital letter in Spanish


def _noun(tag: str, spanish: str, english: str) -> Iterator[tuple[str, str, str]]:
    """``m``, ``f``: singular; ``m+``, ``f+``: plural too, regular or after a slash; ``mp``, ``fp``: plural only."""
    gender = tag[0]
    if tag.endswith("p"):
        yield gender + "p", spanish, english
        return
    (one, *more), (english_one, *english_more) = spanish.split("/"), english.split("/")
    yield gender + "s", one, english_one
    if tag.endswith("+"):
        yield gender + "p", *(more or [plural(one)]), *(english_more or [english_plural(english_one)])


@functools.lru_cache(maxsize=1)
def entries() -> list[tuple[str, str, str, str]]:
    """(class, features or "", Spanish, English) of every word form, in the order of the table."""
    found: list[tuple[str, str, str, str]] = []
    name = ""
    for line in WORDS.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].rstrip()
        if line and not line.startswith(" "):
            name = line.rstrip(":")
            continue
        is_name = name in NAMES
        for entry in filter(None, (part.strip() for part in line.split(";"))):
            spanish, _, english = (side.strip() for side in entry.partition("="))
            tag, _, word = spanish.partition(" ")
            english = numerals.without_accents(english) if is_name else english
            if tag in ("m", "f", "m+", "f+", "mp", "fp"):
                found += [(name, *form) for form in _noun(tag, word, english)]
            elif tag == "adj":
                forms = [(features, agree(word, features)) for features in GENDER_NUMBER]
                found += [(name, features, form, english) for features, form in forms if form]
            else:
                found.append((name, "", spanish, english))
    return found


def productions() -> dict[str, list[tuple[str, str]]]:
    """All lexical productions, with numbers, times, dates and the spelling of the names."""
    rules = numerals.productions()
    for name, features, spanish, english in entries():
        rules.setdefault(f"{name}.{features}" if features else name, []).append((spanish, english))
        if name in ("city", "country", "spell_word"):
            letter = numerals.spelling(spanish[0])
            rules.setdefault("as_in", []).append((f"{letter[0]} de {spanish}", f"{letter[1]} as in {english}"))
        if name in ("man", "woman", "surname"):
            letters = numerals.spelling(spanish)
            pair = (f"{spanish} se escribe {letters[0]}", f"{english} is spelled {letters[1]}")
            rules.setdefault("spelled", []).append(pair)
            rules.setdefault("letters_of_name", []).append(letters)
            if name == "surname":
                pair = (f"{spanish} : {letters[0]}", f"{english} , {letters[1]}")
                rules.setdefault("spelled_surname", []).append(pair)
    return rules
