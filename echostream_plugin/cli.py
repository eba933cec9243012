"""The command line: `echostream translate in.wav -o out/`."""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from echostream_plugin import __version__
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.audio import place_in_time, read_audio
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError, InputError, SessionError
from echostream_plugin.inference.events import SourceText, Speech, TargetText, as_record
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
        "heard.wav (the same on the source's time line, with the waits for the speaker), source.txt, translation.txt "
        "and events.jsonl.",
    )
    translate.add_argument("audio", type=Path, help="recording: wav, flac, ogg, mp3; any rate, mono or not")
    translate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    translate.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"model (default: {DEFAULT_BUNDLE})")
    translate.add_argument("--push-ms", type=int, default=None, help="size of a piece in ms (default: chunk-ms)")
    translate.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    translate.add_argument("--quiet", action="store_true", help="no growing texts on the screen")
    add_option_flags(translate, SessionOptions)
    return parser


def translate_recording(session: TranslationSession, samples: np.ndarray, rate: int, push_ms: int, show=None) -> list:
    """The events of a recording pushed in pieces of `push_ms`; show(event) is called as they come."""
    push_samples = max(1, rate * push_ms // 1000)
    events = []
    for start in tqdm(range(0, len(samples), push_samples), desc="translating", unit="push", leave=False):
        new = session.push(samples[start : start + push_samples], rate)
        events += new
        for event in new if show else []:
            show(event)
    last = session.finish()
    for event in last if show else []:
        show(event)
    return events + last


def write_results(events: list, folder: Path):
    """What a recording came to, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {SourceText: "", TargetText: ""}
    for event in events:
        if isinstance(event, SourceText | TargetText):
            texts[type(event)] = event.text
    (folder / "source.txt").write_text(texts[SourceText] + "\n", encoding="utf-8")
    (folder / "translation.txt").write_text(texts[TargetText] + "\n", encoding="utf-8")
    records = [json.dumps(as_record(event), ensure_ascii=False) for event in events]
    (folder / "events.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    speech = [event for event in events if isinstance(event, Speech)]
    rate = speech[0].sample_rate if speech else 16000
    spoken = [event.samples for event in speech]
    soundfile.write(folder / "speech.wav", np.concatenate(spoken) if spoken else np.zeros(0, np.float32), rate)
    timed = [(event.samples, event.source_ms) for event in speech if len(event.samples)]
    soundfile.write(folder / "heard.wav", place_in_time(timed, rate), rate)


def translate(args) -> int:
    bundle = load_bundle(args.bundle, args.device)
    options = bundle_options(bundle, **options_of(args, SessionOptions))
    push_ms = options.chunk_ms or DEFAULT_PUSH_MS if args.push_ms is None else args.push_ms
    if push_ms < 1:
        raise ConfigError(f"--push-ms must be at least 1, got {push_ms}")
    samples, rate = read_audio(args.audio)
    session = TranslationSession(bundle, options)

    def show(event):
        if isinstance(event, SourceText | TargetText):
            side = "source     " if isinstance(event, SourceText) else "translation"
            tqdm.write(f"{event.source_ms / 1000:7.2f} s  {side}  {event.text}")

    began = time.perf_counter()
    events = translate_recording(session, samples, rate, push_ms, None if args.quiet else show)
    spent = time.perf_counter() - began
    write_results(events, args.output)
    seconds = max(len(samples) / rate, 1e-9)
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
