"""The text of the quickstart corpus: a synchronous Spanish-English grammar of a traveller's and a caller's day.

Every source sentence has exactly one translation, so that the task can be learnt. ``text/`` holds the words and the
sentence patterns (``text/README.md``), ``notation.py`` reads them with the help of ``conjugation.py``, ``lexicon.py``
and ``numerals.py``, ``utterances.py`` draws the three splits, ``understanding.py`` recognises sentences of the domain.

    python examples/quickstart/grammar.py --show 40 --stats
    python examples/quickstart/grammar.py --translate "¿Dónde está la estación?"
    python examples/quickstart/grammar.py --coverage core-sounds-es.txt.gz
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import text_report
from domain import english_surface, spanish_surface, vocabulary, words_in  # noqa: F401
from text_report import sentence_count, word_frequencies  # noqa: F401
from understanding import nearest, translate, translations  # noqa: F401
from utterances import Utterance, build_text, split_of  # noqa: F401

STATS_SIZES = (20000, 400, 400)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=int, default=40, metavar="N", help="print N training pairs (default 40)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the corpus (default 1)")
    parser.add_argument("--stats", action="store_true", help="vocabulary, lengths, rarest words of 20000/400/400")
    parser.add_argument("--translate", metavar="TEXT", help="translate one to four sentences, or show near ones")
    parser.add_argument("--coverage", type=Path, metavar="FILE", help="lines 'name: text': the share it covers")
    args = parser.parse_args(argv)
    if args.translate is not None:
        english = translate(args.translate)
        print(english if english is not None else "Not of the domain. Near: " + " ".join(nearest(args.translate)))
        return
    if args.coverage is not None:
        text_report.print_coverage(args.coverage)
        return
    corpus = build_text(*(STATS_SIZES if args.stats else (args.show, 0, 0)), args.seed)
    for utterance in random.Random(args.seed).sample(corpus["train"], min(args.show, len(corpus["train"]))):
        print(f"{utterance.source}\n    {utterance.target}")
    if args.stats:
        text_report.print_stats(corpus)


if __name__ == "__main__":
    main()
