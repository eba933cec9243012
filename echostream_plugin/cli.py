"""The command line: `echostream translate in.wav -o out/`."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

from tqdm import tqdm

from echostream_plugin import __version__
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.audio import audio_blocks
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError, InputError, SessionError
from echostream_plugin.inference.events import SourceText, TargetText
from echostream_plugin.inference.features import SAMPLE_RATE
from echostream_plugin.inference.optimize import QUANTIZE, optimize
from echostream_plugin.inference.results import ResultWriter
from echostream_plugin.inference.session import SessionOptions, TranslationSession, bundle_options

DEFAULT_BUNDLE = Path(__file__).resolve().parents[1] / "examples" / "quickstart" / "bundle"
DEFAULT_PUSH_MS = 320


def add_option_flags(parser: argparse.ArgumentParser, kind):
    """A flag for each field of a dataclass of options, with the field's help and default."""
    for f in dataclasses.fields(kind):
        flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        if f.type is bool or f.default is None:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            text += f" (default: the bundle's, else {f.default})"
            parser.add_argument(flag, type=f.type, default=None, help=text)


def add_quantize_flag(parser: argparse.ArgumentParser):
    """--quantize, for `optimize`."""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in QUANTIZE.items())
    parser.add_argument("--quantize", choices=QUANTIZE, default="auto", help=f"{meanings} (default: auto)")


def options_of(args: argparse.Namespace, kind) -> dict:
    """The options by name that the flags of `add_option_flags` set; None where a flag was not given."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(kind)}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("echostream", description="Simultaneous speech-to-speech translation.")
    parser.add_argument("--version", action="version", version=f"echostream {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    translate = commands.add_parser(
        "translate",
        help="translate a recording as if it were spoken now",
        description="Push a recording through a session piece by piece. OUT gets speech.wav (the translation), "
        "heard.wav (the same on the source's time line, with the waits for the speaker), source.txt and "
        "translation.txt (a line for each sentence), the same as subtitles (srt), and events.jsonl. For recordings "
        "longer than a few sentences give --pause-ms (800 is usual): sentences end at pauses, and an hour needs no "
        "more memory than a minute.",
    )
    translate.add_argument("audio", type=Path, help="recording: wav, flac, ogg, mp3; any rate, mono or not")
    translate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    translate.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"model (default: {DEFAULT_BUNDLE})")
    translate.add_argument("--push-ms", type=int, default=None, help="size of a piece in ms (default: chunk-ms)")
    translate.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    add_quantize_flag(translate)
    translate.add_argument("--quiet", action="store_true", help="no growing texts on the screen")
    add_option_flags(translate, SessionOptions)
    return parser


def translate_recording(session: TranslationSession, audio: Path, push_ms: int, results: ResultWriter, show) -> float:
    """Push a recording in pieces of `push_ms`, read and written as it goes; show(event) is called as events come.

    Returns the seconds of audio."""
    rate, samples, blocks = audio_blocks(audio, push_ms)
    pushes = -(-samples // max(1, rate * push_ms // 1000))
    for block in tqdm(blocks, desc="translating", unit="push", total=pushes, leave=False):
        events = session.push(block, rate)
        results.add(events)
        for event in events:
            show(event)
    events = session.finish()
    results.add(events)
    for event in events:
        show(event)
    return samples / rate


def translate(args) -> int:
    bundle = optimize(load_bundle(args.bundle, args.device), args.quantize)
    options = bundle_options(bundle, **options_of(args, SessionOptions))
    push_ms = options.chunk_ms or DEFAULT_PUSH_MS if args.push_ms is None else args.push_ms
    if push_ms < 1:
        raise ConfigError(f"--push-ms must be at least 1, got {push_ms}")
    session = TranslationSession(bundle, options)

    def show(event):
        if isinstance(event, SourceText | TargetText) and not args.quiet:
            side = "source     " if isinstance(event, SourceText) else "translation"
            tqdm.write(f"{event.source_ms / 1000:7.2f} s  {side}  {event.text}")

    began = time.perf_counter()
    rate = bundle.vocoder.config.sampling_rate if bundle.vocoder is not None else SAMPLE_RATE
    with ResultWriter(args.output, rate) as results:
        seconds = translate_recording(session, args.audio, push_ms, results, show)
    spent = time.perf_counter() - began
    print(f"{args.audio}: {seconds:.1f} s translated in {spent:.1f} s; results in {args.output}")
    return 0


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return translate(args)
    except (BundleError, ConfigError, InputError, SessionError) as error:
        print(f"echostream: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
