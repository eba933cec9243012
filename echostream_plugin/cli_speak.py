"""`echostream speak "where is the station" -o out.wav`: text of the target language in, speech out."""

import argparse
import codecs
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import soundfile
from tqdm import tqdm

from echostream_plugin.cli_errors import DONE, OverwriteError, check_free, warn
from echostream_plugin.cli_options import add_model_flags, add_option_flags, open_bundle, options_of, same_file
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.errors import InputError, OutputError
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.speak import (
    SpeakOptions,
    SpokenSentence,
    TextSpeaker,
    UnknownWord,
    source_frames,
    speak_options,
)

BLOCK_BYTES = 256  # of text at a time: what is spoken is written before the next block is read


def configure(speak: argparse.ArgumentParser):
    """speak: the command's own."""
    speak.description = (
        "Text to speech by the translation model: its MT decoder is made to say the text, the rest is as "
        "in translation. The model can say the words of its target dictionary; a word that it has no subwords for is "
        "left out, with a warning. With '-' the words of the standard input are spoken as they come, into one file. "
        "Case and punctuation are not spoken, but . ? ! end a sentence."
    )
    speak.add_argument("text", nargs="*", help="the text, or '-' for the standard input")
    speak.add_argument("--text-file", type=Path, metavar="FILE", help="the text (UTF-8), of any length")
    speak.add_argument("-o", "--output", type=Path, required=True, metavar="WAV", help="speech (wav, flac or ogg)")
    speak.add_argument("--times", type=Path, metavar="JSON", help="write when each word is spoken, as json lines")
    speak.add_argument(
        "--source", type=Path, metavar="WAV", help="a recording that the text translates; words come out clearer"
    )
    speak.add_argument("--overwrite", action="store_true", help="replace files that are there, by complete ones")
    add_model_flags(speak)
    speak.add_argument("--quiet", action="store_true", help="do not show the sentences")
    add_option_flags(speak, SpeakOptions)
    speak.set_defaults(run=speak_text)


def speak_text(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    blocks, total = text_blocks(args.text, args.text_file)
    check_outputs(args.output, args.times, [args.text_file, args.source], args.overwrite)
    recording = read_audio(args.source) if args.source is not None else None
    bundle = open_bundle(args)
    source = None if recording is None else source_frames(bundle, *recording)
    speaker = TextSpeaker(bundle, speak_options(bundle, **options_of(args, SpeakOptions)), source)
    began = time.perf_counter()
    with SpeechWriter(args.output, args.times, bundle.vocoder.config.sampling_rate) as writer:
        with tqdm(total=total, desc="speaking", unit="B", leave=False, disable=None if total else True) as bar:
            for block in blocks:
                for event in speaker.push(block):
                    take(event, writer, args.quiet)
                bar.update(len(block.encode()))
        for event in speaker.finish():
            take(event, writer, args.quiet)
    if not writer.words:
        raise InputError("there is no word in the text that the model can speak")
    spent = time.perf_counter() - began
    print(f"{args.output}: {writer.words} words, {writer.seconds:.1f} s of speech in {spent:.1f} s")
    return DONE


def take(event, writer: "SpeechWriter", quiet: bool):
    """Write an event of the speaker, and tell the user of it."""
    if isinstance(event, UnknownWord):
        spelled = "only single letters of it are in the model's dictionary; it may not be able to say it"
        reason = spelled if event.spelled else "not in the model's dictionary, left out"
        tqdm.write(f"echostream: warning: '{event.word}': {reason}", file=sys.stderr)
    elif isinstance(event, Speech):
        writer.add_speech(event)
    elif isinstance(event, SpokenSentence):
        writer.add_sentence(event)
        if not quiet:
            tqdm.write(f"{event.words[0].start_ms / 1000:7.2f} s  {event.text}")
            sys.stdout.flush()


class SpeechWriter:
    """One sound file of everything spoken, and the times of its words; neither is touched before there is speech. Use
    as a context manager.

    Where there are files of these names, they stay until the new ones, beside them, are complete."""

    def __init__(self, path: Path, times: Path | None, sample_rate: int):
        self.sample_rate = sample_rate
        self.words = self.samples = 0
        self._wanted = [path for path in (path, times) if path is not None]
        self._written = [beside(path) if os.path.lexists(path) else path for path in self._wanted]
        self._audio = self._times = None
        self._files = ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            self._files.close()
        except soundfile.SoundFileError as failure:
            raise OutputError(f"{self._written[0]}: cannot be completed ({failure})") from failure
        for wanted, written in zip(self._wanted, self._written, strict=True):
            if written != wanted and written.exists():
                if kind is None:
                    os.replace(written, wanted)
                else:
                    warn(f"{wanted}: not replaced; what was spoken is in {written}")

    @property
    def seconds(self) -> float:
        """Speech so far."""
        return self.samples / self.sample_rate

    def add_speech(self, event: Speech):
        """The next speech. Raises OutputError where it cannot be written."""
        path = self._written[0]
        try:
            if self._audio is None:
                file = self._files.enter_context(new_file(path))
                kind = self._wanted[0].suffix[1:].upper()
                layout = {"samplerate": self.sample_rate, "channels": 1, "format": kind, "closefd": False}
                self._audio = self._files.enter_context(soundfile.SoundFile(file.fileno(), "w", **layout))
            self._audio.write(event.samples)
        except (soundfile.SoundFileError, AssertionError, ValueError, TypeError) as error:
            raise OutputError(f"{path}: cannot be written ({error})") from error
        self.samples += len(event.samples)

    def add_sentence(self, event: SpokenSentence):
        """The words of a sentence that was spoken, with their times."""
        self.words += len(event.words)
        if len(self._written) == 1:
            return
        if self._times is None:
            self._times = self._files.enter_context(new_file(self._written[1]))
        for word in event.words:
            record = {"word": word.word, "start_ms": round(word.start_ms, 3), "end_ms": round(word.end_ms, 3)}
            self._times.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))
        self._times.flush()


def beside(path: Path) -> Path:
    """The name under which a file is written that is to replace `path`."""
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")


def new_file(path: Path):
    """Open a new file of bytes; one of that name is no longer linked to it."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


def text_blocks(words: list[str], text_file: Path | None) -> tuple[Iterator[str], int | None]:
    """The text in blocks, cut anywhere, and its size in bytes, None where it is still being written."""
    if bool(words) == (text_file is not None):
        raise InputError("give the text, or '-' for the standard input, or --text-file")
    if text_file is not None:
        if not text_file.is_file():
            raise InputError(f"{text_file}: no such text file")
        return file_blocks(text_file), text_file.stat().st_size
    if words == ["-"]:
        return decoded(iter(lambda: sys.stdin.buffer.read1(BLOCK_BYTES), b""), "standard input"), None
    text = " ".join(words).encode("utf-8", "surrogateescape")
    blocks = (text[start : start + BLOCK_BYTES] for start in range(0, len(text), BLOCK_BYTES))
    return decoded(blocks, "the text"), len(text)


def file_blocks(path: Path) -> Iterator[str]:
    """The text of a file, block by block."""
    with open(path, "rb") as file:
        yield from decoded(iter(lambda: file.read(BLOCK_BYTES), b""), str(path))


def decoded(blocks: Iterator[bytes], name: str) -> Iterator[str]:
    """UTF-8 text of blocks that may end inside a character. Raises InputError that names what it was read from."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for block in blocks:
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text ({error.reason})") from error


def check_outputs(audio: Path, times: Path | None, read: list[Path | None], overwrite: bool):
    """Raise OutputError where the files cannot or must not be written, before anything is computed; read: what the
    command reads."""
    kind = audio.suffix[1:].upper()
    if kind not in soundfile.available_formats() or soundfile.default_subtype(kind) is None:
        raise OverwriteError(f"{audio}: '{audio.suffix}' is no kind of sound file that can be written; use .wav")
    outputs = [path for path in (audio, times) if path is not None]
    for path in outputs:
        check_output(path, overwrite)
        for other in [other for other in read if other is not None]:
            if same_file(path, other) or same_file(beside(path), other):
                raise OverwriteError(f"{path}: is what is read ({other}); name another file")
    names = [(path, beside(path)) for path in outputs]
    if len(names) == 2 and any(same_file(one, other) for one in names[0] for other in names[1]):
        raise OverwriteError(f"{times}: --times and -o name one file; name another")


def check_output(path: Path, overwrite: bool):
    """Raise OverwriteError where a file cannot be made, or is there already and is not to be replaced."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise OverwriteError(f"{path}: a folder" if path.is_dir() else f"{path}: no such folder as {path.parent}")
        there = os.path.lexists(path)
        regular = not there or path.is_file() or path.is_symlink()
    except (OSError, ValueError) as error:
        raise OverwriteError(f"{ascii(str(path)[:200])}: no name of a file ({error})") from error
    if not regular:
        raise OverwriteError(f"{path}: is no ordinary file")
    check_free(path, overwrite)
