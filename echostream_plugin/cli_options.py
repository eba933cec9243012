"""What the commands of the command line share: the default bundle, common flags, options of long recordings."""

import argparse
import dataclasses
import os
import typing
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import MAX_RATE, MIN_RATE
from echostream_plugin.inference.arguments import is_truth, reading, word
from echostream_plugin.inference.bundle import Bundle, load_bundle
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.endpointing.base import LONG_PAUSE_MS
from echostream_plugin.inference.optimize import PUSH_MS, QUANTIZE, VOCODER_BF16, optimize
from echostream_plugin.inference.options import SessionOptions, bundle_options

PACKAGE = Path(__file__).resolve().parent
# an installed package holds a copy that setup.py made of the other
BUNDLES = (PACKAGE / "bundles" / "quickstart", PACKAGE.parent / "examples" / "quickstart" / "bundle")
DEFAULT_BUNDLE = next((folder for folder in BUNDLES if folder.is_dir()), BUNDLES[-1])
LONG_SECONDS = 30  # longer recordings get sentence ends by themselves: models were trained on shorter ones
RAW_HELP = "the samples have no header: RATE of them a second, 16 bits, little-endian, one channel"


def add_model_flags(parser: argparse.ArgumentParser, vocoder: bool = True):
    """--bundle, --device and those of `add_quantize_flag`, for `open_bundle`."""
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"model (default: {DEFAULT_BUNDLE})")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda (default: cpu)")
    add_quantize_flag(parser, vocoder)


def add_option_flags(parser: argparse.ArgumentParser, kind, leave=(), truth=None):
    """A flag for each field of a dataclass of options, with the field's help and default.

    leave: fields that get none; truth: the type of a yes-or-no flag's value, None where it has none (`--vad`,
    `--no-vad`)."""
    types = typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"].replace("%", "%%")
        if f.name in leave:
            continue
        how = reading(types[f.name], f.default)
        if not is_truth(types[f.name]):
            text += f" (default: the bundle's, else {word(f.default)})"
        elif truth is not None:
            how = {"type": truth, "metavar": "BOOL"}
        parser.add_argument(flag, default=None, help=text, **how)


def add_quantize_flag(parser, vocoder: bool = True):
    """--quantize and, where a vocoder is used, --vocoder-bf16, for `optimize`; parser: or a group of one."""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in QUANTIZE.items())
    parser.add_argument("--quantize", choices=QUANTIZE, default="auto", help=f"{meanings} (default: auto)")
    if vocoder:
        parser.add_argument("--vocoder-bf16", action="store_true", help=VOCODER_BF16)


def add_raw_flag(parser: argparse.ArgumentParser):
    """--raw RATE, for `open_recording`."""
    parser.add_argument("--raw", type=int, metavar="RATE", help=RAW_HELP)


def check_raw(rate: int | None):
    """Raise ConfigError for a rate that no session takes."""
    if rate is not None and not MIN_RATE <= rate <= MAX_RATE:
        raise ConfigError(f"--raw {rate}: expected a sample rate from {MIN_RATE} to {MAX_RATE} Hz")


def options_of(args: argparse.Namespace, kind) -> dict:
    """The options by name that the flags of `add_option_flags` set; None where a flag was not given, or is none."""
    return {f.name: getattr(args, f.name, None) for f in dataclasses.fields(kind)}


def open_bundle(args: argparse.Namespace) -> Bundle:
    """The bundle of `add_model_flags`, ready for sessions of --chunk-ms in pushes of --push-ms where a command has such
    flags. Raises BundleError, or ConfigError for a device that is not there."""
    check_device(args.device)
    bundle = load_bundle(args.bundle, args.device)
    options = bundle_options(bundle, chunk_ms=getattr(args, "chunk_ms", None))
    push_ms = getattr(args, "push_ms", None)
    return optimize(bundle, args.quantize, getattr(args, "vocoder_bf16", False), options, push_ms or PUSH_MS)


def check_device(name: str):
    """Raise ConfigError where no tensor can be kept on that device."""
    try:
        torch.zeros(1, device=name).cpu()
    except Exception as error:  # whatever torch says of a device that it does not know, or that is not there
        there = ", ".join(devices())
        reason = str(error).strip().splitlines()[0].split(". ")[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"--device {name}: cannot be used ({reason[:120]}); this machine has {there}") from error


def devices() -> list[str]:
    """The torch devices of this machine."""
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def session_options(bundle: Bundle, given: dict, recording) -> tuple[SessionOptions, str]:
    """The options for a recording, and a note for the user, or "": where it is long, or sentences are to end where
    their text does, and nobody said whether sentences end at pauses, they do, for a model writes one sentence end and
    then nothing any more.

    given: options by name, None where not given; recording: of `open_recording`."""
    options = bundle_options(bundle, **given)
    is_long = recording.seconds is None or recording.seconds > LONG_SECONDS
    has_sentences = is_long or ENDPOINTERS[options.endpointer].reads_text
    if not has_sentences or options.pause_ms or given.get("pause_ms") is not None:
        return options, ""
    length = "of unknown length" if recording.seconds is None else f"{recording.seconds:.0f} s long"
    if not options.chunk_ms:
        warning = "with chunk-ms 0 it is one utterance, and what follows its first sentence may be lost"
        return options, f"{recording.name}: {length}: {warning}"
    pause_ms = usual_pause_ms(options)
    note = f"sentences end at pauses of {pause_ms} ms (--pause-ms sets this; 0: it is all one utterance)"
    if ENDPOINTERS[options.endpointer].reads_text:
        return dataclasses.replace(options, pause_ms=pause_ms), ""
    return dataclasses.replace(options, pause_ms=pause_ms), f"{recording.name}: {length}: {note}"


def live_options(bundle: Bundle, given: dict) -> SessionOptions:
    """The options for a speaker who is heard live, without an end: sentences end at pauses unless somebody said so."""
    options = bundle_options(bundle, **given)
    if options.pause_ms or given.get("pause_ms") is not None or not options.chunk_ms:
        return options
    return dataclasses.replace(options, pause_ms=usual_pause_ms(options))


def usual_pause_ms(options: SessionOptions) -> int:
    """The pause that ends a sentence where nobody said which."""
    return min(LONG_PAUSE_MS, options.longest_sentence_ms)


def same_file(one: Path, other: Path) -> bool:
    """Are they one file, whatever their names: through links, other cases of letters, or before it is there?"""
    try:
        if one.exists() and other.exists():
            return os.path.samefile(one, other)
        return os.path.realpath(one) == os.path.realpath(other)
    except (OSError, ValueError):
        return False
