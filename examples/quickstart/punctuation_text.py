"""Write the sentences of the grammar, with their marks and capitals, as texts that a punctuator learns from.

    python examples/quickstart/punctuation_text.py --out punctuation_text

One utterance a line, source and target side: train.es.txt, train.en.txt, and test.es.txt, test.en.txt with sentences
that training lacks. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import grammar

SIDES = {"es": "source", "en": "target"}


def write_texts(out: Path, train: int, test: int, seed: int) -> list[Path]:
    """train and test: utterances. Returns the files."""
    corpus = grammar.build_text(train, 0, test, seed)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for split in ("train", "test"):
        for language, side in SIDES.items():
            lines = [getattr(utterance, side) for utterance in corpus[split]]
            written.append(out / f"{split}.{language}.txt")
            written[-1].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--train", type=int, default=20000, help="utterances to learn from (default %(default)s)")
    parser.add_argument("--test", type=int, default=400, help="utterances to measure with (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the draws (default %(default)s)")
    args = parser.parse_args(argv)
    for path in write_texts(args.out, args.train, args.test, args.seed):
        print(path)


if __name__ == "__main__":
    main()
