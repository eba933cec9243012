"""The compiled grammar of the quickstart domain, and the written form of what it derives."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import lexicon
import notation
import numerals
import synchronous
from synchronous import WORD

PATTERNS = Path(__file__).resolve().parent / "text"
NO_PATTERNS = ("words.txt", "verbs.txt")
SET_PHRASES = ("S.hello", "S.thanks")  # for training only
SHORT = "S.short"  # single words, numbers, names: never in a row, where "cien. dos." could be one number
AN = re.compile(r"\ba (?=(?!one|uni|use|euro|Euro|U)[aeiouAEIO]|hour|honest)")  # "a" before a vowel that is heard
_BEFORE_I, _BEFORE_O = re.compile(r"h?i(?![eéaá])\w{2}"), re.compile(r"h?o\w")
BEFORE = {"y": _BEFORE_I, "e": _BEFORE_I, "o": _BEFORE_O, "u": _BEFORE_O}  # the words that conjunctions change before
LETTER_NAMES = frozenset(name.split()[-1] for name in numerals.LETTERS.values())


def read_grammar(*folders: Path) -> synchronous.Rules:
    """The compiled grammar of all patterns in the folders: nonterminal -> productions. Sentences are the nonterminals
    ``S.<topic>``."""
    patterns = notation.Patterns()
    for name, entries in lexicon.productions().items():
        patterns.rules[name] = [notation.production(f"{source} = {target}") for source, target in entries]
    for path in (path for folder in folders for path in sorted(folder.glob("*.txt"))):
        if path.name not in NO_PATTERNS:
            patterns.read(path.read_text(encoding="utf-8"))
    return patterns.finish()


@functools.lru_cache(maxsize=1)
def grammar() -> synchronous.Rules:
    """The grammar of the corpus."""
    return read_grammar(PATTERNS)


@functools.lru_cache(maxsize=1)
def word_index() -> synchronous.WordIndex:
    """Where which word can be."""
    return synchronous.WordIndex(grammar())


@functools.lru_cache(maxsize=1)
def sentence_symbols() -> tuple[str, ...]:
    """The nonterminals that are whole sentences, one per topic and kind of set phrase."""
    return tuple(name for name in grammar() if name.startswith("S."))


@functools.lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """The words of all sentences as the grammar writes them, the English ones after a "="."""
    return frozenset().union(*(word_index().words_of(symbol) for symbol in sentence_symbols()))


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(p.source[0] for kind in lexicon.NAMES for p in grammar()[kind])


def _surface(text: str) -> str:
    text = re.sub(r" ([.,:?!])", r"\1", text)
    text = re.sub(r"([¿¡]) ", r"\1", text)
    return re.sub(r"(?:^|(?<=[.?!] ))[¿¡]?\w", lambda match: match.group().upper(), text)


def change_conjunctions(words: Sequence[str], changes: dict[str, str]) -> list[str]:
    """y before an i becomes e, o before an o becomes u (or back, by ``changes``); the letters e, o, u stay."""
    changed = list(words)
    for n in range(len(words) - 1):
        new = changes.get(words[n])
        if new and BEFORE[new].match(words[n + 1]):
            spelled = n and words[n - 1] in LETTER_NAMES
            changed[n] = words[n] if spelled else new
    return changed


def spanish_surface(tokens: Sequence[str]) -> str:
    """Tokens as written Spanish: del and al, e and u, punctuation, capital letters."""
    tokens = change_conjunctions(tokens, {"y": "e", "o": "u"})
    text = " ".join(word.capitalize() if word in _names() else word for word in tokens)
    return _surface(re.sub(r"\ba el\b", "al", re.sub(r"\bde el\b", "del", text)))


def english_surface(tokens: Sequence[str]) -> str:
    """Tokens as written English: a or an ("a one way ticket"), punctuation, capital letters."""
    return _surface(AN.sub("an ", " ".join(tokens)))


def words_in(text: str) -> list[str]:
    """The words of a text in lower case, without marks."""
    return WORD.findall(text.lower())
