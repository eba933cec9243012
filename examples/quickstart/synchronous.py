"""Synchronous grammars: read the pattern notation of ``sentences.txt``, sample pairs, parse the source side.

A production rewrites a nonterminal on both sides at once, so a derivation is a sentence and its translation. Agreement
is compiled away when the text is read: a line over gender, number and person becomes one production for each.
"""

from __future__ import annotations

import bisect
import itertools
import random
import re
from dataclasses import dataclass

GENDER_NUMBER = ("ms", "fs", "mp", "fp")
PERSONS = ("1s", "1p", "3s", "3p")

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
TOKEN = re.compile(rf"<[^>]+>|{WORD.pattern}|[¿¡.,?!]")

Pair = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Production:
    """Both sides as tokens; ``<label>`` stands for a child. ``children``: (label, nonterminal), for both sides."""

    weight: float
    source: tuple[str, ...]
    target: tuple[str, ...]
    children: tuple[tuple[str, str], ...]


Rules = dict[str, list[Production]]


def _pick(text: str, brackets: str, index: int) -> str | None:
    """Resolve every ``{a|b|c|d}`` (or ``[..]``) to the choice of one feature value; None if that choice is "-"."""
    opening, closing = (re.escape(b) for b in brackets)
    missing = False

    def choose(match: re.Match) -> str:
        nonlocal missing
        options = match.group(1).split("|")
        if len(options) == 4:
            choice = options[index]
        elif len(options) == 2 and brackets == "{}":
            choice = options[index >= 2]  # singular | plural
        elif len(options) == 2:
            choice = options[PERSONS[index] == "3s"]  # other persons | third person singular
        else:
            raise ValueError(f"sentences.txt: {match.group(0)!r} in {text!r}: give 2 or 4 choices")
        missing = missing or choice == "-"
        return choice

    resolved = re.sub(f"{opening}([^{closing}]*){closing}", choose, text)
    return None if missing else resolved


def _readings(text: str):
    """All readings of one line over its features: gender and number ($, {}) and person (@, [])."""
    gender_numbers = range(4) if "$" in text or "{" in text else (None,)
    persons = range(4) if "@" in text or "[" in text else (None,)
    for gender_number, person in itertools.product(gender_numbers, persons):
        reading: str | None = text
        if gender_number is not None:
            reading = _pick(reading.replace("$", GENDER_NUMBER[gender_number]), "{}", gender_number)
        if reading is not None and person is not None:
            reading = _pick(reading.replace("@", PERSONS[person]), "[]", person)
        if reading is not None:
            yield reading


def production(text: str, weight: float = 1.0) -> Production:
    """One production from ``source = target``; the sides must have the same nonterminals."""
    source, _, target = text.partition("=")
    sides = [tuple(TOKEN.findall(side)) for side in (source, target)]
    labels = [sorted(token[1:-1] for token in side if token[0] == "<") for side in sides]
    if labels[0] != labels[1] or len(set(labels[0])) < len(labels[0]):
        raise ValueError(f"sentences.txt: {text!r}: each nonterminal must stand once on each side, as <x:1> <x:2>")
    return Production(weight, sides[0], sides[1], tuple((label, label.split(":")[0]) for label in labels[0]))


def read_patterns(text: str, rules: Rules) -> None:
    """Add the productions of the pattern notation (described at the head of ``sentences.txt``) to ``rules``."""
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip().rstrip(":")
            continue
        match = re.match(r"\s*(?:(\d+)\*\s)?(.*)", line)
        readings = list(dict.fromkeys(_readings(f"{name} ::: {match.group(2)}")))
        for reading in readings:
            head, _, body = reading.partition(" ::: ")
            share = float(match.group(1) or 1) / len(readings)
            rules.setdefault(head, []).append(production(body, share))


def prune(rules: Rules) -> Rules:
    """Drop productions that use a feature combination without words, until none does; a misspelt name is an error."""
    families = {name.split(".")[0] for name in rules}
    for item in itertools.chain.from_iterable(rules.values()):
        for _, child in item.children:
            if child.split(".")[0] not in families:
                raise ValueError(f"sentences.txt: unknown nonterminal <{child}>")
    while True:
        kept = {name: [p for p in ps if all(c in rules for _, c in p.children)] for name, ps in rules.items()}
        kept = {name: ps for name, ps in kept.items() if ps}
        if kept == rules:
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


class Sampler:
    """Draws derivations by weight; siblings never end in the same word (no "the bank is next to the bank")."""

    def __init__(self, rules: Rules, rng: random.Random):
        self.rules = rules
        self.rng = rng
        self.cumulative = {n: list(itertools.accumulate(p.weight for p in ps)) for n, ps in rules.items()}

    def draw(self, name: str) -> Pair:
        """One (source tokens, target tokens)."""
        while True:
            weights = self.cumulative[name]
            item = self.rules[name][bisect.bisect(weights, self.rng.random() * weights[-1])]
            if not item.children:
                return list(item.source), list(item.target)
            parts = {f"<{label}>": self.draw(child) for label, child in item.children}
            last = [pair[0][-1] for pair in parts.values() if pair[0]]
            if len(set(last)) < len(last):
                continue
            sides: Pair = ([], [])
            for side, tokens in enumerate((item.source, item.target)):
                for token in tokens:
                    sides[side].extend(parts[token][side] if token[0] == "<" else (token,))
            return sides


class Parser:
    """Memoised top-down recognition of one word sequence; the grammar must have no left recursion."""

    def __init__(self, rules: Rules, words: list[str]):
        self.rules = rules
        self.words = words
        self.memo: dict[tuple[str, int], list[tuple[int, tuple[str, ...]]]] = {}

    def parse(self, name: str, start: int) -> list[tuple[int, tuple[str, ...]]]:
        """All (end, target tokens) of nonterminal ``name`` from word ``start`` on, in the order of the grammar."""
        key = (name, start)
        if key not in self.memo:
            found: dict[tuple[int, tuple[str, ...]], None] = {}
            for item in self.rules[name]:
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
