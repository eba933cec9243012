"""What the commands of the command line share: the default bundle, flags from dataclasses of options."""

import argparse
import dataclasses
from pathlib import Path

from echostream_plugin.inference.optimize import QUANTIZE, VOCODER_BF16

DEFAULT_BUNDLE = Path(__file__).resolve().parents[1] / "examples" / "quickstart" / "bundle"


def add_option_flags(parser: argparse.ArgumentParser, kind):
    """A flag for each field of a dataclass of options, with the field's help and default."""
    for f in dataclasses.fields(kind):
        flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        if f.type is bool or f.default is None:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            text += f" (default: the bundle's, else {f.default})"
            parser.add_argument(flag, type=f.type, default=None, help=text)


def add_quantize_flag(parser):
    """--quantize and --vocoder-bf16, for `optimize`; parser: or a group of one."""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in QUANTIZE.items())
    parser.add_argument("--quantize", choices=QUANTIZE, default="auto", help=f"{meanings} (default: auto)")
    parser.add_argument("--vocoder-bf16", action="store_true", help=VOCODER_BF16)


def options_of(args: argparse.Namespace, kind) -> dict:
    """The options by name that the flags of `add_option_flags` set; None where a flag was not given."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(kind)}
