"""The scoring ASR: whisper-base (``data.whisper_base``), which knows some hundred languages, transcribes translated
speech; `scores` compares the transcripts with references, numbers and contractions spelled out as in English."""

import hashlib
import json
from pathlib import Path

import numpy as np

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.data.whisper_base import whisper_folder
from echostream_plugin.files import json_lines
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.errors import InputError

SHORTEST_SAMPLES = SAMPLE_RATE // 20
SILENCE_PEAK = 1e-4


class ScoringASRError(RuntimeError):
    """The scoring ASR cannot be built or a recording cannot be read; the message names what and the fix."""


def samples_of(recording) -> np.ndarray:
    """float32 [n] at 16 kHz of a path, or of such samples. Raises ScoringASRError for a file that cannot be read."""
    if isinstance(recording, np.ndarray):
        return recording
    try:
        return read_mono(recording)
    except InputError as error:
        raise ScoringASRError(str(error)) from error


class ScoringASR:
    """whisper-base (int8, temperature 0), one thread by default so that several can run side by side.

    language: of the speech, a code such as `en`. Raises ScoringASRError for one that whisper does not know."""

    def __init__(self, beam_size: int = 5, threads: int = 1, compute_type: str = "int8", language: str = "en"):
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ScoringASRError(f"ASR-BLEU needs faster-whisper: pip install faster-whisper ({error})") from error
        self.language = language.split("-")[0].lower()
        named = "" if self.language == "en" else f" {self.language}"  # earlier caches hold English ones
        self.settings = f"whisper-base {compute_type} beam {beam_size}{named}"
        self.beam_size = beam_size
        try:
            folder = str(whisper_folder())
        except ConfigError as error:
            raise ScoringASRError(f"the scoring ASR: {error}") from error
        self.model = WhisperModel(folder, device="cpu", compute_type=compute_type, cpu_threads=threads)
        if self.language not in self.model.supported_languages:
            raise ScoringASRError(f"whisper-base does not know the language '{language}'; evaluate without ASR-BLEU")

    def transcribe(self, recording) -> str:
        """What is said in a path or in float32 samples [n] at 16 kHz. Silence, or under 50 ms, says nothing."""
        samples = np.nan_to_num(np.asarray(samples_of(recording), dtype=np.float32).reshape(-1))
        if len(samples) < SHORTEST_SAMPLES or np.abs(samples).max() < SILENCE_PEAK:
            return ""
        segments = self._segments(samples, without_timestamps=len(samples) <= 30 * SAMPLE_RATE)
        return " ".join(segment.text.strip() for segment in segments).strip()

    def words(self, samples: np.ndarray) -> list[tuple[str, float, float]]:
        """(word, start, end) in seconds of what is said in samples [n] at 16 kHz, by Whisper's own alignment."""
        if len(samples) < SHORTEST_SAMPLES or np.abs(samples).max() < SILENCE_PEAK:
            return []
        found = [word for segment in self._segments(samples, word_timestamps=True) for word in segment.words]
        words = [(word.word.strip(), float(word.start), float(word.end)) for word in found]
        return [word for word in words if word[0]]

    def _segments(self, samples: np.ndarray, **more):
        options = {"language": self.language, "beam_size": self.beam_size, "temperature": 0.0}
        return self.model.transcribe(samples, **options, condition_on_previous_text=False, **more)[0]

    def transcribe_all(self, recordings, cache=None, progress: str | None = "scoring ASR") -> list[str]:
        """Transcripts of many recordings, in order; None is a recording that does not exist and says "".

        cache: a jsonl file that keeps every transcript under the samples' hash, so that an interrupted run goes on.
        progress: label of the progress bar, None for none.
        """
        from tqdm import tqdm

        known = TranscriptCache(cache, self.settings)
        transcripts = []
        for recording in tqdm(list(recordings), desc=progress, unit="wav", disable=progress is None):
            if recording is None:
                transcripts.append("")
                continue
            samples = samples_of(recording)
            text = known.get(samples)
            if text is None:
                text = self.transcribe(samples)
                known.put(samples, text, "" if recording is samples else str(recording))
            transcripts.append(text)
        return transcripts


class TranscriptCache:
    """Transcripts by the hash of samples and the ASR's settings, in a jsonl file (memory only if `path` is None)."""

    def __init__(self, path, settings: str):
        self.path = None if path is None else Path(path)
        self.settings = settings
        entries = [] if self.path is None else json_lines(self.path, mend=True)
        self.texts = {entry["key"]: entry["text"] for entry in entries if {"key", "text"} <= entry.keys()}

    def get(self, samples: np.ndarray) -> str | None:
        """The transcript of samples [n], None where it is not known."""
        return self.texts.get(self._key(samples))

    def put(self, samples: np.ndarray, text: str, name: str) -> None:
        """Keep a transcript of samples [n]; name: of the recording, for people."""
        key = self._key(samples)
        self.texts[key] = text
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as log:
                log.write(json.dumps({"key": key, "wav": name, "text": text}, ensure_ascii=False) + "\n")

    def _key(self, samples: np.ndarray) -> str:
        content = np.ascontiguousarray(samples, dtype=np.float32).tobytes()
        return hashlib.sha1(self.settings.encode() + content).hexdigest()
