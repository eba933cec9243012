"""What keeps a session from babbling when its model does: the same tokens over and over, speech without an end."""

import numpy as np

LONGEST_RUN = 8  # tokens whose repetition is looked for
SLACK_MS = 2000.0  # that speech may last beyond its share of the source: a short word can have a long translation
FADE_SAMPLES = 160  # speech that is cut short ends softly


def repeats(tokens: list, times: int) -> bool:
    """Do the tokens end in a run of at most `LONGEST_RUN` tokens that comes more than `times` times in a row?"""
    for run in range(1, LONGEST_RUN + 1):
        tail = tokens[-run * (times + 1) :]
        if len(tail) == run * (times + 1) and tail[run:] == tail[:-run]:
            return True
    return False


def without_repeats(tokens: list, times: int) -> list:
    """The tokens without those that say a run once more after it came `times` times; 0: all. What is left of a longer
    list begins with what is left of a shorter one."""
    return [tokens[place] for place in places_without_repeats(tokens, times)]


def places_without_repeats(tokens: list, times: int) -> list:
    """Where the tokens of `without_repeats` are."""
    places = range(len(tokens))
    return [i for i in places if not times or not repeats(tokens[max(0, i - _span(times)) : i + 1], times)]


def until_repeat(written: list, proposed: list, times: int) -> int:
    """How many of the proposed tokens may follow the written ones until a run comes too often, as `without_repeats`."""
    if times:
        for count in range(len(proposed)):
            if repeats([*written, *proposed[: count + 1]][-_span(times) :], times):
                return count
    return len(proposed)


def _span(times: int) -> int:
    return LONGEST_RUN * (times + 1)


def within(samples: np.ndarray, said: int, rate: int, source_ms: float, factor: float) -> np.ndarray:
    """Of the next samples [n] those that may be said, faded out where they are cut.

    said: samples of the sentence that were said before; source_ms: of source that it has had; factor: speech may last
    so many times that, and `SLACK_MS`; 0: any length."""
    room = speech_room(said, rate, source_ms, factor)
    if room is None or len(samples) <= room:
        return samples
    kept = samples[:room].copy()
    faded = min(room, FADE_SAMPLES)
    kept[room - faded :] *= np.linspace(1.0, 0.0, faded, dtype=np.float32)
    return kept


def speech_room(said: int, rate: int, source_ms: float, factor: float) -> int | None:
    """How many samples may be said now, as of `within`; None: any number."""
    return max(0, int((factor * source_ms + SLACK_MS) * rate / 1000) - said) if factor else None
