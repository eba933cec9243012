#!/usr/bin/env python3
"""F1 of a punctuator on held-out books and sentences, at several delays and word error rates, beside three baselines.

    python scripts/measure_punctuator.py --punctuator PUNCTUATOR --text es:test.es.txt --out punctuation.md

Prints a table for each text: precision, recall and F1 of each mark, and false sentence ends per 100 words. Baselines:
a period every n words (n: the text's own mean), and a bigram rule (the mark that training had most often between two
words, with the words' own statistics where the pair is new). Besides: milliseconds a word, one word at a time; and
random streams in which a committed mark must not change (--streams).
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from train_punctuator import text_argument

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.punctuated import BIBLES, Text, bible, labelled, with_errors
from echostream_plugin.punctuation import MARKS, PunctuationStream, load_punctuator
from echostream_plugin.punctuation.model import word_rows
from echostream_plugin.punctuation.training import scores

WINDOW = 400  # words evaluated at a time


class Bigrams:
    """The mark that training had most often after a word before another word."""

    def __init__(self, text: Text):
        self.pairs, self.firsts = {}, {}
        for place in range(len(text) - 1):
            word, following, mark = text.words[place], text.words[place + 1], int(text.marks[place])
            self.pairs.setdefault((word, following), Counter())[mark] += 1
            self.firsts.setdefault(word, Counter())[mark] += 1

    def __call__(self, words: list) -> np.ndarray:
        marks = []
        for word, following in zip(words, [*words[1:], ""], strict=True):
            counts = self.pairs.get((word, following)) or self.firsts.get(word) or Counter({0: 1})
            marks.append(counts.most_common(1)[0][0])
        return np.array(marks)


@torch.inference_mode()
def marks_of(model, language: str, words: list, delay: int) -> np.ndarray:
    """The marks of a text by the parallel form, in overlapping windows (equal to the stream's)."""
    found, number = [], model.config.language_of(language)
    before = model.config.left_words * model.config.layers
    for start in range(0, len(words), WINDOW):
        first, last = max(0, start - before), min(len(words), start + WINDOW + delay)
        rows = word_rows(words[first:last], model.config.buckets).unsqueeze(0)
        marks, _ = model(rows, torch.tensor([number]), torch.tensor([last - first]), delay)
        found.append(marks[0, start - first : start - first + WINDOW].argmax(1)[: min(WINDOW, len(words) - start)])
    return torch.cat(found).numpy()


def every(words: list, n: int) -> np.ndarray:
    marks = np.zeros(len(words), dtype=np.int64)
    marks[n - 1 :: n] = MARKS.index(".")
    return marks


def row(name: str, errors: float, result: dict) -> str:
    cells = " | ".join("{:.0f} / {:.0f} / **{:.0f}**".format(*result[mark]) for mark in MARKS[1:])
    return f"| {name} | {100 * errors:.0f} | {cells} | {result['false ends']:.1f} |"


def measure(model, language: str, title: str, text: Text, training: Text, args) -> list[str]:
    """A table of one text."""
    lines = [f"### {title}: {len(text)} words\n", "| method | word errors % | comma P / R / F1 | period | question | "
             "false ends per 100 words |", "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    bigrams = Bigrams(training) if training is not None else None
    mean = max(2, round(len(text) / max(1, int(np.isin(text.marks, (2, 3)).sum()))))
    for errors in args.errors:
        noisy = with_errors(text, errors, np.random.default_rng(args.seed))
        lines.append(row(f"a period every {mean} words", errors, scores(noisy.marks, every(noisy.words, mean))))
        if bigrams is not None:
            lines.append(row("bigrams", errors, scores(noisy.marks, bigrams(noisy.words))))
        for delay in args.delays:
            used = model.config.delay_of(None if delay < 0 else delay)
            found = scores(noisy.marks, marks_of(model, language, noisy.words, used))
            name = f"D = {used}" + (" (all)" if delay < 0 else "")
            lines.append(row(name, errors, found))
    return [*lines, ""]


def cost(model, words: list, delay: int) -> float:
    """Milliseconds a word, pushed one by one."""
    stream = PunctuationStream(model, model.config.languages[0], delay)
    for word in words[:50]:
        stream.push([word])
    began = time.perf_counter()
    for word in words:
        stream.push([word])
    return 1000 * (time.perf_counter() - began) / len(words)


def changed_marks(model, words: list, streams: int, seed: int) -> int:
    """Committed marks of random streams that are not those of a run over the prefix that committed them."""
    random, wrong = np.random.default_rng(seed), 0
    for _ in range(streams):
        delay, count = int(random.choice([0, 1, 2, 4, 9])), int(random.integers(3, 24))
        start = int(random.integers(0, len(words) - count))
        stream, said, place = PunctuationStream(model, model.config.languages[0], delay), [], start
        while place < start + count:
            size = int(random.integers(1, 9))
            said += stream.push(words[place : min(place + size, start + count)])
            place += size
        said += stream.finish()
        alone = PunctuationStream(model, model.config.languages[0], delay)
        again = [word for one in words[start : start + count] for word in alone.push([one])] + alone.finish()
        wrong += sum(a != b for a, b in zip(said, again, strict=True))
    return wrong


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--punctuator", type=Path, required=True, help="folder of train_punctuator.py")
    parser.add_argument("--text", type=text_argument, action="append", default=[], metavar="LANGUAGE:FILE[:document]")
    parser.add_argument("--no-bible", action="store_true", help="only the given texts")
    parser.add_argument("--limit", type=int, default=20000, help="words of a text (default %(default)s)")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 4, -1], help="words; -1: all (0 1 2 4 -1)")
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.05, 0.13], help="word error rates")
    parser.add_argument("--streams", type=int, default=0, help="random streams to try (default: none)")
    parser.add_argument("--seed", type=int, default=1, help="of errors and streams (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    return parser


def texts_of(model, args):
    """(language, title, text, its training text or None) of everything to be measured."""
    for language in model.config.languages if not args.no_bible else ():
        if language in BIBLES:
            text = labelled(bible(language, "test"), complete=False)
            yield language, f"{language}, held-out books", text, labelled(bible(language, "train"), complete=False)
    for language, path, consecutive in args.text:
        if not path.is_file():
            raise DataError(f"{path}: no such text")
        text = labelled(path.read_text(encoding="utf-8").splitlines(), not consecutive)
        yield language, f"{language}, {path.name}", text, None


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    lines, words = [], []
    try:
        model = load_punctuator(args.punctuator)
        for language, title, text, training in texts_of(model, args):
            n = min(args.limit, len(text))
            text = Text(text.words[:n], text.marks[:n], text.cases[:n], text.ends[:n])
            words = words or text.words
            lines += measure(model, language, title, text, training, args)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if words:
        lines.append(f"{cost(model, words[:1000], 4):.2f} ms a word on one thread, one at a time, D = 4.")
    if args.streams:
        lines.append(
            f"{args.streams} random streams: {changed_marks(model, words, args.streams, args.seed)} marks changed."
        )
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
