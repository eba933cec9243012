"""Latency of simultaneous translation, from what SimulEval logged. All times are milliseconds of source time.

What SimulEval 1.1.4 says of speech output, and what is done here instead:

- AL and LAAL on speech chunks set the *number of chunks* against the reference's words, which means little. Here they
  are taken on the **words of the translation**, by SimulEval's formula and with SimulEval's times of a text agent: a
  word is there when it is complete, that is, when the next word begins or the source ends.
- ATD, when scored from ``instances.log`` (SimulEval always does), takes speech for text and gives tokens no duration.
  Here it is the ATD of speech (300 ms tokens, arXiv 2211.13173), equal to SimulEval's scorer on live instances.
- RTF from the log ends at the last write; here, as on live instances, where the translated speech ends.
- Speech has no computation-aware times at all (``elapsed`` is logged empty), and for text they add up all computing so
  far as if none of it ran while the speaker went on. Here every push starts when its audio is there *and* the push
  before it is done, which is what a listener waits for. Such a time is never below the plain one.
"""

import json
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from statistics import mean

TOKEN_MS = 300  # ATD's length of a spoken token
TEXT_METRICS = ("AL", "LAAL")


class LatencyError(ValueError):
    """A log that cannot be scored; the message names the file and line."""


@dataclass(frozen=True)
class SpeechInstance:
    """One utterance of a speech-to-speech run.

    delays[i] is the source time at which chunk i was written, durations[i] how long it plays.
    """

    index: int
    source_ms: float
    delays: tuple[float, ...]
    durations: tuple[float, ...]
    reference: str = ""
    prediction: str = ""
    source: str = ""


@dataclass(frozen=True)
class TextInstance:
    """One utterance's written words: delays[i] is the source time at which word i was complete."""

    index: int
    source_ms: float
    words: tuple[str, ...]
    delays: tuple[float, ...]
    reference: str = ""


def read_speech_log(path) -> list[SpeechInstance]:
    """Read the ``instances.log`` of a speech-to-speech run, in order of index; a torn last line is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    instances = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            delays, durations = tuple(entry["delays"]), tuple(entry.get("durations", ()))
            if len(delays) != len(durations):
                counts = f"{len(delays)} delays but {len(durations)} durations"
                raise LatencyError(f"{path}:{number}: {counts}; not the log of a speech-to-speech run")
            instances[entry["index"]] = SpeechInstance(
                index=entry["index"],
                source_ms=entry["source_length"],
                delays=delays,
                durations=durations,
                reference=entry.get("reference") or "",
                prediction=entry.get("prediction", "") if delays else "",
                source=entry.get("source", ""),
            )
        except LatencyError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise LatencyError(f"{path}:{number}: not a line of SimulEval's instances.log ({error!r})") from error
    return [instances[index] for index in sorted(instances)]


def words_with_delays(pieces: list[tuple[float, str]], end_ms: float) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Words of a text that grew, each with the time at which it was complete: when the space after it was written, with
    which the next word begins, or at the end of the source, as a text agent of SimulEval writes words.

    pieces: (source ms, text) as written, spaces included; the text is their concatenation. end_ms: of the source.
    """
    words = written_words(pieces)
    delays = (end_ms if complete_ms is None else complete_ms for _, _, complete_ms in words)
    return tuple(word for word, _, _ in words), tuple(delays)


def written_words(pieces: list[tuple[float, str]]) -> list[tuple[str, float, float | None]]:
    """(word, source ms at which its last piece was written, source ms of the space after it) of a text that grew; None
    for the last word, whose end nothing shows."""
    times = [time for time, piece in pieces for _ in piece]
    text, words = "".join(piece for _, piece in pieces), []
    for is_space, run in groupby(range(len(text)), key=lambda position: text[position].isspace()):
        if not is_space:
            positions = list(run)
            first, last = positions[0], positions[-1]
            words.append((text[first : last + 1], times[last], times[last + 1] if last + 1 < len(times) else None))
    return words


def finish_times(arrivals: list[float], computing: list[float]) -> list[float]:
    """When each push was done: it starts when its audio has arrived and the push before it is done.

    arrivals: source time of each push's last sample; computing: ms spent on it. Never below the arrivals.
    """
    done, now = [], 0.0
    for arrival, spent in zip(arrivals, computing, strict=True):
        now = max(now, arrival) + max(spent, 0.0)
        done.append(now)
    return done


def computation_aware(delays, pushes: list[tuple[float, float]]) -> tuple[float, ...]:
    """Plain write times -> times at which a listener had them.

    pushes: (arrival ms, computing ms) of every push of the utterance, in order. A write at source time d happened
    in the last push that arrived at d (the final flush arrives together with the last audio).
    """
    arrivals = [arrival for arrival, _ in pushes]
    done = dict(zip(arrivals, finish_times(arrivals, [spent for _, spent in pushes]), strict=True))
    missing = sorted(set(delays) - set(done))
    if missing:
        raise LatencyError(f"writes at {missing[:3]} ms belong to no push; the log of pushes is from another run")
    return tuple(done[delay] for delay in delays)


def playback(delays, durations) -> list[tuple[float, float]]:
    """(start, end) of each chunk of speech: it plays when it is written and the chunk before it has ended."""
    intervals, end = [], 0.0
    for delay, duration in zip(delays, durations, strict=True):
        start = max(end, delay)
        end = start + duration
        intervals.append((start, end))
    return intervals


def average_token_delay(delays, durations, available=None) -> float:
    """ATD of speech-to-speech: how long after the matching 300 ms of source each 300 ms of target has been said.

    delays, durations: per chunk; available: when the chunk could be played (computation-aware), else its delay.
    """
    available = delays if available is None else available
    source_end, source_tokens, target = [0.0], [0], []  # token ends; tokens read by each chunk; (end, chunk) of tokens
    target_before, previous, now, chunk = [0], None, 0.0, 0
    for delay, group in groupby(zip(delays, durations, available, strict=True), key=lambda item: item[0]):
        items = list(group)
        chunk += 1
        lengths = _token_lengths(delay - (previous or 0.0))
        for length in lengths:
            source_end.append(source_end[-1] + length)
        source_tokens.append(source_tokens[-1] + len(lengths))
        spoken = _token_lengths(sum(duration for _, duration, _ in items))
        for length in spoken:
            now = max(now, items[0][2]) + length
            target.append((now, chunk))
        target_before.append(target_before[-1] + len(spoken))
        previous = delay
    lags = []
    for number, (end, chunk) in enumerate(target, 1):
        ahead = max(0, target_before[chunk - 1] - source_tokens[chunk - 1])
        lags.append(end - source_end[min(number - ahead, source_tokens[chunk])])
    return mean(lags)


def _token_lengths(duration_ms: float) -> list[float]:
    whole, rest = divmod(duration_ms, TOKEN_MS)
    return [TOKEN_MS] * int(whole) + ([rest] if rest else [])


def speech_metrics(instance: SpeechInstance, available=None) -> dict[str, float]:
    """StartOffset, EndOffset, ATD, RTF (end of the translation / source length) and silence between chunks, in ms."""
    available = instance.delays if available is None else available
    intervals = playback(available, instance.durations)
    gaps = (start - end for (_, end), (start, _) in zip(intervals, intervals[1:], strict=False))
    return {
        "StartOffset": available[0],
        "EndOffset": intervals[-1][1] - instance.source_ms,
        "ATD": average_token_delay(instance.delays, instance.durations, available),
        "RTF": intervals[-1][1] / instance.source_ms,
        "Discontinuity": sum(gaps),
    }


def text_metrics(instance: TextInstance, available=None) -> dict[str, float]:
    """AL and LAAL of the words, in ms, with the reference's length.

    The mean runs to the first word written when all of the source had been read. That word stays the same for
    computation-aware times (SimulEval moves it, and a slow system can then score a lower latency than a fast one).
    """
    delays = instance.delays
    available = delays if available is None else available
    reference_words = len(instance.reference.split()) or len(delays)
    cutoff = next((number for number, delay in enumerate(delays, 1) if delay >= instance.source_ms), len(delays))

    def lagging(words: int) -> float:
        return mean(time - number * instance.source_ms / words for number, time in enumerate(available[:cutoff]))

    return {"AL": lagging(reference_words), "LAAL": lagging(max(reference_words, len(delays)))}


def yaal(delays, source_ms: float, reference_words: int, end_ms: float | None = None) -> float | None:
    """YAAL of one utterance (P. Polák et al., arXiv 2509.17349): the mean lag behind an even translation of the words
    written before `end_ms`; None where there is none.

    delays: ms from the utterance's start; end_ms: the end of the source, or (LongYAAL, the utterance being a segment of
    a longer recording) that of the recording, from the segment's start."""
    end_ms = source_ms if end_ms is None else end_ms
    step_ms = source_ms / max(len(delays), reference_words, 1)
    counted = [delay - number * step_ms for number, delay in enumerate(takewhile(lambda d: d < end_ms, delays))]
    return mean(counted) if counted else None


def laal(delays, source_ms: float, reference_words: int) -> float | None:
    """LAAL of one utterance as StreamLAAL takes it of its segments (S. Papi et al., ACL 2024); None where there is no
    word. delays: ms from the segment's start."""
    if not delays or delays[0] > source_ms:
        return delays[0] if delays else None
    step_ms = source_ms / max(len(delays), reference_words)
    count = next((number for number, delay in enumerate(delays, 1) if delay >= source_ms), len(delays))
    return mean(delay - number * step_ms for number, delay in enumerate(delays[:count]))


def score_latency(
    speech: list[SpeechInstance], texts: list[TextInstance], pushes: dict | None = None
) -> dict[str, float]:
    """Means over the utterances that have output; ``_CA`` names are computation-aware, where `pushes` are known.

    pushes: utterance index -> [(arrival ms, computing ms), ...]. ``compute_RTF`` is computing / audio time, over all.
    """
    rows = {}
    for instances, metrics in ((speech, speech_metrics), (texts, text_metrics)):
        for instance in instances:
            if instance.delays:
                _add(rows, metrics(instance))
                if pushes is not None:
                    aware = computation_aware(instance.delays, pushes[instance.index])
                    _add(rows, {f"{name}_CA": value for name, value in metrics(instance, aware).items()})
    scores = {name: mean(values) for name, values in rows.items()}
    scores.pop("Discontinuity_CA", None)  # falls when computing delays everything; not a latency
    if pushes and speech:
        audio_ms = sum(instance.source_ms for instance in speech)
        scores["compute_RTF"] = sum(spent for i in speech for _, spent in pushes[i.index]) / max(audio_ms, 1e-9)
    return scores


def _add(rows: dict[str, list], values: dict[str, float]) -> None:
    for name, value in values.items():
        rows.setdefault(name, []).append(value)
