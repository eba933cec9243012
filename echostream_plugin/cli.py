"""The command line: `echostream translate in.wav -o out/`; speak and transcribe have their own modules."""

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

from echostream_plugin import __version__
from echostream_plugin.cli_options import DEFAULT_BUNDLE, add_option_flags, add_quantize_flag, options_of
from echostream_plugin.cli_prepare import add_prepare_command
from echostream_plugin.cli_speak import add_speak_command
from echostream_plugin.cli_transcribe import add_transcribe_command
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError, InputError, SessionError
from echostream_plugin.inference.events import SourceText, TargetText
from echostream_plugin.inference.features import SAMPLE_RATE
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.runs import Checkpoint, describe, translate_recording
from echostream_plugin.inference.session import SessionOptions, TranslationSession, bundle_options

DEFAULT_PUSH_MS = 320


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
        "longer than a few sentences give --pause-ms (400 is usual; 200 and --fresh-encoder with the bundled model): "
        "sentences end at pauses, and an hour needs no more memory than a minute. A run that was stopped, however, "
        "goes on with the same command; its results are those of a run that was not.",
    )
    translate.add_argument("audio", type=Path, help="recording: wav, flac, ogg, mp3; any rate, mono or not")
    translate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    translate.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"model (default: {DEFAULT_BUNDLE})")
    translate.add_argument("--push-ms", type=int, default=None, help="size of a piece in ms (default: chunk-ms)")
    translate.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    add_quantize_flag(translate)
    translate.add_argument("--restart", action="store_true", help="do not go on with an unfinished run in OUT")
    translate.add_argument("--quiet", action="store_true", help="no growing texts on the screen")
    add_option_flags(translate, SessionOptions)
    translate.set_defaults(run=translate_audio)
    add_speak_command(commands)
    add_transcribe_command(commands)
    add_prepare_command(commands)
    return parser


def translate_audio(args) -> int:
    bundle = optimize(load_bundle(args.bundle, args.device), args.quantize, args.vocoder_bf16)
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
    seconds, first = translate_recording(
        session, args.audio, push_ms, args.output, rate, open_checkpoint(args, session, push_ms), show
    )
    spent = time.perf_counter() - began
    print(f"{args.audio}: {seconds - first:.1f} s translated in {spent:.1f} s; results in {args.output}")
    return 0


def open_checkpoint(args, session: TranslationSession, push_ms: int) -> Checkpoint:
    """The checkpoint of this run in OUT, after a word to the user if there is one to go on from."""
    asked = describe(
        session,
        args.audio,
        args.bundle,
        push_ms,
        device=args.device,
        quantize=args.quantize,
        vocoder_bf16=args.vocoder_bf16,
    )
    checkpoint = Checkpoint(args.output, asked)
    if args.restart:
        checkpoint.remove()
    elif checkpoint.load() is not None:
        print(f"{args.output}: going on with the unfinished run there (--restart begins anew)")
    return checkpoint


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except (BundleError, ConfigError, InputError, SessionError) as error:
        print(f"echostream: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
