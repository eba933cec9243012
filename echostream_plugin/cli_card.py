"""`echostream card PATH`: what a checkpoint or a bundle is."""

import argparse
import json

from echostream_plugin.cli_errors import DONE
from echostream_plugin.fairseq_ext.card import as_markdown, model_card

DESCRIPTION = """Describes a checkpoint or a bundle: parameters of each part, the encoder's context in ms,
dictionaries, flags, updates. Only tensors and plain values are read from a checkpoint; no code in it is run."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    parser.add_argument("path", help="checkpoint file or bundle folder")
    parser.add_argument("--json", action="store_true", help="json instead of markdown")
    parser.set_defaults(run=run_card)


def run_card(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    facts = model_card(args.path)
    print(json.dumps(facts, indent=1, ensure_ascii=False, default=str) if args.json else as_markdown(facts))
    return DONE
