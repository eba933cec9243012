"""What a session said, written to files as it comes, so that hours need no more memory than a minute.

`ResultWriter.position` says how far the files are; a writer that begins at a position cuts off what came after it, so
that a run that was killed goes on as if it had not been.
"""

import json
import os
import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from echostream_plugin.inference.errors import ResumeError
from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, Speech, TargetText, as_record
from echostream_plugin.inference.marking import with_opening_marks
from echostream_plugin.inference.subtitles import VTT_HEADER, cues, srt_cue, srt_time, vtt_cue

TEXT_FILES = (
    *("events.jsonl", "source.txt", "translation.txt", "source.srt", "translation.srt", "source.vtt"),
    *("translation.vtt", "words.json"),
)
RESULT_FILES = (*TEXT_FILES, "speech.wav", "heard.wav", "revised.wav")
WAV_HEADER_BYTES = 44
MAX_WAV_BYTES = 2**32 - 1  # what its header can say; beyond it players read to the end of the file

__all__ = ["RESULT_FILES", "ResultWriter", "SpokenTrack", "WordList", "srt_time", "wav_header"]


def wav_header(samples: int, sample_rate: int) -> bytes:
    """The header of a wav file of so many 16-bit samples, one channel."""
    data = min(2 * samples, MAX_WAV_BYTES - WAV_HEADER_BYTES)
    riff = struct.pack("<4sI4s", b"RIFF", data + WAV_HEADER_BYTES - 8, b"WAVE")
    return riff + struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16, b"data", data)


def open_at(path: Path, size: int | None):
    """Open a file of bytes to write on: anew (size None), or after its first `size` bytes, the rest cut off.

    A new file takes the place of an old one: what links to that, or it to, stays as it is."""
    if size is None:
        path.unlink(missing_ok=True)
        return open(path, "xb")
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
        """The file is complete."""
        with self._file:
            self.sync()

    def _put(self, samples: np.ndarray):
        self._file.write(np.rint(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes())
        self.samples += len(samples)


class WordList:
    """A json array of objects, one a line, that is complete whenever `flush` was called."""

    def __init__(self, file):
        """file: of bytes, where the next object is to stand; at 0 it is a new one."""
        self._file = file
        self._at = file.tell() or file.write(b"[")

    def add(self, record: dict):
        """The next object."""
        line = ("," if self._at > 1 else "") + "\n" + json.dumps(record, ensure_ascii=False)
        self._file.seek(self._at)
        self._at += self._file.write(line.encode("utf-8"))

    def tell(self) -> int:
        """Where the next object is to stand."""
        return self._at

    def flush(self):
        """What was added so far is a whole json list in the file."""
        self._file.seek(self._at)
        self._file.write(b"\n]\n")
        self._file.flush()

    def close(self):
        """The list is complete."""
        with self._file:
            self.flush()


class ResultWriter:
    """The files of a translated recording, complete up to the newest event.

    events.jsonl; source.txt and translation.txt, a line for each sentence; source.srt and translation.srt, subtitles of
    each sentence at its place in the source, the same as .vtt; words.json: where each word of a complete sentence lies
    in the source and after how much of the source it was written; speech.wav, the translation; heard.wav, the same on
    the source's time line. Use as a context manager.

    A sentence that is revised has the revised texts in its lines and subtitles; words.json lists what was written live.
    Lines and subtitles are final, so they have what a live text cannot have (`with_opening_marks`).
    With `revised` there is revised.wav too, the revised sentences on the source's time line."""

    def __init__(
        self,
        folder,
        speech_rate: int,
        position: dict | None = None,
        revised: bool = False,
        languages: dict | None = None,
    ):
        """position: go on where an earlier writer in this folder was; what its files hold beyond that is dropped;
        revised: the session speaks its revisions; languages: of 'source' and 'translation' texts with marks."""
        self._languages = languages or {}
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        told = position or {"bytes": {}, "sentence": _begun()}
        self._open = ExitStack()
        with ExitStack() as opened:  # what is open is closed again where the next cannot be opened
            self._files = {}
            for name in TEXT_FILES:
                file = opened.enter_context(open_at(self.folder / name, told["bytes"].get(name)))
                self._files[name] = WordList(file) if name == "words.json" else file
            self._speech = SpokenTrack(self.folder / "speech.wav", speech_rate, told.get("speech"))
            opened.callback(self._speech.close)
            self._heard = SpokenTrack(self.folder / "heard.wav", speech_rate, told.get("heard"))
            opened.callback(self._heard.close)
            self._revised = None
            if revised:
                self._revised = SpokenTrack(self.folder / "revised.wav", speech_rate, told.get("revised"))
            opened.pop_all()
        self._tracks = [track for track in (self._speech, self._heard, self._revised) if track is not None]
        for file in (*self._files.values(), *self._tracks):
            self._open.callback(file.close)
        self._sentence = json.loads(json.dumps(told["sentence"]))
        if position is None:
            self._put("source.vtt", VTT_HEADER)
            self._put("translation.vtt", VTT_HEADER)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._open.close()

    @property
    def position(self) -> dict:
        """How far the files are after the newest `add`: plain values, for `__init__`."""
        return {
            "bytes": {name: file.tell() for name, file in self._files.items()},
            "speech": self._speech.samples,
            "heard": self._heard.samples,
            "revised": None if self._revised is None else self._revised.samples,
            "sentence": json.loads(json.dumps(self._sentence)),
        }

    def add(self, events: list):
        """The next events of the session; a sentence and its revision come together."""
        for event, following in zip(events, [*events[1:], None], strict=False):
            self._put("events.jsonl", json.dumps(as_record(event), ensure_ascii=False) + "\n")
            if isinstance(event, SourceText | TargetText):
                self._take_text(event)
            elif isinstance(event, Speech) and len(event.samples):
                self._speech.add(event.samples)
                self._heard.add(event.samples, event.source_ms)
            elif isinstance(event, Sentence):
                self._take_revision(following)
                self._end_sentence(event.start_ms, event.end_ms)
            elif isinstance(event, Revision):
                self._take_revision(event)
                if self._revised is not None:
                    self._revised.add(event.samples, event.start_ms)
            elif isinstance(event, Finished):
                self._finish(event)
        if events:
            for file in self._files.values():
                file.flush()
            for track in self._tracks:
                track.sync()

    def move_to(self, folder: Path):
        """The files are complete and closed: they take the places of those of their names in another folder."""
        for name in RESULT_FILES:
            if (self.folder / name).exists():
                os.replace(self.folder / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)  # an earlier run's
        self.folder = folder

    def _put(self, name: str, text: str):
        self._files[name].write(text.encode("utf-8"))

    def _take_text(self, event: SourceText | TargetText):
        sentence, side = self._sentence, "source" if isinstance(event, SourceText) else "translation"
        if sentence["first_ms"] is None:
            sentence["first_ms"] = event.source_ms
        written, words = sentence["written_ms"][side], event.text.split()
        if not (sentence[side][-1:].isspace() or event.added[:1].isspace()):
            del written[-1:]  # the last word was not yet all of it
        written[len(words) :] = []
        written += [event.source_ms] * (len(words) - len(written))
        sentence[side] = event.text
        if side == "source":
            sentence["times_ms"] = [list(times) for times in event.times_ms]

    def _take_revision(self, event):
        """The texts of the open sentence's revision, which may come before `Finished` alone; anything else is none."""
        if isinstance(event, Revision) and event.index == self._sentence["count"]:
            self._sentence["revised"] = {"source": event.source_text, "translation": event.target_text}

    def _finish(self, event: Finished):
        """The last sentence, where no `Sentence` ended it; there is always one line."""
        if self._sentence["count"] == 0 or self._sentence["source"] or self._sentence["translation"]:
            self._end_sentence(self._sentence["first_ms"] or 0.0, event.source_ms)

    def _end_sentence(self, start_ms: float, end_ms: float):
        sentence = self._sentence
        for side in ("source", "translation"):
            text = sentence["revised"].get(side, sentence[side])
            text = with_opening_marks(text, self._languages.get(side, ""))
            self._put(f"{side}.txt", text + "\n")
            for start, end, lines in cues(text, start_ms, end_ms, sentence["shown_ms"][side]):
                sentence["cues"][side] += 1
                sentence["shown_ms"][side] = end
                self._put(f"{side}.srt", srt_cue(sentence["cues"][side], start, end, lines))
                self._put(f"{side}.vtt", vtt_cue(sentence["cues"][side], start, end, lines))
        self._list_words()
        kept = {name: sentence[name] for name in ("cues", "shown_ms")}
        self._sentence = {**_begun(), **kept, "count": sentence["count"] + 1}

    def _list_words(self):
        sentence = self._sentence
        times = sentence["times_ms"] if len(sentence["times_ms"]) == len(sentence["source"].split()) else []
        for side in ("source", "translation"):
            written = sentence["written_ms"][side]
            for number, (word, written_ms) in enumerate(zip(sentence[side].split(), written, strict=True)):
                record = {"side": side, "sentence": sentence["count"], "word": word}
                if side == "source" and times:
                    record["start_ms"], record["end_ms"] = times[number]
                self._files["words.json"].add({**record, "written_ms": written_ms})


def _begun() -> dict:
    """Of the sentence that is open: its texts, and for each word when it was written; count: sentences before it;
    cues, shown_ms: of each side's subtitles, how many and until when."""
    sides = ("source", "translation")
    return {
        **dict.fromkeys(sides, ""),
        "count": 0,
        "revised": {},  # texts that take the place of those
        "first_ms": None,  # where its first text was decided
        "times_ms": [],
        "written_ms": {side: [] for side in sides},
        "cues": dict.fromkeys(sides, 0),
        "shown_ms": dict.fromkeys(sides, 0.0),
    }
