"""Synchronous grammars: read the notation of ``text/*.txt``, sample pairs, parse the source side.

A production rewrites a nonterminal on both sides at once, so a derivation is a sentence and its translation. Agreement
is compiled away when the text is read: a line over gender, number and person becomes one production for each.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import random
import re
from dataclasses import dataclass

from conjugation import GENDER_NUMBER, PERSONS, agree, english, english_number, slot_person, spanish

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
TOKEN = re.compile(rf"<[^>]+>|{WORD.pattern}|[¿¡.,:?!]")
LEMMA = re.compile(r"([^\W\d_]+)/([a-z$%]+)")
TRIES = 30  # draws of siblings before a production is given up

Pair = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Production:
    """Both sides as tokens; ``<label>`` stands for a child. ``children``: (label, nonterminal), for both sides."""

    weight: float
    source: tuple[str, ...]
    target: tuple[str, ...]
    children: tuple[tuple[str, str], ...]


Rules = dict[str, list[Production]]


# --- reading ------------------------------------------------------------------------------------------------


def production(text: str, weight: float = 1.0) -> Production:
    """One production from ``source = target``; the sides must have the same nonterminals."""
    source, _, target = text.partition("=")
    sides = [tuple(TOKEN.findall(side)) for side in (source, target)]
    labels = [sorted(token[1:-1] for token in side if token[0] == "<") for side in sides]
    if labels[0] != labels[1] or len(set(labels[0])) < len(labels[0]):
        raise ValueError(f"sentences: {text!r}: each nonterminal must stand once on each side, as <x:1> <x:2>")
    return Production(weight, sides[0], sides[1], tuple((label, label.split(":")[0]) for label in labels[0]))


def _choose(text: str, features: str) -> str | None:
    """Resolve every ``{a|b|c|d}`` by gender and number, ``{a|b}`` by number; None if that choice is "-"."""
    index = GENDER_NUMBER.index(features)
    missing = False

    def choose(match: re.Match) -> str:
        nonlocal missing
        options = match.group(1).split("|")
        if len(options) not in (2, 4):
            raise ValueError(f"sentences: {match.group(0)!r} in {text!r}: give 2 or 4 choices")
        choice = options[index if len(options) == 4 else index >= 2]
        missing = missing or choice == "-"
        return choice

    resolved = re.sub(r"{([^}]*)}", choose, text)
    return None if missing else resolved


def _inflect(side: str, is_english: bool, features: str | None, person: str | None, gender: str | None) -> str | None:
    """Resolve every ``lemma/form`` of one side; None if a form does not exist."""
    missing = False

    def form(match: re.Match) -> str:
        nonlocal missing
        lemma, name = match.groups()
        if name in "$%":
            agreement = features if name == "$" else gender
            word = (english_number if is_english else agree)(lemma, agreement)
        else:
            who = slot_person(features) if name.endswith("$") else person
            word = (english if is_english else spanish)(lemma, name.rstrip("$"), who)
        missing = missing or word is None
        return word or ""

    resolved = LEMMA.sub(form, side)
    return None if missing else resolved


def _people(text: str) -> list[tuple[str | None, str | None]]:
    """The (person, gender and number) pairs that a line runs over; ``(1s 3m)`` at its head limits them."""
    if not re.search(r"@|%|/[a-z]+(?![a-z$])", text):
        return [(None, None)]
    limit = re.match(r"\(([\w ]+)\)", text)
    persons = limit.group(1).split() if limit else PERSONS
    if "%" not in text:
        return [(person, None) for person in persons]
    genders = {"m": "m", "f": "f"}
    return [(p, g + p[1].replace("m", "s").replace("f", "s").replace("u", "s"))
            for p in persons for g in genders.get(p[1], "mf")]  # fmt: skip


def readings(text: str):
    """All readings of ``head ::: source = target`` over its features: gender and number ($), person (@, %)."""
    head, _, body = text.partition(" ::: ")
    source, _, target = body.partition("=")  # Spanish may be written with del and al
    body = re.sub(r"\b(de|a)l\b", r"\1 el", source) + "=" + target
    for (person, gender), features in itertools.product(_people(body), GENDER_NUMBER if "$" in text else (None,)):
        reading: str | None = re.sub(r"^\([\w ]+\) ", "", body)
        if features is not None:
            reading = _choose(re.sub(r"(?<=\.)\$", features, reading), features)
        if reading is None:
            continue
        source, _, target = reading.partition("=")
        sides = [_inflect(s, e, features, person, gender) for s, e in ((source, False), (target, True))]
        if None in sides:
            continue
        name = head.replace("@", person or "@").replace("%", gender or "%").replace("$", features or "$")
        yield name, "=".join(sides).replace("@", person or "@").replace(".%", f".{gender}")


class Patterns:
    """The patterns of some files: plain nonterminals at once, verb phrases when a pattern asks for a form of them."""

    def __init__(self) -> None:
        self.rules: Rules = {}
        self.phrases: dict[str, list[tuple[float, str, str]]] = {}

    def read(self, text: str) -> None:
        """Add the productions of the notation described in ``text/notation.md``."""
        name, is_phrase = "", False
        for line in text.splitlines():
            line = line.partition("#")[0].rstrip()
            if not line:
                continue
            if not line.startswith(" "):
                is_phrase = line.startswith("vp ")
                name = line.removeprefix("vp ").rstrip(":")
                continue
            match = re.match(r"\s*(?:(\d+)\*\s)?(.*)", line)
            weight = float(match.group(1) or 1)
            if is_phrase:
                source, _, target = match.group(2).partition(" = ")
                for family in name.split():
                    self.phrases.setdefault(family, []).append((weight, source, target))
            else:
                self._add(f"{name} ::: {match.group(2)}", weight)

    def _add(self, text: str, weight: float) -> None:
        found = list(dict.fromkeys(readings(text)))
        for name, reading in found:
            self.rules.setdefault(name, []).append(production(reading, weight / len(found)))

    def _phrase(self, name: str) -> None:
        """``<class.spanish form.english form.person>``: the verb phrases of a class in these forms."""
        family, source_form, target_form, person = name.split(".")
        for weight, source, target in self.phrases[family]:
            first, _, after = source.partition(" ")
            verb, _, rest = target.partition(" ")
            self._add(f"{name} ::: ({person}) {first}/{source_form} {after} = {verb}/{target_form} {rest}", weight)

    def finish(self) -> Rules:
        """All rules, with the verb phrases that they use; what has no words is dropped, a misspelt name an error."""
        waiting = list(self.rules)
        while waiting:
            for item in self.rules[waiting.pop()]:
                for _, child in item.children:
                    if child not in self.rules and child.split(".")[0] in self.phrases:
                        self._phrase(child)
                        waiting.append(child)
        return prune(self.rules)


def prune(rules: Rules) -> Rules:
    """Drop productions that use a feature combination without words, until none does; a misspelt name is an error."""
    families = {name.split(".")[0] for name in rules}
    for item in itertools.chain.from_iterable(rules.values()):
        for _, child in item.children:
            if child.split(".")[0] not in families:
                raise ValueError(f"sentences: unknown nonterminal <{child}>")
    while True:
        kept = {name: [p for p in ps if all(c in rules for _, c in p.children)] for name, ps in rules.items()}
        kept = {name: ps for name, ps in kept.items() if ps}
        if sum(map(len, kept.values())) == sum(map(len, rules.values())):
            return kept
        rules = kept


def count_derivations(rules: Rules, name: str, memo: dict[str, int] | None = None) -> int:
    """How many derivations a nonterminal has."""
    memo = {} if memo is None else memo
    if name not in memo:
        total = 0
        for item in rules[name]:
            product = 1
            for _, child in item.children:
                product *= count_derivations(rules, child, memo)
            total += product
        memo[name] = total
    return memo[name]


# --- drawing ------------------------------------------------------------------------------------------------


class Sampler:
    """Draws derivations by weight, or such as hold a given source word.

    Numbered siblings never end in the same word (no "the bank is next to the bank").
    """

    def __init__(self, rules: Rules, rng: random.Random):
        self.rules = rules
        self.rng = rng
        self.cumulative = {n: list(itertools.accumulate(p.weight for p in ps)) for n, ps in rules.items()}
        self.holding: dict[tuple[str, str], tuple[list[Production], list[float]]] = {}
        self.words_of = functools.lru_cache(maxsize=None)(self._words_of)

    def _words_of(self, name: str) -> frozenset[str]:
        """The source words that derivations of ``name`` can hold."""
        return frozenset().union(*(self._words_in(item) for item in self.rules[name]))

    def _words_in(self, item: Production) -> set[str]:
        own = {token for token in item.source if token[0] != "<"}
        return own.union(*(self.words_of(child) for _, child in item.children))

    def _with(self, name: str, word: str) -> tuple[list[Production], list[float]]:
        """The productions of ``name`` that can hold ``word``, and their cumulated weights."""
        if (name, word) not in self.holding:
            items = [item for item in self.rules[name] if word in self._words_in(item)]
            self.holding[name, word] = items, list(itertools.accumulate(item.weight for item in items))
        return self.holding[name, word]

    def draw(self, name: str, word: str | None = None) -> Pair:
        """One (source tokens, target tokens); with ``word`` somewhere in the source, if one is given."""
        while True:
            items, weights = (self.rules[name], self.cumulative[name]) if word is None else self._with(name, word)
            item = items[bisect.bisect(weights, self.rng.random() * weights[-1])]
            for _ in range(TRIES):
                parts = self._parts(item, word)
                last = [pair[0][-1] for label, pair in parts.items() if pair[0] and ":" in label]
                if len(set(last)) == len(last):
                    return self._join(item, parts)

    def _parts(self, item: Production, word: str | None) -> dict[str, Pair]:
        chosen = None
        if word is not None and word not in item.source:
            chosen = self.rng.choice([label for label, child in item.children if word in self.words_of(child)])
        return {f"<{label}>": self.draw(child, word if label == chosen else None) for label, child in item.children}

    @staticmethod
    def _join(item: Production, parts: dict[str, Pair]) -> Pair:
        sides: Pair = ([], [])
        for side, tokens in enumerate((item.source, item.target)):
            for token in tokens:
                sides[side].extend(parts[token][side] if token[0] == "<" else (token,))
        return sides


# --- understanding ------------------------------------------------------------------------------------------


class FirstWords:
    """For each nonterminal the productions that can begin with a word, so that the parser tries few."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.first = functools.lru_cache(maxsize=None)(self._first)
        self.tables: dict[str, tuple[dict[str, list[Production]], list[Production]]] = {}

    def _first(self, name: str) -> tuple[frozenset[str], bool]:
        """The words that ``name`` can begin with, and whether it can be empty."""
        found = [self._begin(item) for item in self.rules[name]]
        return frozenset().union(*(words for words, _ in found)), any(empty for _, empty in found)

    def _begin(self, item: Production) -> tuple[set[str], bool]:
        words: set[str] = set()
        for token in item.source:
            if token[0] == "<":
                child, empty = self.first(token[1:-1].split(":")[0])
                words |= child
                if not empty:
                    return words, False
            elif WORD.fullmatch(token):
                return words | {token}, False
        return words, True

    def candidates(self, name: str, word: str | None) -> list[Production]:
        """The productions of ``name`` for a text that goes on with ``word`` (None: its end)."""
        if name not in self.tables:
            by_word: dict[str, list[Production]] = {}
            empties = []
            for item in self.rules[name]:
                words, empty = self._begin(item)
                if empty:
                    empties.append(item)
                for first in words:
                    by_word.setdefault(first, []).append(item)
            self.tables[name] = by_word, empties
        by_word, empties = self.tables[name]
        found = by_word.get(word, [])
        return found + [item for item in empties if item not in found]


class Parser:
    """Memoised top-down recognition of one word sequence; the grammar must have no left recursion."""

    def __init__(self, first: FirstWords, words: list[str]):
        self.first = first
        self.words = words
        self.memo: dict[tuple[str, int], list[tuple[int, tuple[str, ...]]]] = {}

    def parse(self, name: str, start: int) -> list[tuple[int, tuple[str, ...]]]:
        """All (end, target tokens) of nonterminal ``name`` from word ``start`` on, in the order of the grammar."""
        key = (name, start)
        if key not in self.memo:
            found: dict[tuple[int, tuple[str, ...]], None] = {}
            word = self.words[start] if start < len(self.words) else None
            for item in self.first.candidates(name, word):
                for end, parts in self._match(item.source, 0, start):
                    target = itertools.chain.from_iterable(parts.get(token, (token,)) for token in item.target)
                    found[end, tuple(target)] = None
            self.memo[key] = list(found)
        return self.memo[key]

    def _match(self, tokens: tuple[str, ...], index: int, start: int):
        while index < len(tokens) and tokens[index][0] != "<":
            if WORD.fullmatch(tokens[index]):  # punctuation is not heard
                if start >= len(self.words) or self.words[start] != tokens[index]:
                    return
                start += 1
            index += 1
        if index == len(tokens):
            yield start, {}
            return
        for middle, target in self.parse(tokens[index][1:-1].split(":")[0], start):
            for end, parts in self._match(tokens, index + 1, middle):
                yield end, {tokens[index]: target, **parts}
