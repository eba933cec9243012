"""`echostream translate in.wav -o out/`: recordings, one after the other, as if they were spoken now."""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.cli_errors import DONE, INCOMPLETE, INTERRUPTED, USAGE, OverwriteError, warn, what_happened
from echostream_plugin.cli_options import (
    add_model_flags,
    add_option_flags,
    add_raw_flag,
    check_raw,
    open_bundle,
    options_of,
    same_file,
    session_options,
)
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.audio import open_recording
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.endpointing.base import LONG_PAUSE_MS
from echostream_plugin.inference.errors import InputError, NoRecordingError, OutputError, ResumeError
from echostream_plugin.inference.events import SourceText, TargetText, as_record
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.results import RESULT_FILES
from echostream_plugin.inference.runs import (
    BESIDE,
    CHECKPOINT,
    Checkpoint,
    Hearing,
    RunReport,
    claimed,
    describe,
    discard_unfinished,
    translate_recording,
)
from echostream_plugin.inference.session import TranslationSession

DEFAULT_PUSH_MS = 320
STDOUT = Path("-")

logger = logging.getLogger(__name__)


def configure(translate: argparse.ArgumentParser):
    """translate: the command's own."""
    translate.description = (
        "Push a recording through a session piece by piece. OUT gets speech.wav (the translation), "
        "heard.wav (the same on the source's time line, with silence where it waits for the speaker), source.txt and "
        "translation.txt (a line for each sentence), the same as subtitles (srt and vtt; two lines of 42 characters, "
        "20 characters a second), words.json (each word with its time), and events.jsonl. Of several recordings each "
        "has a folder of its name in OUT; one that cannot be translated does not keep the others from it. In a "
        "recording of more than 30 s, or of unknown length, sentences end at pauses (--pause-ms; "
        f"{LONG_PAUSE_MS}), so an hour needs no more memory than a minute. A run "
        "that was stopped, however, goes on with the same command; its results are those of a run that was not. "
        "Results that are already in OUT are not touched without --overwrite."
    )
    translate.add_argument(
        "audio", nargs="+", type=Path, help="recordings: wav, flac, ogg, mp3; any rate, mono or not; -: standard input"
    )
    translate.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results; -: events to stdout"
    )
    add_raw_flag(translate)
    translate.add_argument("--overwrite", action="store_true", help="replace results in OUT, when the new are complete")
    translate.add_argument("--restart", action="store_true", help="do not go on with an unfinished run in OUT")
    translate.add_argument("--push-ms", type=int, default=None, help="length of a push in ms (default: chunk-ms)")
    translate.add_argument("--quiet", action="store_true", help="no growing texts on the screen")
    add_model_flags(translate)
    add_option_flags(translate, SessionOptions)
    translate.set_defaults(run=translate_recordings)


def translate_recordings(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    check_flags(args)
    folders = output_folders(args.audio, args.output)
    for folder in folders:
        check_folder(folder, args.audio, args.overwrite)
    bundle = open_bundle(args)
    bundle_options(bundle, **options_of(args, SessionOptions))  # what is wrong with them is so for every recording
    failed, codes = [], []
    for audio, folder in zip(args.audio, folders, strict=True):
        code = attempt(args, bundle, audio, folder)
        codes.append(code)
        if code == INTERRUPTED:
            break
        if code != DONE:
            failed.append(str(audio))
    if failed and len(args.audio) > 1:
        warn(f"{len(failed)} of {len(args.audio)} recordings were not translated, or not whole: {', '.join(failed)}")
    return INTERRUPTED if INTERRUPTED in codes else codes[0] if len(set(codes)) == 1 else INCOMPLETE


def check_flags(args: argparse.Namespace):
    """Raise ConfigError for flags that make no sense, alone or together."""
    check_raw(args.raw)
    if args.push_ms is not None and args.push_ms < 1:
        raise ConfigError(f"--push-ms must be at least 1, got {args.push_ms}")
    if sum(str(audio) == "-" for audio in args.audio) > 1:
        raise ConfigError("the standard input (-) can be read once")


def attempt(args: argparse.Namespace, bundle: Bundle, audio: Path, folder: Path | None) -> int:
    """Translate a recording; the exit code that is its due, with a line for what went wrong."""
    try:
        report = translate_one(args, bundle, audio, folder)
    except (InputError, OutputError) as error:
        warn(error)
        return USAGE if isinstance(error, NoRecordingError) else INCOMPLETE
    except ResumeError as error:
        warn(error)
        return USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        warn(what_happened(error))
        return INCOMPLETE
    if report.problem:
        warn(report.problem)
    return INTERRUPTED if report.interrupted else INCOMPLETE if report.problem else DONE


def output_folders(recordings: list[Path], output: Path) -> list[Path | None]:
    """Where the results of each go: to the folder itself, or, of several, to folders with their names in it; None: to
    the standard output."""
    if output == STDOUT:
        return [None] * len(recordings)
    if len(recordings) == 1:
        return [output]
    folders, taken = [], set()
    for recording in recordings:
        stem = "stdin" if str(recording) == "-" else recording.stem.strip(". ") or "recording"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        folders.append(output / name)
    return folders


def check_folder(folder: Path | None, recordings: list[Path], overwrite: bool):
    """Raise OutputError where results would destroy a recording, or those of another run that nobody gave up."""
    if folder is None:
        return
    names = [CHECKPOINT, CHECKPOINT + ".part", *RESULT_FILES, *(f"{BESIDE}/{name}" for name in RESULT_FILES)]
    files = [folder / name for name in names if os.path.lexists(folder / name)]
    for file in files:
        for recording in recordings:
            if same_file(file, recording):
                raise OverwriteError(f"{recording}: a result in {folder} would overwrite it; choose another folder")
        if file.is_dir() and not file.is_symlink():
            raise OverwriteError(f"{file}: is a folder where a result would be; choose another folder")
    earlier = [file.name for file in files if file.parent == folder and file.name in RESULT_FILES]
    if earlier and not overwrite and not (folder / CHECKPOINT).is_file():
        some = ", ".join(earlier[:3]) + (", ..." if earlier[3:] else "")
        raise OverwriteError(f"{folder}: holds results already ({some}); choose another folder, or give --overwrite")


def translate_one(args: argparse.Namespace, bundle: Bundle, audio: Path, folder: Path | None):
    """Translate a recording into a folder, or (None) to the standard output; returns its `RunReport`."""
    with open_recording(audio, args.raw, getattr(sys.stdin, "buffer", None), quiet=True) as recording:
        options, note = session_options(bundle, options_of(args, SessionOptions), recording)
        if note:
            warn(note)
        push_ms = options.chunk_ms or DEFAULT_PUSH_MS if args.push_ms is None else args.push_ms
        session = TranslationSession(bundle, options)
        began = time.perf_counter()
        if folder is None:
            report = print_events(session, recording, push_ms, str(audio) if len(args.audio) > 1 else None)
        else:
            rate = bundle.vocoder.config.sampling_rate if bundle.vocoder is not None else SAMPLE_RATE
            with claimed(folder):
                checkpoint = open_checkpoint(args, session, audio, folder, push_ms)
                show = None if args.quiet else show_text
                report = translate_recording(session, recording, push_ms, folder, rate, checkpoint, show)
        spent = time.perf_counter() - began
    said = f"{recording.name}: {report.seconds - report.began_seconds:.1f} s translated in {spent:.1f} s"
    if folder is None:
        logger.info(said)
    else:
        print(f"{said}; results in {folder}")
    return report


def open_checkpoint(args, session: TranslationSession, audio: Path, folder: Path, push_ms: int) -> Checkpoint | None:
    """The checkpoint of this run in its folder, after a word to the user if there is one to go on from; None for what
    can be read only once."""
    if args.restart:
        discard_unfinished(folder)
    if str(audio) == "-":
        if (folder / CHECKPOINT).is_file():
            raise OutputError(f"{folder}: holds an unfinished run; choose another folder, or drop it with --restart")
        return None
    settings = {name: getattr(args, name) for name in ("device", "quantize", "vocoder_bf16")}
    if args.raw is not None:
        settings["raw"] = args.raw
    checkpoint = Checkpoint(folder, describe(session, audio, args.bundle, push_ms, **settings))
    if checkpoint.load() is not None:
        print(f"{folder}: going on with the unfinished run there (--restart begins anew)")
    return checkpoint


def show_text(event):
    """Print texts as they grow."""
    if isinstance(event, SourceText | TargetText):
        side = "source     " if isinstance(event, SourceText) else "translation"
        tqdm.write(f"{event.source_ms / 1000:7.2f} s  {side}  {event.text}")


def print_events(session: TranslationSession, recording, push_ms: int, name: str | None) -> RunReport:
    """Events as json lines on the standard output, each as soon as it is known; name: of the recording, in each."""
    hearing = Hearing(session, recording, max(1, recording.rate * push_ms // 1000))
    for events in hearing:
        for event in events:
            record = as_record(event) if name is None else {"recording": name, **as_record(event)}
            sys.stdout.buffer.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            sys.stdout.buffer.flush()
    return RunReport(hearing.taken / recording.rate, 0.0, recording.problem, hearing.interrupted)
