"""`echostream transcribe in.wav`: the transcript on the standard output, speech recognition alone."""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.cli_errors import DONE, INCOMPLETE, INTERRUPTED, warn
from echostream_plugin.cli_options import add_model_flags, add_raw_flag, check_raw, open_bundle, session_options
from echostream_plugin.inference.audio import open_recording
from echostream_plugin.inference.events import Sentence, SourceText
from echostream_plugin.inference.runs import PushedRecording
from echostream_plugin.inference.session import TranslationSession

BLOCK_MS = 320


def configure(transcribe: argparse.ArgumentParser):
    """transcribe: the command's own."""
    transcribe.description = (
        "Speech recognition by the model's ASR head; the transcript goes to the standard output, a line "
        "for each sentence (with --pause-ms, and in a recording of more than 30 s or of unknown length) or one for the "
        "recording."
    )
    transcribe.add_argument("audio", type=Path, help="recording: wav, flac, ogg, mp3; any rate; -: the standard input")
    add_raw_flag(transcribe)
    add_model_flags(transcribe, vocoder=False)
    transcribe.add_argument(
        "--chunk-ms", type=int, help="encoder segment in ms (default: the bundle's, else 320); 0: the whole recording"
    )
    transcribe.add_argument(
        "--pause-ms", type=int, help="a pause of so many ms ends a sentence; 0: none does (default: by the length)"
    )
    transcribe.add_argument("--live", action="store_true", help="show the transcript as it grows, with times")
    transcribe.set_defaults(run=transcribe_recording)


def transcribe_recording(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    check_raw(args.raw)
    with open_recording(args.audio, args.raw, getattr(sys.stdin, "buffer", None), quiet=True) as recording:
        bundle = open_bundle(args)
        given = {"chunk_ms": args.chunk_ms, "pause_ms": args.pause_ms, "translate": False}
        options, note = session_options(bundle, given, recording)
        if note:
            warn(note)
        session = TranslationSession(bundle, options)
        step = max(1, recording.rate * BLOCK_MS // 1000)
        total = None if recording.samples is None else -(-recording.samples // step)
        pushed = PushedRecording(session, recording, step)
        for events in tqdm(pushed, desc="transcribing", unit="block", total=total, leave=False, disable=None):
            show(events, args.live)
    if not options.pause_ms and not args.live:
        print(session.source_text)
    if recording.problem:
        warn(recording.problem)
    return INTERRUPTED if pushed.interrupted else INCOMPLETE if recording.problem else DONE


def show(events: list, live: bool):
    """Print growing texts, or the sentences that are complete."""
    for event in events:
        if live and isinstance(event, SourceText):
            tqdm.write(f"{event.source_ms / 1000:7.2f} s  {event.text}")
        elif not live and isinstance(event, Sentence):
            tqdm.write(event.source_text)
    sys.stdout.flush()
