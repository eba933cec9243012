"""Sentences and their translations, more than are spoken: what the MT decoder learns from first.

    python examples/quickstart/translation_text.py --corpus work/quickstart/corpus --pairs 200000

Writes text/pairs.tsv of the corpus: pairs of the grammar's training split, a `MENU_SHARE` of them from
text/translation, which is not spoken, and the human training prompts, each as often as makes them `PROMPT_SHARE`.
What the human test prompts say is in none of them.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import synchronous
from corpus_text import PROMPT_COLUMNS, sentences_in
from domain import PATTERNS, english_surface, read_grammar, spanish_surface
from utterances import SplitSampler, split_of

from echostream_plugin.data.tables import read_table, write_table

COLUMNS = ("source", "target")
PROMPT_SHARE = 0.025
MENU_SHARE = 0.15
MENUS = "S.menus"
SEED = 2  # another than the corpus's: other sentences than those that are spoken


def menus(count: int) -> list:
    """Rows of telephone menus, none twice."""
    rules = read_grammar(PATTERNS, PATTERNS / "translation")
    sampler = synchronous.Sampler(synchronous.WordIndex(rules), random.Random(f"menus {SEED}"), Counter())
    found = {}
    while len(found) < count:
        source, target = sampler.draw(MENUS)
        if split_of([token for token in target if token[0].isalpha()]) == "train":
            found[spanish_surface(source)] = english_surface(target)
    return [dict(zip(COLUMNS, pair, strict=True)) for pair in found.items()]


def pairs_of(count: int, prompts: list) -> list:
    """Rows of the table. prompts: the corpus's human prompts."""
    tested = sentences_in(prompt["source"] for prompt in prompts if prompt["split"] == "test")
    sampler, of_menus = SplitSampler("train", SEED), round(MENU_SHARE * count)
    rows = [vars(sampler.utterance(number)) for number in range(1, count - of_menus + 1)]
    rows = [row for row in rows + menus(of_menus) if not tested & sentences_in([row["source"]])]
    spoken = [prompt for prompt in prompts if prompt["split"] == "train"]
    return rows + spoken * (round(PROMPT_SHARE * count / len(spoken)) if spoken else 0)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of build_corpus.py")
    parser.add_argument("--pairs", type=int, default=200_000, help="of the grammar (default %(default)s)")
    args = parser.parse_args(argv)
    table = args.corpus / "text" / "pairs.tsv"
    if table.exists():
        print(f"{table} is there")
        return 0
    rows = pairs_of(args.pairs, read_table(args.corpus / "text" / "prompts.tsv", PROMPT_COLUMNS))
    write_table(table, COLUMNS, rows)
    print(f"{table}: {len(rows)} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
