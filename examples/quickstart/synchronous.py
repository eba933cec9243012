"""Synchronous grammars: a production rewrites a nonterminal on both sides at once, so a derivation is a sentence and
its translation. ``Sampler`` draws derivations, ``Parser`` finds those of a given source side.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import random
import re
from collections import Counter
from dataclasses import dataclass

WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
CHOICES = 3  # draws for a nonterminal, of which the one with the rarest word is taken
TRIES = 30  # draws of siblings before a production is given up

Pair = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Production:
    """Both sides as tokens; ``<label>`` stands for a child. ``children``: (label, nonterminal), for both sides."""

    weight: float
    source: tuple[str, ...]
    target: tuple[str, ...]
    children: tuple[tuple[str, str], ...]
    words: tuple[str, ...]  # its own, those of the target side after a "="


Rules = dict[str, list[Production]]


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


class WordIndex:
    """Which words a nonterminal's derivations can hold; those of the target side begin with "="."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self.inside: dict[int, frozenset[str]] = {}
        self.holding: dict[tuple[str, str | None], tuple[list[Production], list[float]]] = {}
        self.words_of = functools.lru_cache(maxsize=None)(self._words_of)

    def _words_of(self, name: str) -> frozenset[str]:
        return frozenset().union(*(self._words_in(item) for item in self.rules[name]))

    def _words_in(self, item: Production) -> frozenset[str]:
        if id(item) not in self.inside:
            self.inside[id(item)] = frozenset(item.words).union(*(self.words_of(child) for _, child in item.children))
        return self.inside[id(item)]

    def productions(self, name: str, word: str | None) -> tuple[list[Production], list[float]]:
        """The productions of ``name`` that can hold ``word`` (None: all), and their cumulated weights."""
        if (name, word) not in self.holding:
            items = [item for item in self.rules[name] if word is None or word in self._words_in(item)]
            self.holding[name, word] = items, list(itertools.accumulate(item.weight for item in items))
        return self.holding[name, word]


class Sampler:
    """Draws derivations by weight, rare words first, or such as hold a given word.

    ``counts`` are the occurrences of words so far: of a few draws for a nonterminal the one with the rarest word is
    taken. Numbered siblings never end in the same word (no "the bank is next to the bank").
    """

    def __init__(self, index: WordIndex, rng: random.Random, counts: Counter[str] | None = None):
        self.index = index
        self.rng = rng
        self.counts = counts

    def draw(self, name: str, word: str | None = None) -> Pair:
        """One (source tokens, target tokens); with ``word`` somewhere in it, if one is given."""
        while True:
            item = self._choose(*self.index.productions(name, word))
            for _ in range(TRIES):
                parts = self._parts(item, word)
                last = [pair[0][-1] for label, pair in parts.items() if pair[0] and ":" in label]
                if len(set(last)) == len(last):
                    return self._join(item, parts)

    def _choose(self, items: list[Production], weights: list[float]) -> Production:
        draws = 1 if self.counts is None or len(items) == 1 else CHOICES
        drawn = [items[bisect.bisect(weights, self.rng.random() * weights[-1])] for _ in range(draws)]
        if draws == 1 or not all(item.words for item in drawn):
            return drawn[0]
        return min(drawn, key=lambda item: min(self.counts[word] for word in item.words))

    def _parts(self, item: Production, word: str | None) -> dict[str, Pair]:
        chosen = None
        if word is not None and word not in item.words:
            chosen = self.rng.choice([label for label, child in item.children if word in self.index.words_of(child)])
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
