"""`echostream transcribe in.wav`: the transcript on the standard output, speech recognition alone."""

import argparse
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.cli_options import DEFAULT_BUNDLE, add_quantize_flag
from echostream_plugin.inference.audio import audio_blocks
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.events import Sentence, SourceText
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.session import TranslationSession, bundle_options

BLOCK_MS = 320


def add_transcribe_command(commands):
    """commands: what `add_subparsers` gave."""
    transcribe = commands.add_parser(
        "transcribe",
        help="write down what is said in a recording",
        description="Speech recognition by the model's ASR head; the transcript goes to the standard output, a line "
        "for each sentence (with --pause-ms) or one for the recording.",
    )
    transcribe.add_argument("audio", type=Path, help="recording: wav, flac, ogg, mp3; any rate, mono or not")
    transcribe.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help=f"model (default: {DEFAULT_BUNDLE})")
    transcribe.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    add_quantize_flag(transcribe)
    transcribe.add_argument(
        "--chunk-ms", type=int, help="encoder segment in ms (default: the bundle's, else 320); 0: the whole recording"
    )
    transcribe.add_argument("--pause-ms", type=int, help="a pause of so many ms ends a sentence (default: none does)")
    transcribe.add_argument("--live", action="store_true", help="show the transcript as it grows, with times")
    transcribe.set_defaults(run=transcribe_recording)


def transcribe_recording(args: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    rate, samples, blocks = audio_blocks(args.audio, BLOCK_MS)
    bundle = optimize(load_bundle(args.bundle, args.device), args.quantize)
    options = bundle_options(bundle, chunk_ms=args.chunk_ms, pause_ms=args.pause_ms, translate=False)
    session = TranslationSession(bundle, options)
    total = -(-samples // max(1, rate * BLOCK_MS // 1000))
    for block in tqdm(blocks, desc="transcribing", unit="block", total=total, leave=False):
        show(session.push(block, rate), args.live)
    show(session.finish(), args.live)
    if not options.pause_ms and not args.live:
        print(session.source_text)
    return 0


def show(events: list, live: bool):
    """Print growing texts, or the sentences that are complete."""
    for event in events:
        if live and isinstance(event, SourceText):
            tqdm.write(f"{event.source_ms / 1000:7.2f} s  {event.text}")
        elif not live and isinstance(event, Sentence):
            tqdm.write(event.source_text)
