"""Draws the utterances of the quickstart corpus: balanced, none twice, no held-out sentence in training."""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import synchronous
from domain import (
    SET_PHRASES,
    SHORT,
    english_surface,
    grammar,
    sentence_symbols,
    spanish_surface,
    vocabulary,
    word_index,
)
from understanding import MAX_SENTENCE_WORDS

MAX_WORDS = 40  # an utterance, either side
SPLIT_PERCENT = {"dev": 10, "test": 10}  # of the sentences of the grammar; the rest is for training
SHORT_SHARE = 0.06
SEVERAL_SENTENCES_SHARE = 0.15
SENTENCES_SHARE = (0.6, 0.3, 0.1)  # of those with two, three, four sentences
GREETING_SHARE = 0.2  # of several sentences: a greeting before, or thanks after them
RARE_WORD_SHARE = 0.7  # utterances drawn for the sake of one of the rarest words so far
CANDIDATES = 4  # sentences with a rare word, of which the one with the rarest words is kept
KNOWN_SHARE = 0.9  # of the words in train, from which on dev and test keep to them
TRIES = 40  # draws before another topic or word is tried

SentencePair = tuple[str, str]


class _Drawn(NamedTuple):
    """A drawn sentence: the tokens of both sides, and its words, those of the target marked by "="."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    words: tuple[str, ...]

    def pair(self) -> SentencePair:
        return spanish_surface(self.source), english_surface(self.target)


@dataclass(frozen=True)
class Utterance:
    """One corpus entry: ``sentences`` are the (source, target) pairs that ``source`` and ``target`` join."""

    id: str
    source: str
    target: str
    sentences: tuple[SentencePair, ...]


def split_of(target: list[str]) -> str:
    """The one split a sentence belongs to, for ever, from its English words as the grammar has them.

    Two Spanish sentences with one translation share a split, so that neither side of a
    held-out sentence is seen in training.
    """
    if tuple(target) in _fixed():
        return "train"
    bucket = int.from_bytes(hashlib.sha256(" ".join(target).encode()).digest()[:8], "big") % 100
    for split, percent in SPLIT_PERCENT.items():
        if bucket < percent:
            return split
        bucket -= percent
    return "train"


@functools.lru_cache(maxsize=1)
def _fixed() -> frozenset[tuple[str, ...]]:
    """The translations of sentences without a choice: they serve training only, they are not compositions."""
    items = (item for symbol in sentence_symbols() for item in grammar()[symbol] if not item.children)
    return frozenset(tuple(token for token in item.target if token[0].isalpha()) for item in items)


class SplitSampler:
    """Draws the utterances of one split: none twice, and rare words as often as can be."""

    def __init__(self, split: str, seed: int, known: frozenset[str] = frozenset()):
        self.split = split
        self.known = known  # if not empty, the only words allowed
        self.rng = random.Random(f"{split} {seed}")
        self.counts = Counter({word: 0 for word in sorted(vocabulary())})
        self.sampler = synchronous.Sampler(word_index(), self.rng, self.counts)
        self.topics = [symbol for symbol in sentence_symbols() if symbol not in (*SET_PHRASES, SHORT)]
        self.places = functools.lru_cache(maxsize=None)(self._places)
        self.seen: set[tuple[tuple[str, ...], ...]] = set()

    def _sentence(self, symbol: str, word: str | None = None) -> _Drawn | None:
        for _ in range(TRIES):
            sides = self.sampler.draw(symbol, word)
            words = [[token for token in side if token[0].isalpha()] for side in sides]
            if max(map(len, words)) > MAX_SENTENCE_WORDS or split_of(words[1]) != self.split:
                continue
            drawn = _Drawn(tuple(sides[0]), tuple(sides[1]), (*words[0], *("=" + word for word in words[1])))
            if not self.known or self.known.issuperset(drawn.words):
                return drawn
        return None

    def _places(self, word: str) -> list[str]:
        """The topics that can use a word."""
        return [symbol for symbol in (*self.topics, SHORT) if word in word_index().words_of(symbol)]

    def _rare_sentence(self) -> tuple[str, _Drawn] | None:
        """A sentence, and its topic, for the sake of one of the rarest words."""
        word = self.rng.choice(self.rarest[: max(20, len(self.rarest) // 20)])
        places = self.places(word)
        topic = self.rng.choice(places) if places else SHORT
        sentence = self._sentence(topic, word) if places else None
        return (topic, sentence) if sentence else None

    def _rare(self) -> list[_Drawn | None]:
        """Of some sentences with rare words the rarest; in a row with another where it stood alone before."""
        found = [pair for pair in (self._rare_sentence() for _ in range(CANDIDATES)) if pair]
        found = [pair for pair in found if (pair[1].source,) not in self.seen] or found
        if not found:
            return [None]
        topic, sentence = max(found, key=lambda pair: sum(1 / (1 + self.counts[word]) for word in pair[1].words))
        if (sentence.source,) not in self.seen:
            return [sentence]
        if topic == SHORT:
            return [None]
        return self.rng.sample([sentence, self._sentence(topic)], 2)

    def _in_a_row(self) -> list[_Drawn | None]:
        """Two to four sentences of one topic, the first with a rare word; in training with greeting or thanks."""
        topic, first = self._rare_sentence() or (SHORT, None)
        if topic == SHORT:
            return [None]
        count = self.rng.choices((2, 3, 4), SENTENCES_SHARE)[0]
        drawn = [first, *(self._sentence(topic) for _ in range(count - 1))]
        self.rng.shuffle(drawn)
        if self.split == "train" and count < 4 and self.rng.random() < GREETING_SHARE:
            drawn.insert(0, self._sentence("S.hello"))
        elif self.split == "train" and count < 4 and self.rng.random() < GREETING_SHARE:
            drawn.append(self._sentence("S.thanks"))
        return drawn

    def _candidate(self) -> list[_Drawn | None]:
        """The sentences of one possible utterance."""
        draw = self.rng.random()
        if draw < SEVERAL_SENTENCES_SHARE:
            return self._in_a_row()
        if draw < SEVERAL_SENTENCES_SHARE + RARE_WORD_SHARE:
            return self._rare()
        if draw > 1 - SHORT_SHARE:
            phrase = self.split == "train" and self.rng.random() < 0.15
            return [self._sentence(self.rng.choice(SET_PHRASES) if phrase else SHORT)]
        return [self._sentence(self.rng.choice(self.topics))]

    def _fits(self, drawn: list[_Drawn | None]) -> bool:
        if None in drawn or tuple(sentence.source for sentence in drawn) in self.seen:
            return False
        lengths = Counter(word[0] == "=" for sentence in drawn for word in sentence.words)
        return max(lengths.values()) <= MAX_WORDS and len({sentence.source for sentence in drawn}) == len(drawn)

    def utterance(self, number: int) -> Utterance:
        """The next utterance."""
        if number % 50 == 1:
            self.rarest = sorted(self.counts, key=lambda word: (self.counts[word], word))
        drawn: list[_Drawn | None] = [None]
        while not self._fits(drawn):
            drawn = self._candidate()
        self.counts.update(word for sentence in drawn for word in sentence.words)
        self.seen.add(tuple(sentence.source for sentence in drawn))
        pairs = tuple(sentence.pair() for sentence in drawn)
        source, target = (" ".join(pair[side] for pair in pairs) for side in (0, 1))
        return Utterance(f"{self.split}_{number:05d}", source, target, pairs)


def build_text(train: int, dev: int, test: int, seed: int) -> dict[str, list[Utterance]]:
    """The three splits, reproducible from ``seed``; no sentence of dev or test occurs in train, on either side.

    Where train holds nearly all words of the grammar, dev and test have no others than train.
    """
    corpus = {}
    known: frozenset[str] = frozenset()
    for split, size in {"train": train, "dev": dev, "test": test}.items():
        sampler = SplitSampler(split, seed, known)
        corpus[split] = [sampler.utterance(number) for number in range(1, size + 1)]
        if split == "train":
            seen = frozenset(word for word, count in sampler.counts.items() if count)
            known = seen if len(seen) > KNOWN_SHARE * len(vocabulary()) else known
    return corpus
