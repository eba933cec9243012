"""The text of the quickstart corpus: a synchronous Spanish-English grammar of a traveller's day.

Every source sentence has exactly one translation, so that the task can be learnt; the vocabulary is a few hundred
words, the sentences are hundreds of thousands. ``sentences.txt`` holds the sentence patterns, ``lexicon.py`` the
words; this file expands them, samples utterances for the three splits, and recognises sentences of the domain.

    python examples/quickstart/grammar.py --show 40 --stats
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import random
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # run by path, so its siblings are top-level modules

import lexicon  # noqa: E402

GENDER_NUMBER = lexicon.GENDER_NUMBER
PERSONS = ("1s", "1p", "3s", "3p")
PATTERNS = Path(__file__).resolve().parent / "sentences.txt"
SET_PHRASES = ("S.hello", "S.thanks")
MAX_WORDS = 25
MIN_HELD_OUT_WORDS = 3  # shorter sentences serve training only: they are set phrases, not compositions
SPLIT_PERCENT = {"dev": 10, "test": 10}  # of the sentences of the grammar; the rest is for training
MULTI_SENTENCE_SHARE = 0.12
DRAWS = 6  # candidates per utterance, of which the one with the rarest word is kept

TOKEN = re.compile(r"<[^>]+>|[^\W\d_]+(?:'[^\W\d_]+)?|[¿¡.,?!]")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


@dataclass(frozen=True)
class Utterance:
    """One corpus entry: ``sentences`` are the (source, target) pairs that ``source`` and ``target`` join."""

    id: str
    source: str
    target: str
    sentences: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Production:
    """One synchronous production: both sides as tokens, where ``<label>`` is a nonterminal.

    ``children``: label -> nonterminal. The labels of the two sides are the same.
    """

    weight: float
    source: tuple[str, ...]
    target: tuple[str, ...]
    children: dict[str, str]


# --- reading the grammar text -------------------------------------------------------------------------------------


def _pick(text: str, brackets: str, index: int) -> str | None:
    """Resolve every ``{a|b|c|d}`` (or ``[..]``) to the alternative of one feature value; None if that one is "-"."""
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
            raise ValueError(f"sentences.txt: {match.group(0)!r} in {text!r}: give 2 or 4 alternatives")
        missing = missing or choice == "-"
        return choice

    resolved = re.sub(f"{opening}([^{closing}]*){closing}", choose, text)
    return None if missing else resolved


def _expansions(text: str):
    """All readings of one grammar line over its axes: gender and number ($, {}) and person (@, [])."""
    axes = [
        range(4) if "$" in text or "{" in text else (None,),
        range(4) if "@" in text or "[" in text else (None,),
    ]
    for gender_number, person in itertools.product(*axes):
        reading: str | None = text
        if gender_number is not None:
            reading = _pick(reading.replace("$", GENDER_NUMBER[gender_number]), "{}", gender_number)
        if reading is not None and person is not None:
            reading = _pick(reading.replace("@", PERSONS[person]), "[]", person)
        if reading is not None:
            yield reading


def _production(text: str, weight: float) -> Production:
    source, _, target = text.partition("=")
    sides = [tuple(TOKEN.findall(side)) for side in (source, target)]
    labels = [sorted(token[1:-1] for token in side if token[0] == "<") for side in sides]
    if labels[0] != labels[1]:
        # a dropped subject is written on the English side only
        extra = [label for label in labels[1] if label not in labels[0]]
        raise ValueError(f"sentences.txt: {text!r}: the sides differ in their nonterminals ({extra or labels[0]})")
    return Production(weight, sides[0], sides[1], {label: label.split(":")[0] for label in labels[0]})


def _read_patterns(text: str, rules: dict[str, list[Production]]) -> None:
    name = ""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = line.strip().rstrip(":")
            continue
        weight, body = 1.0, line.strip() if not line.strip().startswith("=") else " " + line.strip()
        match = re.match(r"(\d+)\*\s+", body)
        if match:
            weight, body = float(match.group(1)), body[match.end() :]
        readings = list(dict.fromkeys(_expansions(f"{name} ::: {body}")))
        for reading in readings:
            head, _, rest = reading.partition(" ::: ")
            rules.setdefault(head, []).append(_production(rest, weight / len(readings)))


def _prune(rules: dict[str, list[Production]]) -> dict[str, list[Production]]:
    """Drop productions that use a feature combination without words, until none does."""
    families = {name.split(".")[0] for name in rules}
    for production in itertools.chain.from_iterable(rules.values()):
        for child in production.children.values():
            if child.split(".")[0] not in families:
                raise ValueError(f"sentences.txt: unknown nonterminal <{child}>")
    while True:
        kept = {name: [p for p in ps if all(c in rules for c in p.children.values())] for name, ps in rules.items()}
        kept = {name: ps for name, ps in kept.items() if ps}
        if kept == rules:
            return kept
        rules = kept


@functools.lru_cache(maxsize=1)
def grammar() -> dict[str, list[Production]]:
    """The expanded grammar: nonterminal -> productions. Sentences are the nonterminals ``S.<topic>``."""
    rules: dict[str, list[Production]] = {}
    for name, entries in lexicon.productions().items():
        rules[name] = [_production(f"{source} = {target}", 1.0) for source, target in entries]
    _read_patterns(PATTERNS.read_text(encoding="utf-8"), rules)
    return _prune(rules)


def count_derivations(name: str, memo: dict[str, int] | None = None) -> int:
    """How many derivations a nonterminal has."""
    memo = {} if memo is None else memo
    if name not in memo:
        total = 0
        for production in grammar()[name]:
            product = 1
            for child in production.children.values():
                product *= count_derivations(child, memo)
            total += product
        memo[name] = total
    return memo[name]


# --- writing a sentence out ----------------------------------------------------------------------------------------


def _surface(tokens: list[str]) -> str:
    text = " ".join(tokens)
    text = re.sub(r" ([.,?!])", r"\1", text)
    text = re.sub(r"([¿¡]) ", r"\1", text)
    first = re.search(WORD, text)
    return text[: first.start()] + text[first.start()].upper() + text[first.start() + 1 :]


def spanish_surface(tokens: list[str]) -> str:
    """Tokens as written Spanish: contractions, punctuation, capital letters."""
    text = re.sub(r"\b(de|a) el\b", lambda m: m.group(1)[0] + ("el" if m.group(1) == "de" else "l"), " ".join(tokens))
    words = [word.capitalize() if word in _names() else word for word in text.split(" ")]
    return _surface(words)


def english_surface(tokens: list[str]) -> str:
    """Tokens as written English: a or an, punctuation, capital letters."""
    return _surface(re.sub(r"\ba (?=[aei]|o(?!ne))", "an ", " ".join(tokens)).split(" "))


@functools.lru_cache(maxsize=1)
def _names() -> frozenset[str]:
    return frozenset(p.source[0] for kind in ("name", "city") for p in grammar()[kind])


# --- understanding a sentence ---------------------------------------------------------------------------------------


def source_words(text: str) -> list[str]:
    """Lower-case words without punctuation, contractions undone: what the parser reads."""
    words = WORD.findall(unicodedata.normalize("NFC", text).lower())
    parts = {"del": ["de", "el"], "al": ["a", "el"]}
    return [part for word in words for part in parts.get(word, [word])]


class _Parser:
    """Memoised top-down recognition of one word sequence; the grammar has no left recursion."""

    def __init__(self, words: list[str]):
        self.words = words
        self.memo: dict[tuple[str, int], list[tuple[int, tuple[str, ...]]]] = {}

    def parse(self, name: str, start: int) -> list[tuple[int, tuple[str, ...]]]:
        """All (end, English tokens) for nonterminal ``name`` from word ``start``, in the order of the grammar."""
        key = (name, start)
        if key not in self.memo:
            found: dict[tuple[int, tuple[str, ...]], None] = {}
            for production in _by_first_word(name, self.words[start] if start < len(self.words) else ""):
                for end, parts in self._sequence(production.source, 0, start):
                    found[end, _fill(production.target, parts)] = None
            self.memo[key] = list(found)
        return self.memo[key]

    def _sequence(self, tokens: tuple[str, ...], index: int, start: int):
        while index < len(tokens) and tokens[index][0] != "<":
            if WORD.fullmatch(tokens[index]):
                if start >= len(self.words) or self.words[start] != tokens[index]:
                    return
                start += 1
            index += 1
        if index == len(tokens):
            yield start, {}
            return
        label = tokens[index][1:-1]
        for middle, english in self.parse(label.split(":")[0], start):
            for end, parts in self._sequence(tokens, index + 1, middle):
                yield end, {label: english, **parts}


def _fill(tokens: tuple[str, ...], parts: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    filled: list[str] = []
    for token in tokens:
        filled.extend(parts[token[1:-1]] if token[0] == "<" else (token,))
    return tuple(filled)


@functools.cache
def _by_first_word(name: str, word: str) -> list[Production]:
    """The productions of ``name`` that can begin with ``word`` (or whose first symbol is a nonterminal)."""
    chosen = []
    for production in grammar()[name]:
        first = next((t for t in production.source if t[0] == "<" or WORD.fullmatch(t)), None)
        if first is None or first[0] == "<" or first == word:
            chosen.append(production)
    return chosen


@functools.lru_cache(maxsize=1)
def sentence_symbols() -> tuple[str, ...]:
    """The nonterminals that are whole sentences, one per topic."""
    return tuple(name for name in grammar() if name.startswith("S."))


def translations(sentence: str) -> list[str]:
    """Every English reading of one Spanish sentence; a test asks that there is never a second."""
    words = source_words(sentence)
    parser = _Parser(words)
    found: dict[str, None] = {}
    for symbol in sentence_symbols():
        for end, english in parser.parse(symbol, 0):
            if end == len(words):
                found[english_surface(list(english))] = None
    return list(found)


def translate(source_sentence: str) -> str | None:
    """The English translation of one to three Spanish sentences of the domain, or None if they are not of it.

    Case and punctuation do not matter; sentences are found without full stops too.
    """
    words = source_words(source_sentence)
    if not words or len(words) > 3 * MAX_WORDS:
        return None
    parser = _Parser(words)

    def rest(start: int, left: int) -> list[str] | None:
        if start == len(words):
            return []
        if left == 0:
            return None
        for symbol in sentence_symbols():
            for end, english in parser.parse(symbol, start):
                following = rest(end, left - 1)
                if following is not None:
                    return [english_surface(list(english)), *following]
        return None

    for sentences in (1, 2, 3):  # the reading with the fewest sentences
        english = rest(0, sentences)
        if english is not None:
            return " ".join(english)
    return None


def _fold(text: str) -> set[str]:
    decomposed = unicodedata.normalize("NFD", " ".join(source_words(text)))
    return set("".join(c for c in decomposed if not unicodedata.combining(c)).split())


@functools.lru_cache(maxsize=1)
def _examples() -> list[tuple[str, set[str]]]:
    rng = random.Random(1)
    drawn = dict.fromkeys(_sample_sentence(rng, topic)[0] for _ in range(250) for topic in sentence_symbols())
    return [(sentence, _fold(sentence)) for sentence in drawn]


def nearest(source_sentence: str, n: int = 3) -> list[str]:
    """``n`` example sentences of the domain that share the most (and the rarest) words with a sentence."""
    wanted = _fold(source_sentence)
    frequency = Counter(word for _, words in _examples() for word in words)

    def score(entry: tuple[str, set[str]]) -> float:
        return sum(1 / frequency[w] ** 0.5 for w in wanted & entry[1]) / (3 + len(entry[1])) ** 0.5

    return [sentence for sentence, _ in sorted(_examples(), key=score, reverse=True)[:n]]


# --- sampling the corpus --------------------------------------------------------------------------------------------


def _sample(rng: random.Random, name: str) -> tuple[list[str], list[str]]:
    productions = grammar()[name]
    production = rng.choices(productions, weights=[p.weight for p in productions])[0]
    parts = {label: _sample(rng, child) for label, child in production.children.items()}
    sides: tuple[list[str], list[str]] = ([], [])
    for side, (tokens, out) in enumerate(zip((production.source, production.target), sides, strict=True)):
        for token in tokens:
            out.extend(parts[token[1:-1]][side] if token[0] == "<" else (token,))
    return sides


def _sample_sentence(rng: random.Random, symbol: str) -> tuple[str, str]:
    source, target = _sample(rng, symbol)
    return spanish_surface(source), english_surface(target)


def _word_count(text: str) -> int:
    return len(WORD.findall(text))


def split_of(source: str, target: str) -> str:
    """The one split a sentence belongs to, for ever.

    It hangs on the words of the English side: two Spanish sentences with one translation share a split, so that
    neither side of a held-out sentence is seen in training.
    """
    words = WORD.findall(target.lower())
    if min(len(words), _word_count(source)) < MIN_HELD_OUT_WORDS:
        return "train"
    bucket = int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8], "big") % 100
    for split, percent in SPLIT_PERCENT.items():
        if bucket < percent:
            return split
        bucket -= percent
    return "train"


class _Sampler:
    """Draws utterances of one split, so that rare words come up often and no utterance twice."""

    def __init__(self, split: str, seed: int):
        self.split = split
        self.rng = random.Random(f"{split} {seed}")
        self.counts: Counter[str] = Counter()
        self.seen: set[str] = set()

    def sentence(self, symbol: str) -> tuple[str, str]:
        while True:
            pair = _sample_sentence(self.rng, symbol)
            if split_of(*pair) == self.split and max(map(_word_count, pair)) <= MAX_WORDS:
                return pair

    def candidate(self, several: bool) -> tuple[tuple[str, str], ...] | None:
        """The sentence pairs of one possible utterance, all of one topic; None if they came out too long."""
        topic = self.rng.choice([s for s in sentence_symbols() if s not in SET_PHRASES])
        phrases = self.split == "train"  # greetings and thanks are too short to be held out
        if not several:
            if phrases and self.rng.random() < 0.01:
                topic = self.rng.choice(SET_PHRASES)
            return (self.sentence(topic),)
        pairs = [self.sentence(topic) for _ in range(2 if self.rng.random() < 0.7 else 3)]
        if phrases and self.rng.random() < 0.4:
            pairs[0] = self.sentence("S.hello")
        if phrases and self.rng.random() < 0.2:
            pairs[-1] = self.sentence("S.thanks")
        fits = all(sum(_word_count(pair[side]) for pair in pairs) <= MAX_WORDS for side in (0, 1))
        return tuple(pairs) if fits and len(set(pairs)) == len(pairs) else None

    def rarity(self, pairs: tuple[tuple[str, str], ...]) -> float:
        return max(1 / (1 + self.counts[word]) for word in _pair_words(pairs))

    def utterance(self, number: int) -> Utterance:
        fresh: list[tuple[tuple[str, str], ...]] = []
        several = self.rng.random() < MULTI_SENTENCE_SHARE
        while len(fresh) < DRAWS:
            pairs = self.candidate(several)
            if pairs and " ".join(p[0] for p in pairs) not in self.seen:
                fresh.append(pairs)
        pairs = max(fresh, key=self.rarity)
        self.counts.update(_pair_words(pairs))
        source, target = (" ".join(pair[side] for pair in pairs) for side in (0, 1))
        self.seen.add(source)
        return Utterance(f"{self.split}_{number:05d}", source, target, pairs)


def _pair_words(pairs: tuple[tuple[str, str], ...]) -> list[str]:
    """The words of both sides, marked by side."""
    return [f"{side}:{w}" for pair in pairs for side in (0, 1) for w in WORD.findall(pair[side].lower())]


def build_text(train: int, dev: int, test: int, seed: int) -> dict[str, list[Utterance]]:
    """The three splits, reproducible from ``seed``; no sentence of dev or test occurs in train, on either side."""
    sizes = {"train": train, "dev": dev, "test": test}
    corpus = {}
    for split, size in sizes.items():
        sampler = _Sampler(split, seed)
        corpus[split] = [sampler.utterance(number) for number in range(1, size + 1)]
    return corpus


def word_frequencies(utterances: list[Utterance]) -> tuple[Counter[str], Counter[str]]:
    """Occurrences of every word form, Spanish and English."""
    source: Counter[str] = Counter()
    target: Counter[str] = Counter()
    for utterance in utterances:
        source.update(WORD.findall(utterance.source.lower()))
        target.update(WORD.findall(utterance.target.lower()))
    return source, target


# --- command line ----------------------------------------------------------------------------------------------------


def _print_stats(corpus: dict[str, list[Utterance]]) -> None:
    print(f"derivations: {sum(count_derivations(s) for s in sentence_symbols()):,}")
    for split, utterances in corpus.items():
        several = sum(len(u.sentences) > 1 for u in utterances) / max(1, len(utterances))
        print(f"{split}: {len(utterances)} utterances, {several:.1%} of several sentences")
    train = corpus["train"]
    for language, side, counts in zip(("Spanish", "English"), (0, 1), word_frequencies(train), strict=True):
        lengths = Counter(_word_count((u.source, u.target)[side]) for u in train)
        mean = sum(n * c for n, c in lengths.items()) / len(train)
        print(f"{language}: {len(counts)} word forms, {mean:.1f} words an utterance")
        print("  lengths:", " ".join(f"{n}:{lengths[n]}" for n in sorted(lengths)))
        print("  rarest:", ", ".join(f"{w} {c}" for w, c in sorted(counts.items(), key=lambda i: (i[1], i[0]))[:30]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=40, metavar="N", help="print N training pairs")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpus")
    parser.add_argument("--stats", action="store_true", help="vocabulary, lengths, rarest words of 6500/300/300")
    parser.add_argument("--translate", metavar="TEXT", help="translate one to three sentences, or show near ones")
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
