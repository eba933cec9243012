"""What a session said, written to files as it comes, so that hours need no more memory than a minute."""

import json
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText, as_record


def srt_time(milliseconds: float) -> str:
    """A time of a SubRip file: hours:minutes:seconds,milliseconds."""
    seconds, rest = divmod(round(milliseconds), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{rest:03d}"


class SpokenTrack:
    """Speech on a time line: a piece begins at its time, or when the piece before it ends; silence in the gaps."""

    def __init__(self, path: Path, sample_rate: int):
        self._file = soundfile.SoundFile(path, "w", sample_rate, channels=1)
        self.samples = 0

    def add(self, samples: np.ndarray, start_ms: float = 0.0):
        """samples: [n] float32 that can be heard from `start_ms` on."""
        gap = round(start_ms * self._file.samplerate / 1000) - self.samples
        while gap > 0:  # in pieces: the gap may be long
            self._put(np.zeros(min(gap, 65536), dtype=np.float32))
            gap -= 65536
        self._put(samples)

    def close(self):
        self._file.close()

    def _put(self, samples: np.ndarray):
        self._file.write(samples)
        self.samples += len(samples)


class ResultWriter:
    """The files of a translated recording, complete up to the newest event.

    events.jsonl; source.txt and translation.txt, a line for each sentence; source.srt and translation.srt, a cue for
    each sentence at its place in the source; speech.wav, the translation; heard.wav, the same on the source's time
    line. Use as a context manager."""

    def __init__(self, folder, speech_rate: int):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ("events.jsonl", "source.txt", "translation.txt", "source.srt", "translation.srt")
        self._files = {name: open(self.folder / name, "w", encoding="utf-8") for name in names}
        self._speech = SpokenTrack(self.folder / "speech.wav", speech_rate)
        self._heard = SpokenTrack(self.folder / "heard.wav", speech_rate)
        self._texts = {SourceText: "", TargetText: ""}
        self._first_ms = None  # where the first text of the open sentence was decided
        self._cues = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for file in (*self._files.values(), self._speech, self._heard):
            file.close()

    def add(self, events: list):
        """The next events of the session."""
        for event in events:
            self._files["events.jsonl"].write(json.dumps(as_record(event), ensure_ascii=False) + "\n")
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
        for file in self._files.values():
            file.flush()

    def _end_sentence(self, start_ms: float, end_ms: float):
        self._cues += 1
        for name, kind in (("source", SourceText), ("translation", TargetText)):
            text = self._texts[kind]
            self._files[f"{name}.txt"].write(text + "\n")
            if text:
                times = f"{srt_time(start_ms)} --> {srt_time(end_ms)}"
                self._files[f"{name}.srt"].write(f"{self._cues}\n{times}\n{text}\n\n")
        self._texts = {SourceText: "", TargetText: ""}
        self._first_ms = None
