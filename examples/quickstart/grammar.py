"""The text of the quickstart corpus: a synchronous Spanish-English grammar of a traveller's and a caller's day.

Every source sentence has exactly one translation, so that the task can be learnt. ``text/`` holds the words and the
sentence patterns, ``synchronous.py`` reads and draws them, ``conjugation.py`` and ``numerals.py`` inflect and count;
this file makes the utterances of the three splits, and recognises sentences of the domain.

    python examples/quickstart/grammar.py --show 40 --stats
    python examples/quickstart/grammar.py --translate "¿Dónde está la estación?"
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))  # run by path, so its siblings are top-level modules

import lexicon  # noqa: E402
import synchronous  # noqa: E402
from synchronous import WORD  # noqa: E402

PATTERNS = Path(__file__).resolve().parent / "text"
NO_PATTERNS = ("words.txt", "verbs.txt")
SET_PHRASES = ("S.hello", "S.thanks")  # for training only
SHORT = "S.short"  # single words, numbers, names: never in a row, where "cien. dos." could be one number
MAX_SENTENCE_WORDS = 30  # either side
MAX_WORDS = 40  # an utterance, either side
SPLIT_PERCENT = {"dev": 10, "test": 10}  # of the sentences of the grammar; the rest is for training
SHORT_SHARE = 0.06
SEVERAL_SENTENCES_SHARE = 0.15
SENTENCES_SHARE = (0.6, 0.3, 0.1)  # of those with two, three, four sentences
RARE_WORD_SHARE = 0.6  # utterances drawn for the sake of one of the rarest words so far
CANDIDATES = 4  # sentences with a rare word, of which the one with the rarest words is kept
TRIES = 40  # draws before another topic or word is tried

AN = re.compile(r"\ba (?=(?!one|uni|use|euro|Euro|U)[aeiouAEIO]|hour|honest)")  # "a" before a vowel that is heard

SentencePair = tuple[str, str]


class _Drawn(NamedTuple):
    """A drawn sentence: the tokens of both sides, and its words, marked by side (0 source, 1 target)."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    words: tuple[tuple[int, str], ...]

    def pair(self) -> SentencePair:
        return spanish_surface(self.source), english_surface(self.target)


@dataclass(frozen=True)
class Utterance:
    """One corpus entry: ``sentences`` are the (source, target) pairs that ``source`` and ``target`` join."""

    id: str
    source: str
    target: str
    sentences: tuple[SentencePair, ...]


@functools.lru_cache(maxsize=1)
def grammar() -> synchronous.Rules:
    """The compiled grammar: nonterminal -> productions. Sentences are the nonterminals ``S.<topic>``."""
    patterns = synchronous.Patterns()
    for name, entries in lexicon.productions().items():
        patterns.rules[name] = [synchronous.production(f"{source} = {target}") for source, target in entries]
    for path in sorted(PATTERNS.glob("*.txt")):
        if path.name not in NO_PATTERNS:
            patterns.read(path.read_text(encoding="utf-8"))
    return patterns.finish()


@functools.lru_cache(maxsize=1)
def _first_words() -> synchronous.FirstWords:
    return synchronous.FirstWords(grammar())


@functools.lru_cache(maxsize=1)
def sentence_symbols() -> tuple[str, ...]:
    """The nonterminals that are whole sentences, one per topic and kind of set phrase."""
    return tuple(name for name in grammar() if name.startswith("S."))


def sentence_count() -> int:
    """The number of sentences of the grammar (derivations, each a sentence of its own)."""
    memo: dict[str, int] = {}
    return sum(synchronous.count_derivations(grammar(), symbol, memo) for symbol in sentence_symbols())


# --- written form -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(p.source[0] for kind in lexicon.NAMES for p in grammar()[kind])


def _surface(text: str) -> str:
    text = re.sub(r" ([.,:?!])", r"\1", text)
    text = re.sub(r"([¿¡]) ", r"\1", text)
    return re.sub(r"(?:^|(?<=[.?!] ))[¿¡]?\w", lambda match: match.group().upper(), text)


def spanish_surface(tokens: Sequence[str]) -> str:
    """Tokens as written Spanish: del and al, punctuation, capital letters."""
    text = " ".join(word.capitalize() if word in _names() else word for word in tokens)
    return _surface(re.sub(r"\ba el\b", "al", re.sub(r"\bde el\b", "del", text)))


def english_surface(tokens: Sequence[str]) -> str:
    """Tokens as written English: a or an ("a one way ticket"), punctuation, capital letters."""
    return _surface(AN.sub("an ", " ".join(tokens)))


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


# --- understanding ------------------------------------------------------------------------------------------


def source_words(text: str) -> list[str]:
    """Lower-case words without punctuation, del and al undone: what the parser reads."""
    parts = {"del": ["de", "el"], "al": ["a", "el"]}
    return [part for word in _words(unicodedata.normalize("NFC", text)) for part in parts.get(word, [word])]


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
    if not words or len(words) > 4 * MAX_SENTENCE_WORDS:
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

    for most in (1, 2, 3, 4):  # the reading with the fewest sentences
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
    sampler = synchronous.Sampler(grammar(), random.Random(1))
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


# --- the corpus ---------------------------------------------------------------------------------------------


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


class _SplitSampler:
    """Draws the utterances of one split: none twice, and rare words as often as can be."""

    def __init__(self, split: str, seed: int):
        self.split = split
        self.rng = random.Random(f"{split} {seed}")
        self.sampler = synchronous.Sampler(grammar(), self.rng)
        self.topics = [symbol for symbol in sentence_symbols() if symbol not in (*SET_PHRASES, SHORT)]
        self.counts = Counter({word: 0 for word in sorted(_vocabulary())})
        self.seen: set[tuple[tuple[str, ...], ...]] = set()
        self.meaning: dict[str, str] = {}

    def _sentence(self, symbol: str, word: str | None = None) -> _Drawn | None:
        for _ in range(TRIES):
            sides = self.sampler.draw(symbol, word)
            words = [[token for token in side if token[0].isalpha()] for side in sides]
            if max(map(len, words)) > MAX_SENTENCE_WORDS or split_of(words[1]) != self.split:
                continue
            marked = tuple((side, word) for side in (0, 1) for word in words[side])
            return _Drawn(tuple(sides[0]), tuple(sides[1]), marked)
        return None

    def _rare_sentence(self) -> tuple[str, _Drawn] | None:
        """A sentence, and its topic, for the sake of one of the rarest words."""
        word = self.rng.choice(self.rarest[: max(20, len(self.rarest) // 20)])
        places = [symbol for symbol in (*self.topics, SHORT) if word in self.sampler.words_of(symbol)]
        topic = self.rng.choice(places) if places else SHORT
        sentence = self._sentence(topic, word) if places else None
        return (topic, sentence) if sentence else None

    def _rare(self) -> list[_Drawn | None]:
        """Of some sentences with rare words the rarest; in a row with another where it stood alone before."""
        found = [pair for pair in (self._rare_sentence() for _ in range(CANDIDATES)) if pair]
        if not found:
            return [None]
        topic, sentence = max(found, key=lambda pair: sum(1 / (1 + self.counts[w]) for s, w in pair[1].words if s == 0))
        if (sentence.source,) not in self.seen:
            return [sentence]
        if topic == SHORT:
            return [None]
        return self.rng.sample([sentence, self._sentence(topic)], 2)

    def _in_a_row(self) -> list[_Drawn | None]:
        topic = self.rng.choice(self.topics)
        drawn = [self._sentence(topic) for _ in range(self.rng.choices((2, 3, 4), SENTENCES_SHARE)[0])]
        if self.split == "train" and self.rng.random() < 0.3:
            drawn[0] = self._sentence("S.hello")
        if self.split == "train" and self.rng.random() < 0.2:
            drawn[-1] = self._sentence("S.thanks")
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
        lengths = Counter(side for sentence in drawn for side, _ in sentence.words)
        return max(lengths.values()) <= MAX_WORDS and len({sentence.source for sentence in drawn}) == len(drawn)

    def utterance(self, number: int) -> Utterance:
        """The next utterance."""
        if number % 50 == 1:
            self.rarest = sorted(self.counts, key=lambda word: (self.counts[word], word))
        drawn: list[_Drawn | None] = [None]
        while not self._fits(drawn):
            drawn = self._candidate()
        self.counts.update(word for sentence in drawn for side, word in sentence.words if side == 0)
        self.seen.add(tuple(sentence.source for sentence in drawn))
        pairs = tuple(sentence.pair() for sentence in drawn)
        source, target = (" ".join(pair[side] for pair in pairs) for side in (0, 1))
        return Utterance(f"{self.split}_{number:05d}", source, target, pairs)


@functools.lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    """The Spanish words of all sentences, as the grammar writes them."""
    sampler = synchronous.Sampler(grammar(), random.Random(0))
    words = frozenset().union(*(sampler.words_of(symbol) for symbol in sentence_symbols()))
    return frozenset(word for word in words if word[0].isalpha())


def build_text(train: int, dev: int, test: int, seed: int) -> dict[str, list[Utterance]]:
    """The three splits, reproducible from ``seed``; no sentence of dev or test occurs in train, on either side."""
    corpus = {}
    for split, size in {"train": train, "dev": dev, "test": test}.items():
        sampler = _SplitSampler(split, seed)
        corpus[split] = [sampler.utterance(number) for number in range(1, size + 1)]
    return corpus


def word_frequencies(utterances: list[Utterance]) -> tuple[Counter[str], Counter[str]]:
    """Occurrences of every word form: (Spanish, English)."""
    return (
        Counter(word for u in utterances for word in _words(u.source)),
        Counter(word for u in utterances for word in _words(u.target)),
    )


# --- command line -------------------------------------------------------------------------------------------


def _print_stats(corpus: dict[str, list[Utterance]]) -> None:
    print(f"the grammar has {sentence_count():,} sentences")
    for split, utterances in corpus.items():
        several = sum(len(u.sentences) > 1 for u in utterances) / max(1, len(utterances))
        print(f"{split}: {len(utterances)} utterances, {several:.1%} of them of two or three sentences")
    train = corpus["train"]
    sides = (("Spanish", "source"), ("English", "target"))
    for (language, field), counts in zip(sides, word_frequencies(train), strict=True):
        lengths = Counter(len(_words(getattr(u, field))) for u in train)
        mean = sum(n * count for n, count in lengths.items()) / len(train)
        print(f"{language}: {len(counts)} word forms, {mean:.1f} words an utterance")
        print("  utterances of each length:", " ".join(f"{n}:{lengths[n]}" for n in sorted(lengths)))
        rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))[:30]
        print("  rarest words:", ", ".join(f"{word} {count}" for word, count in rarest))


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=40, metavar="N", help="print N training pairs (default 40)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpus (default 1)")
    parser.add_argument("--stats", action="store_true", help="vocabulary, lengths, rarest words of 6500/300/300")
    parser.add_argument("--translate", metavar="TEXT", help="translate one to four sentences, or show near ones")
    args = parser.parse_args(argv)
    if args.translate is not None:
        english = translate(args.translate)
        print(english if english is not None else "Not of the domain. Near: " + " ".join(nearest(args.translate)))
        return
    corpus = build_text(*((6500, 300, 300) if args.stats else (args.show, 0, 0)), args.seed)
    for utterance in random.Random(args.seed).sample(corpus["train"], min(args.show, len(corpus["train"]))):
        print(f"{utterance.source}\n    {utterance.target}")
    if args.stats:
        _print_stats(corpus)


if __name__ == "__main__":
    main()
