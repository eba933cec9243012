"""Numbers about the quickstart text: its size, its vocabulary, and how much of other texts it covers."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import Counter
from pathlib import Path

import numerals
import synchronous
from domain import grammar, sentence_symbols, vocabulary, words_in
from utterances import Utterance


def sentence_count() -> int:
    """The number of sentences of the grammar (derivations, each a sentence of its own)."""
    memo: dict[str, int] = {}
    return sum(synchronous.count_derivations(grammar(), symbol, memo) for symbol in sentence_symbols())


def word_frequencies(utterances: list[Utterance]) -> tuple[Counter[str], Counter[str]]:
    """Occurrences of every word form: (Spanish, English)."""
    return (
        Counter(word for u in utterances for word in words_in(u.source)),
        Counter(word for u in utterances for word in words_in(u.target)),
    )


def print_stats(corpus: dict[str, list[Utterance]]) -> None:
    """Sizes, lengths and rarest words of the three splits."""
    print(f"the grammar has {sentence_count():.1e} sentences of {len(sentence_symbols())} topics")
    for split, utterances in corpus.items():
        rows = Counter(len(u.sentences) for u in utterances)
        print(f"{split}: {len(utterances)} utterances, of 1 to 4 sentences: {[rows[n] for n in range(1, 5)]}")
    train = corpus["train"]
    known = {word for u in train for word in words_in(u.source)}
    unknown = {word for split in ("dev", "test") for u in corpus[split] for word in words_in(u.source)} - known
    print(f"source words of dev and test that train lacks: {len(unknown)}")
    sides = (("Spanish", "source"), ("English", "target"))
    for (language, field), counts in zip(sides, word_frequencies(train), strict=True):
        lengths = Counter(len(words_in(getattr(u, field))) for u in train)
        mean = sum(n * count for n, count in lengths.items()) / len(train)
        print(f"{language}: {len(counts)} word forms, {sum(counts.values())} words, {mean:.1f} an utterance")
        print("  utterances of each length:", " ".join(f"{n}:{lengths[n]}" for n in sorted(lengths)))
        rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))
        often = {least: sum(n >= least for n in counts.values()) for least in (15, 10, 5)}
        print("  word forms seen", ", ".join(f"{least} times or more: {n}" for least, n in often.items()))
        print("  rarest words:", ", ".join(f"{word} {count}" for word, count in rarest[:30]))


def is_test_prompt(name: str) -> bool:
    """The stable split of recorded prompts: a quarter of them, by name, serves for test only."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4 == 0


def coverage(path: Path) -> dict[str, tuple[int, int]]:
    """Of lines ``name: text`` (Spanish; plain or .gz): split -> (running words that the grammar has, all of them).

    Accents are ignored, since prompt lists often lack them; single letters count as spelled; what stands in brackets
    is no speech.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    folded = {numerals.without_accents(word.lower()) for word in vocabulary() if word[0] != "="}
    folded |= {"al", "del", *numerals.LETTERS}
    found = {"train": (0, 0), "test": (0, 0)}
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, colon, text = line.partition(":")
            if not colon or line.startswith(";"):
                continue
            words = words_in(numerals.without_accents(re.sub(r"\[[^]]*\]", "", _repaired(text))))
            known, total = found[split := "test" if is_test_prompt(name.strip()) else "train"]
            found[split] = known + sum(word in folded for word in words), total + len(words)
    return found


def _repaired(text: str) -> str:
    """UTF-8 that was read as Latin-1 is undone."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def print_coverage(path: Path) -> None:
    """The share of running words that the grammar has."""
    for split, (known, total) in coverage(path).items():
        print(f"{split} prompts: {known} of {total} running words, {known / max(1, total):.1%}")
