#!/usr/bin/env python3
"""F1 of a punctuator on held-out books and sentences, at several delays and word error rates, beside baselines.

    python scripts/measure_punctuator.py --punctuator PUNCTUATOR --text es:test.es.txt:train.es.txt --out punctuation.md

A table for each text: precision / recall / F1 of each mark and of sentence ends (period or question mark), and false
ends per 100 words; +- is half the 95 % interval. Baselines: a period every n words (n: the text's own mean sentence),
and bigrams (the mark that training, held-in books or a text's third file, had most often between two words). Text has
no energy: that baseline is measured where there is audio. --streams: random streams in which a mark that was given must
not change whatever follows. --endless: words of a stream without an end, whose memory must not grow.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.punctuated import BIBLES, Text, bible, labelled, read_lines, with_errors
from echostream_plugin.evaluation.marks import (
    ENDS,
    Bigrams,
    changed_marks,
    false_ends,
    held_bytes,
    marks_of,
    periodic,
    score,
    sentence_words,
)
from echostream_plugin.files import write_text
from echostream_plugin.punctuation import MARKS, PunctuationStream, load_punctuator

COLUMNS = ("method", "word errors %", "comma", "period", "question", "sentence end", "false ends")
COST_WORDS, COST_BLOCKS = 100, 20
LEAST_WORDS = 24  # of the text that random streams are cut out of


def text_argument(value: str) -> tuple[str, Path, Path | None]:
    """An argument LANGUAGE:FILE[:TRAINING_FILE]."""
    language, _, rest = value.partition(":")
    path, _, training = rest.partition(":")
    if not language or not path:
        raise argparse.ArgumentTypeError(f"'{value}': write LANGUAGE:FILE or LANGUAGE:FILE:TRAINING_FILE")
    return language, Path(path), Path(training) if training else None


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--punctuator", type=Path, required=True, help="folder of train_punctuator.py")
    parser.add_argument("--text", type=text_argument, action="append", default=[], metavar="LANGUAGE:FILE[:TRAINING]")
    parser.add_argument("--no-bible", action="store_true", help="only the given texts")
    parser.add_argument("--limit", type=int, default=20000, help="words of a text (default %(default)s)")
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 4, -1], help="words; -1: all (0 1 2 4 -1)")
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.05, 0.13], help="word error rates")
    parser.add_argument("--streams", type=int, default=0, help="random streams to try (default: none)")
    parser.add_argument("--endless", type=int, default=0, help="words of an endless stream (default: none)")
    parser.add_argument("--seed", type=int, default=1, help="of errors and streams (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    return parser


def read_text(path: Path) -> Text:
    """The words of a file with their marks; a line is a sentence. Raises DataError."""
    text = labelled(read_lines(path))
    if not len(text):
        raise DataError(f"{path}: no words")
    return text


def texts_of(model, args):
    """(language, title, text, training texts) of everything to be measured."""
    for language in model.config.languages if not args.no_bible else ():
        if language in BIBLES:
            texts = [labelled(bible(language, split), complete=False) for split in ("test", "train")]
            yield language, f"{language}, held-out books", texts[0], texts[1:]
    for language, path, training in args.text:
        yield language, f"{language}, {path.name}", read_text(path), [read_text(training)] if training else []


def row(name: str, errors: float, given: np.ndarray, found: np.ndarray) -> str:
    """A line of a table."""
    kinds = [(number,) for number in range(1, len(MARKS))] + [ENDS]
    scores = [score(given, found, numbers) for numbers in kinds]
    cells = [f"{s.precision:.0f} / {s.recall:.0f} / **{s.f1:.1f}** ±{s.within:.1f}" if s.count else "–" for s in scores]
    return f"| {name} | {100 * errors:.0f} | {' | '.join(cells)} | {false_ends(given, found):.1f} |"


def measure(model, language: str, title: str, text: Text, training: list, args) -> list[str]:
    """The table of one text."""
    n = min(args.limit, len(text))
    text = Text(text.words[:n], text.marks[:n], text.cases[:n], text.ends[:n])
    counts = ", ".join(f"{int((text.marks == i).sum())} '{MARKS[i]}'" for i in range(1, len(MARKS)))
    lines = [f"### {title}: {n} words, {counts}\n", f"| {' | '.join(COLUMNS)} |", "|---" + "|---:" * 6 + "|"]
    bigrams, every = Bigrams(training) if training else None, sentence_words(text)
    for errors in args.errors:
        noisy = with_errors(text, errors, np.random.default_rng(args.seed))
        lines.append(row(f"a period every {every} words", errors, noisy.marks, periodic(noisy.words, every)))
        if bigrams is not None:
            lines.append(row("bigrams", errors, noisy.marks, bigrams(noisy.words)))
        for delay in args.delays:
            used = model.config.delay_of(None if delay < 0 else delay)
            name = f"D = {used}" + (" (all)" if delay < 0 else "")
            lines.append(row(name, errors, noisy.marks, marks_of(model, language, noisy.words, used)))
    return [*lines, ""]


def milliseconds(model, words: list, delay: int) -> np.ndarray:
    """Processor time of a word, pushed one by one: of each block of COST_WORDS."""
    stream, found = PunctuationStream(model, model.config.languages[0], delay), []
    stream.push(words[:50])
    for _ in range(COST_BLOCKS):
        began = time.process_time()
        for word in words[:COST_WORDS]:
            stream.push([word])
        found.append(1000 * (time.process_time() - began) / len(words[:COST_WORDS]))
    return np.array(found)


def main(argv=None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if min(args.limit, args.streams + 1, args.seed + 1) < 1 or args.endless < 0 or 0 < args.endless < 10:
        parser.error("--limit must be at least 1, --streams and --seed at least 0, --endless 0 or at least 10")
    if not all(0 <= rate <= 1 for rate in args.errors):
        parser.error("--errors are shares of the words, from 0 to 1")
    torch.set_num_threads(1)
    lines, words = [], []
    try:
        model = load_punctuator(args.punctuator)
        for language, title, text, training in texts_of(model, args):
            words = words or text.words
            lines += measure(model, language, title, text, training, args)
        if (args.streams or args.endless) and len(words) < LEAST_WORDS:
            raise DataError(
                f"--streams and --endless need a text of at least {LEAST_WORDS} words; give one with --text"
            )
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if words:
        cost = milliseconds(model, words, 4)
        spread = f"blocks: {min(cost):.2f} to {max(cost):.2f}"
        lines.append(f"{np.median(cost):.2f} ms of one thread a word, one at a time, D = 4 ({spread}).")
    if args.streams:
        changed = changed_marks(model, words, args.streams, args.seed)
        lines.append(f"{args.streams} random streams: {changed} marks changed.")
    if args.endless:
        sizes = held_bytes(model, words, args.endless, 4)
        lines.append(f"{args.endless} words: {min(sizes)} to {max(sizes)} bytes held after each tenth.")
    print("\n".join(lines))
    if args.out:
        write_text(args.out, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
