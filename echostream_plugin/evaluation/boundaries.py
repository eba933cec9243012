"""How well a session's end-pointer finds the sentences of a stream: recordings in a row with silences of known places
between them."""

from dataclasses import dataclass

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.events import Sentence, TargetText
from echostream_plugin.inference.session import TranslationSession

TOLERANCE_MS = 500.0
QUIET_PART = 1e-3  # of a recording's peak: what is below it at its ends is silence


@dataclass(frozen=True)
class SpokenStream:
    """samples: [n] float32 at 16 kHz; silences: (start, end) in ms of the pauses between two recordings."""

    samples: np.ndarray
    silences: tuple

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Boundaries:
    """What an end-pointer did with the silences of a stream. found: a sentence ended there; extra: sentences that ended
    elsewhere, or once more in the same silence; delays: ms from the start of a silence to the event."""

    silences: int
    found: int
    extra: int
    delays_ms: tuple


def speech_part(samples: np.ndarray) -> np.ndarray:
    """A recording [n] without the silence at its ends."""
    loud = np.flatnonzero(np.abs(samples) > QUIET_PART * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]


def spoken_stream(recordings: list, gaps_ms: tuple, generator, noise_db: float | None = None) -> SpokenStream:
    """Recordings [n] at 16 kHz in a row, with a silence of gaps_ms = (least, most) after each.

    noise_db: add white noise so far below the mean power of the speech."""
    pieces, silences, length = [], [], 0
    for recording in map(speech_part, recordings):
        gap = round(generator.uniform(*gaps_ms) * SAMPLE_RATE / 1000)
        pieces += [recording, np.zeros(gap, dtype=np.float32)]
        length += len(recording)
        silences.append((1000 * length / SAMPLE_RATE, 1000 * (length + gap) / SAMPLE_RATE))
        length += gap
    samples = np.concatenate(pieces)
    if noise_db is not None:
        power = np.mean(np.concatenate(pieces[::2]) ** 2) / 10 ** (noise_db / 10)
        samples = samples + np.sqrt(power) * generator.standard_normal(len(samples))
    return SpokenStream(samples.astype(np.float32), tuple(silences))


def listen(session: TranslationSession, stream: SpokenStream, push_ms: int) -> tuple[list, str]:
    """Push a stream. Returns the ends of sentences before the end of the stream as (place, decided, said): in ms, said
    False where nothing was heard in it; and the translation."""
    session.reset()
    step, ends, words, place = SAMPLE_RATE * push_ms // 1000, [], [], 0.0
    for start in range(0, len(stream.samples), step):
        events = session.push(stream.samples[start : start + step], SAMPLE_RATE)
        said = any(isinstance(event, Sentence) for event in events)
        if session.sentence_start_ms != place:
            place = session.sentence_start_ms
            ends.append((place, session.source_ms, said))
        for event in events:
            words += [event.added] if isinstance(event, TargetText) else [" "] * isinstance(event, Sentence)
    words += [event.added for event in session.finish() if isinstance(event, TargetText)]
    return ends, " ".join("".join(words).split())


def score(ends: list, silences: tuple, tolerance_ms: float = TOLERANCE_MS, early_ms: float = 0.0) -> Boundaries:
    """ends: as of `listen`; a silence is found where a sentence ends in it, or up to `tolerance_ms` after it, or up to
    `early_ms` before it, which is for streams without silences.
    The silence at the end of the stream is the end of the stream, whether it is found or not."""
    delays, extra, taken = [], 0, set()
    for place, decided, said in ends:
        near = [i for i, (start, end) in enumerate(silences) if start - early_ms <= place <= end + tolerance_ms]
        index = next((i for i in near if i not in taken), near[0] if near else None)
        if index is None or (said and index in taken):
            extra += 1
        elif index not in taken:
            taken.add(index)
            if index < len(silences) - 1:
                delays.append(decided - silences[index][0])
    return Boundaries(len(silences) - 1, len(delays), extra, tuple(delays))
