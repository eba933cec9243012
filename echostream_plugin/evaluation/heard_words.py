"""The words of translated speech as a listener hears them, with the times at which each has been said: those of the
scoring ASR on the translation's track."""

import json
from bisect import bisect_right
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation.latency import finish_times, playback
from echostream_plugin.evaluation.long_run import HEARD, Push
from echostream_plugin.evaluation.longform import Words
from echostream_plugin.files import write_text
from echostream_plugin.inference.audio import at_rate
from echostream_plugin.inference.digest import digest
from echostream_plugin.inference.events import KINDS, Speech

WORDS = "heard_words.json"
LONGEST_MS, SHORTEST_MS = 28_000, 10_000  # of a piece that the scoring ASR hears at once, where a silence allows it
AROUND_MS = 200  # of the silence before and after a piece


def heard_words(results: Path, pushes: list[Push], judge) -> Words:
    """The words of a run's track. They are kept beside it, by its content and the judge's settings."""
    chunks = [
        (push.source_ms, done_ms, record["duration_ms"])
        for push, done_ms in zip(pushes, _done(pushes), strict=True)
        for record in push.events
        if record["kind"] == KINDS[Speech] and record["duration_ms"]
    ]
    durations = [duration for *_, duration in chunks]
    plain = playback([said for said, *_ in chunks], durations)
    aware = playback([done for _, done, _ in chunks], durations)
    words = _transcribed(results, pieces(plain), judge)
    times = [end_ms for _, end_ms in words]
    return Words(tuple(word for word, _ in words), tuple(times), tuple(moved(time, plain, aware) for time in times))


def _done(pushes: list[Push]) -> list[float]:
    return finish_times([push.source_ms for push in pushes], [push.spent_ms for push in pushes])


def pieces(intervals: list[tuple]) -> list[tuple]:
    """(start, end) in ms of what is heard at once: speech with the silences inside it, cut at the longest silence where
    it gets too long. intervals: as of `latency.playback`."""
    found, open_chunks = [], []
    for start, end in intervals:
        if open_chunks and end - open_chunks[0][0] > LONGEST_MS:
            cut = _longest_silence(open_chunks, start)
            found.append((open_chunks[0][0], open_chunks[cut - 1][1]))
            open_chunks = open_chunks[cut:]
        open_chunks.append((start, end))
    return [*found, (open_chunks[0][0], open_chunks[-1][1])] if open_chunks else found


def _longest_silence(chunks: list[tuple], following_ms: float) -> int:
    """After how many of the chunks the longest silence is, of those that leave a piece long enough."""
    starts = [start for start, _ in chunks[1:]] + [following_ms]
    long_enough = [n for n in range(1, len(chunks) + 1) if chunks[n - 1][1] - chunks[0][0] >= SHORTEST_MS]
    return max(long_enough or [len(chunks)], key=lambda n: starts[n - 1] - chunks[n - 1][1])


def moved(time_ms: float, plain: list[tuple], aware: list[tuple]) -> float:
    """A time of the track in which chunks play at `plain`, in one in which they play at `aware`."""
    chunk = max(0, bisect_right([start for start, _ in plain], time_ms) - 1)
    return aware[chunk][0] + time_ms - plain[chunk][0]


def _transcribed(results: Path, places: list[tuple], judge) -> list[tuple]:
    """(word, end in ms) of the track, in order."""
    track, kept = results / HEARD, results / WORDS
    key = f"{judge.settings} {digest(track)}"
    if kept.is_file():
        entry = json.loads(kept.read_text(encoding="utf-8"))
        if entry["key"] == key:
            return [tuple(word) for word in entry["words"]]
    words = []
    for start_ms, end_ms in _progress(widened(places)):
        samples = _part(track, start_ms, end_ms)
        words += [(word, round(start_ms + 1000 * end_s, 3)) for word, _, end_s in judge.words(samples)]
    words.sort(key=lambda word: word[1])
    write_text(kept, json.dumps({"key": key, "words": words}, ensure_ascii=False) + "\n")
    return words


def widened(places: list[tuple]) -> list[tuple]:
    """Pieces with some of the silence around them, none of it in two."""
    limits = [0.0, *((end + start) / 2 for (_, end), (start, _) in zip(places, places[1:], strict=False)), np.inf]
    pairs = zip(places, limits, limits[1:], strict=False)
    return [(max(low, start - AROUND_MS), min(high, end + AROUND_MS)) for (start, end), low, high in pairs]


def _progress(places: list):
    from tqdm import tqdm

    return tqdm(places, desc="scoring ASR", unit="piece", leave=False, disable=None)


def _part(track: Path, start_ms: float, end_ms: float) -> np.ndarray:
    """[n] at 16 kHz, of the track."""
    with soundfile.SoundFile(track) as file:
        first, last = (round(time_ms * file.samplerate / 1000) for time_ms in (start_ms, end_ms))
        file.seek(min(first, file.frames))
        return at_rate(file.read(max(0, last - first), dtype="float32"), file.samplerate, SAMPLE_RATE)
