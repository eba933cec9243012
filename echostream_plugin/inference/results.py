"""What a session said, written to files as it comes, so that hours need no more memory than a minute.

`ResultWriter.position` says how far the files are; a writer that begins at a position cuts off what came after it, so
that a run that was killed goes on as if it had not been.
"""

import json
import os
import struct
from pathlib import Path

import numpy as np

from echostream_plugin.inference.errors import ResumeError
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText, as_record

TEXT_FILES = ("events.jsonl", "source.txt", "translation.txt", "source.srt", "translation.srt")
WAV_HEADER_BYTES = 44
MAX_WAV_BYTES = 2**32 - 1  # what its header can say; beyond it players read to the end of the file


def srt_time(milliseconds: float) -> str:
    """A time of a SubRip file: hours:minutes:seconds,milliseconds."""
    seconds, rest = divmod(round(milliseconds), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{rest:03d}"


def wav_header(samples: int, sample_rate: int) -> bytes:
    """The header of a wav file of so many 16-bit samples, one channel."""
    data = min(2 * samples, MAX_WAV_BYTES - WAV_HEADER_BYTES)
    riff = struct.pack("<4sI4s", b"RIFF", data + WAV_HEADER_BYTES - 8, b"WAVE")
    return riff + struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", data)


def open_at(path: Path, size: int | None):
    """Open a file of bytes to write on: anew (size None), or after its first `size` bytes, the rest cut off."""
    if size is None:
        return open(path, "wb")
    if not path.is_file() or path.stat().st_size < size:
        raise ResumeError(f"{path}: shorter than when the unfinished run last noted it; begin anew with --restart")
    os.truncate(path, size)
    file = open(path, "r+b")
    file.seek(size)
    return file


class SpokenTrack:
    """Speech on a time line: a piece begins at its time, or when the piece before it ends; silence in the gaps.

    A 16-bit wav file that can be played whenever `sync` was called."""

    def __init__(self, path: Path, sample_rate: int, samples: int | None = None):
        """samples: go on after so many of an earlier writer's; None: a new file."""
        self._file = open_at(path, None if samples is None else WAV_HEADER_BYTES + 2 * samples)
        self.sample_rate = sample_rate
        self.samples = samples or 0
        self.sync()

    def add(self, samples: np.ndarray, start_ms: float = 0.0):
        """samples: [n] float32 that can be heard from `start_ms` on."""
        gap = round(start_ms * self.sample_rate / 1000) - self.samples
        while gap > 0:  # in pieces: the gap may be long
            self._put(np.zeros(min(gap, 65536), dtype=np.float32))
            gap -= 65536
        self._put(samples)

    def sync(self):
        """Let the header say how long the file is, and hand everything to the operating system."""
        self._file.seek(0)
        self._file.write(wav_header(self.samples, self.sample_rate))
        self._file.seek(0, os.SEEK_END)
        self._file.flush()

    def close(self):
        self.sync()
        self._file.close()

    def _put(self, samples: np.ndarray):
        self._file.write(np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
        self.samples += len(samples)


class ResultWriter:
    """The files of a translated recording, complete up to the newest event.

    events.jsonl; source.txt and translation.txt, a line for each sentence; source.srt and translation.srt, a cue for
    each sentence at its place in the source; speech.wav, the translation; heard.wav, the same on the source's time
    line. Use as a context manager."""

    def __init__(self, folder, speech_rate: int, position: dict | None = None):
        """position: go on where an earlier writer in this folder was; what its files hold beyond that is dropped."""
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        told = position or {"bytes": {}, "source": "", "target": "", "first_ms": None, "cues": 0}
        self._files = {name: open_at(self.folder / name, told["bytes"].get(name)) for name in TEXT_FILES}
        self._speech = SpokenTrack(self.folder / "speech.wav", speech_rate, told.get("speech"))
        self._heard = SpokenTrack(self.folder / "heard.wav", speech_rate, told.get("heard"))
        self._texts = {SourceText: told["source"], TargetText: told["target"]}
        self._first_ms = told["first_ms"]  # where the first text of the open sentence was decided
        self._cues = told["cues"]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for file in (*self._files.values(), self._speech, self._heard):
            file.close()

    @property
    def position(self) -> dict:
        """How far the files are after the newest `add`: plain values, for `__init__`."""
        return {
            "bytes": {name: file.tell() for name, file in self._files.items()},
            "speech": self._speech.samples,
            "heard": self._heard.samples,
            "source": self._texts[SourceText],
            "target": self._texts[TargetText],
            "first_ms": self._first_ms,
            "cues": self._cues,
        }

    def add(self, events: list):
        """The next events of the session."""
        for event in events:
            self._put("events.jsonl", json.dumps(as_record(event), ensure_ascii=False) + "\n")
            if isinstance(event, SourceText | TargetText):
                self._texts[type(event)] = event.text
                self._first_ms = event.source_ms if self._first_ms is None else self._first_ms
            elif isinstance(event, Speech) and len(event.samples):
                self._speech.add(event.samples)
                self._heard.add(event.samples, event.source_ms)
            elif isinstance(event, Sentence):
                self._end_sentence(event.start_ms, event.end_ms)
            elif isinstance(event, Finished) and (self._cues == 0 or any(self._texts.values())):
                self._end_sentence(self._first_ms or 0.0, event.source_ms)
        if events:
            for file in self._files.values():
                file.flush()
            self._speech.sync()
            self._heard.sync()

    def _put(self, name: str, text: str):
        self._files[name].write(text.encode("utf-8"))

    def _end_sentence(self, start_ms: float, end_ms: float):
        self._cues += 1
        for name, kind in (("source", SourceText), ("translation", TargetText)):
            text = self._texts[kind]
            self._put(f"{name}.txt", text + "\n")
            if text:
                times = f"{srt_time(start_ms)} --> {srt_time(end_ms)}"
                self._put(f"{name}.srt", f"{self._cues}\n{times}\n{text}\n\n")
        self._texts = {SourceText: "", TargetText: ""}
        self._first_ms = None
