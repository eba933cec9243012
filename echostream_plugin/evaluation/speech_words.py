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
from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.files import write_text
from echostream_plugin.inference.audio import at_rate
from echostream_plugin.inference.digest import digest
from echostream_plugin.inference.events import KINDS, Speech
from echostream_plugin.inference.guards import places_without_repeats

WORDS = "speech_words.json"
LONGEST_MS, SHORTEST_MS = 28_000, 10_000  # of a piece that the scoring ASR hears at once, where a silence allows it
AROUND_MS = 200  # of the silence before and after a piece
MOST_REPEATS = 3  # of up to eight words in a row: more is the scoring ASR's, not the speech's


def speech_words(results: Path, pushes: list[Push], asr) -> Words:
    """The words of a run's track. They are kept beside it, by its content and the ASR's settings."""
    chunks = [
        (push.source_ms, done_ms, record["duration_ms"])
        for push, done_ms in zip(pushes, _done(pushes), strict=True)
        for record in push.events
        if record["kind"] == KINDS[Speech] and record["duration_ms"]
    ]
    durations = [duration for *_, duration in chunks]
    plain = playback([said for said, *_ in chunks], durations)
    aware = playback([done for _, done, _ in chunks], durations)
    words = _transcribed(results, pieces(plain), asr)
    times = [end_ms for _, end_ms in words]
    return Words(tuple(word for word, _ in words), tuple(times), tuple(moved(time, plain, aware) for time in times))


def _done(pushes: list[Push]) -> list[float]:
    return finish_times([push.source_ms for push in pushes], [push.spent_ms for push in pushes])


def pieces(chunks: list[tuple]) -> list[list]:
    """The chunks that are heard at once: speech with the silences inside it, cut at the longest silence where it gets
    too long. chunks: (start, end) in ms, as of `latency.playback`."""
    found, piece = [], []
    for start, end in chunks:
        if piece and end - piece[0][0] > LONGEST_MS:
            cut = _longest_silence(piece, start)
            found.append(piece[:cut])
            piece = piece[cut:]
        piece.append((start, end))
    return [*found, piece] if piece else found


def _longest_silence(chunks: list[tuple], following_ms: float, shortest_ms: float = SHORTEST_MS) -> int:
    """After how many of the chunks the longest silence is, of those that leave a piece long enough. following_ms: where
    the chunk after them starts."""
    starts = [start for start, _ in chunks[1:]] + [following_ms]
    long_enough = [n for n in range(1, len(chunks) + 1) if chunks[n - 1][1] - chunks[0][0] >= shortest_ms]
    return max(long_enough or [len(chunks)], key=lambda n: starts[n - 1] - chunks[n - 1][1])


def moved(time_ms: float, plain: list[tuple], aware: list[tuple]) -> float:
    """A time of the track in which chunks play at `plain`, in one in which they play at `aware`."""
    chunk = max(0, bisect_right([start for start, _ in plain], time_ms) - 1)
    return aware[chunk][0] + time_ms - plain[chunk][0]


def _transcribed(results: Path, found: list[list], asr) -> list[tuple]:
    """(word, end in ms) of the track's pieces, in order."""
    track, kept = results / HEARD, results / WORDS
    key = f"{asr.settings} pieces of {LONGEST_MS} ms {digest(track)}"
    if kept.is_file():
        entry = json.loads(kept.read_text(encoding="utf-8"))
        if entry["key"] == key:
            return [tuple(word) for word in entry["words"]]
    words = []
    for piece, (low, high) in zip(_progress(found), widened(found), strict=True):
        words += _read(track, piece, low, high, asr)
    words.sort(key=lambda word: word[1])
    write_text(kept, json.dumps({"key": key, "words": words}, ensure_ascii=False) + "\n")
    return words


def _read(track: Path, piece: list, low_ms: float, high_ms: float, asr) -> list[tuple]:
    """(word, end in ms) of the track from `low_ms` to `high_ms`, where the chunks of a piece are. An ASR that begins to
    repeat itself hears nothing of what follows: then it hears the piece in two, a last one without the repeats."""
    heard = asr.words(_part(track, low_ms, high_ms))
    normal = [normalize(word) for word, *_ in heard]
    kept = places_without_repeats(normal, MOST_REPEATS)
    if len(kept) < len(heard) and len(piece) > 1:
        cut = _longest_silence(piece[:-1], piece[-1][0], 0)
        first, second = piece[:cut], piece[cut:]
        (_, end_ms), (start_ms, _) = widened([first, second])
        return _read(track, first, low_ms, end_ms, asr) + _read(track, second, start_ms, high_ms, asr)
    return [(heard[place][0], round(low_ms + 1000 * heard[place][2], 3)) for place in kept]


def widened(found: list[list]) -> list[tuple]:
    """(start, end) in ms of pieces with some of the silence around them, none of it in two."""
    ends = [(piece[0][0], piece[-1][1]) for piece in found]
    limits = [0.0, *((end + start) / 2 for (_, end), (start, _) in zip(ends, ends[1:], strict=False)), np.inf]
    pairs = zip(ends, limits, limits[1:], strict=False)
    return [(max(low, start - AROUND_MS), min(high, end + AROUND_MS)) for (start, end), low, high in pairs]


def _progress(found: list):
    from tqdm import tqdm

    return tqdm(found, desc="scoring ASR", unit="piece", leave=False, disable=None)


def _part(track: Path, start_ms: float, end_ms: float) -> np.ndarray:
    """[n] at 16 kHz, of the track."""
    with soundfile.SoundFile(track) as file:
        first, last = (round(time_ms * file.samplerate / 1000) for time_ms in (start_ms, end_ms))
        file.seek(min(first, file.frames))
        return at_rate(file.read(max(0, last - first), dtype="float32"), file.samplerate, SAMPLE_RATE)
