"""The events of a session. Texts only grow and speech only follows: no output is ever taken back."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SourceText:
    """The source transcript grew by `added` and is now `text`; decided after `source_ms` of source.

    times_ms: where each word of `text` lies in the source, from its first token's start to its last one's."""

    text: str
    added: str
    source_ms: float
    times_ms: tuple = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class TargetText:
    """The translation grew by `added` and is now `text`; decided after `source_ms` of source."""

    text: str
    added: str
    source_ms: float


@dataclass(frozen=True, eq=False)
class Speech:
    """The next piece of translated speech: samples [n] float32 in [-1, 1]. `units` are the units that became known with
    it; the vocoder withholds the newest until it knows what follows, so the samples may belong to earlier ones."""

    samples: np.ndarray
    sample_rate: int
    units: tuple
    source_ms: float


@dataclass(frozen=True)
class Sentence:
    """A sentence of a long stream is over: all of it was written and spoken; texts that follow are the next one's.

    start_ms, end_ms: where its first and last CTC token lie in the source; decided after `source_ms`."""

    index: int
    source_text: str
    target_text: str
    start_ms: float
    end_ms: float
    source_ms: float


@dataclass(frozen=True)
class Revision:
    """A better version of a finished sentence (`Sentence.index`), from all of its source at once. What was written and
    spoken before stays as it was; subtitles and transcripts take these texts in place of the sentence's.

    start_ms, end_ms: the sentence's, in the source; decided after `source_ms`. samples: [n] float32, the whole sentence
    spoken anew, for a recording, never for a listener who has heard it; empty where nobody asked for it."""

    index: int
    source_text: str
    target_text: str
    start_ms: float
    end_ms: float
    source_ms: float
    samples: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32), compare=False, repr=False)
    sample_rate: int = 0


@dataclass(frozen=True)
class Unsure:
    """Somebody spoke from start_ms to end_ms of the source, and it was not understood well enough to be translated.

    confidence: 0 to 1, that of the session's gate; decided after `source_ms`."""

    start_ms: float
    end_ms: float
    confidence: float
    source_ms: float


@dataclass(frozen=True)
class Finished:
    """The last event of an utterance."""

    source_ms: float


Event = SourceText | TargetText | Speech | Sentence | Revision | Unsure | Finished

KINDS = {
    SourceText: "source_text",
    TargetText: "target_text",
    Speech: "speech",
    Sentence: "sentence",
    Revision: "revision",
    Unsure: "unsure",
    Finished: "finished",
}


REFUSED = "refused"


def refusal(reason: str) -> dict:
    """The record of a recording that is no audio, in place of everything else that could be said of it."""
    return {"kind": REFUSED, "source_ms": 0.0, "reason": reason}


def as_record(event: Event) -> dict:
    """The event as a flat json object, without samples; of speech its length in milliseconds and units."""
    record = {"kind": KINDS[type(event)], "source_ms": event.source_ms}
    if isinstance(event, Speech):
        duration_ms = 1000 * len(event.samples) / event.sample_rate
        return {**record, "duration_ms": round(duration_ms, 3), "units": list(event.units)}
    if isinstance(event, SourceText | TargetText):
        return {**record, "text": event.text, "added": event.added}
    if isinstance(event, Revision):
        names = [f.name for f in dataclasses.fields(event) if f.name not in ("samples", "sample_rate")]
        return {**record, **{name: getattr(event, name) for name in names}}
    return {**record, **dataclasses.asdict(event)}
