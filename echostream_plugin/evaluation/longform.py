"""Long translations scored as the field scores them: words are given to the sentences of a segmentation first, then
BLEU, chrF, StreamLAAL and LongYAAL are taken of these; where sentences were ended; what changes in the course of an
hour."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from echostream_plugin.evaluation.boundaries import Boundaries, score
from echostream_plugin.evaluation.intervals import CorpusBleu, CorpusChrf, Interval, bootstrap, share
from echostream_plugin.evaluation.intervals import mean as of_values
from echostream_plugin.evaluation.latency import computation_aware, laal, words_with_delays, yaal
from echostream_plugin.evaluation.long_recordings import Segment, write_segmentation
from echostream_plugin.evaluation.long_run import Push
from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.evaluation.resegmentation import SegmentationError, mwer_segments, soft_segments
from echostream_plugin.files import write_text
from echostream_plugin.inference.events import KINDS, Revision, Sentence, TargetText

EARLY_MS, TOLERANCE_MS = 300.0, 500.0  # how far before and after the silence an end of a sentence is found
SCORED = "scored"  # folder of what other programs score, beside a run's results
LOG = "instances.log"
TENTH = 0.1
QUALITY = {
    "recording": "recording",
    "policy": "policy",
    "output": "output",
    "bleu": "BLEU",
    "revised_bleu": "revised BLEU",
    "chrf": "chrF",
    "found": "ends found %",
    "extra": "false ends",
    "found_after": "found after ms",
    "stream_laal": "StreamLAAL ms",
    "stream_laal_ca": "StreamLAAL CA",
    "long_yaal": "LongYAAL ms",
    "long_yaal_ca": "LongYAAL CA",
    "end_offset": "EndOffset ms",
}
COURSE = {
    "recording": "recording",
    "policy": "policy",
    "output": "output",
    "minutes": "minutes",
    "lag_first": "lag ms, first tenth",
    "lag_last": "lag ms, last tenth",
    "lag_ca_first": "lag CA, first tenth",
    "lag_ca_last": "lag CA, last tenth",
    "step_first": "ms a push, first tenth",
    "step_last": "ms a push, last tenth",
    "memory_first": "MB, first tenth",
    "memory_last": "MB, last tenth",
}
LEGEND = (
    "Words are given to the reference's sentences by OmniSTEval's aligner, for StreamLAAL by mweralign. BLEU and chrF: "
    "case and punctuation aside; revised: of the sentences' revisions. A sentence's end is found where a sentence was "
    f"ended in the silence after it, up to {EARLY_MS:.0f} ms before or {TOLERANCE_MS:.0f} ms after that; every other "
    "is false; found after: from the end of the speech to the event, median. A word's delay is the source time at "
    "which it was complete, of speech that at which it has been heard; CA: when a listener has it on one thread of "
    "this machine. EndOffset and lag: from a sentence's end to the end of its translation. Intervals: 95 %, sentences "
    "resampled. MB: the most that the process held."
)


@dataclass(frozen=True)
class Words:
    """A translation as it came: its words, and when each was there, in ms of the source, without and with computing."""

    words: tuple
    delays: tuple
    delays_ca: tuple


def written(pushes: list[Push]) -> Words:
    """The words of the live text."""
    pieces, end_ms = [], pushes[-1].source_ms
    for push in pushes:
        for record in push.events:
            if record["kind"] == KINDS[TargetText]:
                pieces.append((push.source_ms, record["added"]))
            elif record["kind"] == KINDS[Sentence]:  # what follows is the next one's
                pieces.append((push.source_ms, " "))
    words, delays = words_with_delays(pieces, end_ms)
    return Words(words, delays, computation_aware(delays, [(push.source_ms, push.spent_ms) for push in pushes]))


def revised(pushes: list[Push]) -> list[str]:
    """The words of the revised sentences, case and marks aside; none where nothing was revised."""
    records = [record for push in pushes for record in push.events if record["kind"] == KINDS[Revision]]
    return [word for record in records for word in normalize(record["target_text"]).split()]


def score_words(output: Words, segments: list[Segment]) -> dict:
    """What a translation is worth, and how late it is."""
    references = [segment.reference for segment in segments]
    parts = _parts(soft_segments(output.words, references), len(segments))
    texts, count = [" ".join(output.words[place] for place in part) for part in parts], len(segments)
    row = {"bleu": bootstrap(count, CorpusBleu(texts, references))}
    row["chrf"] = bootstrap(count, CorpusChrf(texts, references))
    for name, delays in (("", output.delays), ("_ca", output.delays_ca)):
        row[f"long_yaal{name}"] = _mean(_long_yaal(parts, delays, segments))
        offsets = _end_offsets(parts, delays, segments)
        row |= _first_and_last(f"lag{name}", offsets, segments)
        if not name:
            row["end_offset"] = _mean(offsets)
    return row | _stream_laal(output, segments)


def _long_yaal(parts: list, delays, segments: list[Segment]) -> list:
    """Of each segment; words that come after it count, those at the end of the recording do not."""
    last_ms = max(segment.end_ms for segment in segments)
    return [
        yaal(_from_start(delays, part, segment), segment.duration_ms, _length(segment), last_ms - segment.start_ms)
        for part, segment in zip(parts, segments, strict=True)
    ]


def _parts(owners: list, count: int) -> list[list[int]]:
    """The places of the words of each of `count` segments; owners: the segment of each word, or None."""
    parts = [[] for _ in range(count)]
    for place, owner in enumerate(owners):
        if owner is not None:
            parts[owner].append(place)
    return parts


def _length(segment: Segment) -> int:
    """Words of the reference as OmniSTEval and simulstream count them."""
    return len(segment.reference.strip().split(" "))


def _from_start(delays, places, segment: Segment) -> list:
    return [delays[place] - segment.start_ms for place in places]


def _mean(values: list) -> Interval | None:
    """Of those that are there, with its interval."""
    values = [value for value in values if value is not None]
    return bootstrap(len(values), of_values(values)) if values else None


def _end_offsets(parts: list, delays, segments: list[Segment]) -> list:
    """For each sentence how long after its end its translation ended; None where it has none."""
    pairs = zip(parts, segments, strict=True)
    return [max(delays[place] for place in part) - segment.end_ms if part else None for part, segment in pairs]


def _first_and_last(name: str, values: list, segments: list[Segment]) -> dict:
    """Means over the first and the last tenth of the recording."""
    end_ms = segments[-1].end_ms
    first = [v for v, s in zip(values, segments, strict=True) if v is not None and s.end_ms <= TENTH * end_ms]
    last = [v for v, s in zip(values, segments, strict=True) if v is not None and s.start_ms >= (1 - TENTH) * end_ms]
    return {f"{name}_{part}": _mean(of) for part, of in (("first", first), ("last", last))}


def _stream_laal(output: Words, segments: list[Segment]) -> dict:
    try:
        owners = mwer_segments(output.words, [segment.reference for segment in segments])
    except SegmentationError:
        return {}
    parts = _parts(owners, len(segments))
    row = {}
    for name, delays in (("", output.delays), ("_ca", output.delays_ca)):
        pairs = zip(parts, segments, strict=True)
        row[f"stream_laal{name}"] = _mean(
            [laal(_from_start(delays, part, segment), segment.duration_ms, _length(segment)) for part, segment in pairs]
        )
    return row


def revised_bleu(pushes: list[Push], segments: list[Segment]) -> Interval | None:
    """BLEU of the revisions, None where there are none."""
    words = revised(pushes)
    if not words:
        return None
    references = [normalize(segment.reference) for segment in segments]
    parts = _parts(soft_segments(words, references), len(segments))
    texts = [" ".join(words[place] for place in part) for part in parts]
    return bootstrap(len(segments), CorpusBleu(texts, references))


# ---------------------------------------------------------------------------------------------------------- boundaries


def sentence_places(pushes: list[Push]) -> list[tuple]:
    """(place, decided, True), as `boundaries.listen`, of each sentence that was ended before the end of the stream: its
    place is where the next one was opened; of several in a push the earlier ones end with their last token."""
    ends = []
    for push in pushes[:-1]:
        tokens = [record["end_ms"] for record in push.events if record["kind"] == KINDS[Sentence]]
        places = [*tokens[:-1], push.opened_ms] if tokens else []
        ends += [(place, push.source_ms, True) for place in places]
    return ends


def boundaries(pushes: list[Push], segments: list[Segment]) -> Boundaries:
    """What was found of the ends of the segments."""
    starts = [segment.start_ms for segment in segments[1:]] + [pushes[-1].source_ms]
    silences = tuple((segment.end_ms, start) for segment, start in zip(segments, starts, strict=True))
    return score(sentence_places(pushes), silences, TOLERANCE_MS, EARLY_MS)


def score_boundaries(pushes: list[Push], segments: list[Segment]) -> dict:
    """The row's part about where sentences were ended."""
    found = boundaries(pushes, segments)
    after = median(found.delays_ms) if found.delays_ms else None
    return {"found": share(found.found, found.silences), "extra": found.extra, "found_after": after}


def score_course(pushes: list[Push]) -> dict:
    """What a push took, and what the process held, in the first and the last tenth of the pushes."""
    size = max(1, round(TENTH * len(pushes)))
    row = {"minutes": pushes[-1].source_ms / 60000}
    for name, part in (("first", pushes[:size]), ("last", pushes[-size:])):
        row[f"step_{name}"] = mean(push.spent_ms for push in part)
        row[f"memory_{name}"] = max(push.resident_mb for push in part)
    return row


# --------------------------------------------------------------------------------------------------- for other programs


def write_scored(folder: Path, wav: str, output: Words, segments: list[Segment], source_ms: float) -> None:
    """What `omnisteval longform` takes: the translation as SimulEval logs it, segmentation and references."""
    write_segmentation(folder, {wav: segments})
    entry = {
        "index": 0,
        "source": wav,
        "source_length": source_ms,
        "prediction": " ".join(output.words),
        "delays": list(output.delays),
        "elapsed": list(output.delays_ca),
    }
    write_text(folder / LOG, json.dumps(entry, ensure_ascii=False) + "\n")
