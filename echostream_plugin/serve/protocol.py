"""What travels over a websocket: settings and audio in, events out. docs/live.md describes both protocols.

`text` is simulstream's (arXiv 2512.17648): its clients work unchanged. `events` carries everything a session says.
"""

import json
from dataclasses import dataclass, replace

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.events import SourceText, Speech, TargetText, as_record
from echostream_plugin.serve.said import Said, changed

FORMATS = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
PROTOCOLS = ("text", "events")
MIN_RATE, MAX_RATE = 4000, 384000
KNOWN = {
    *("sample_rate", "format", "protocol", "audio_out", "source_lang", "target_lang", "metrics_metadata", "token"),
    *("resume", "received", "end_of_stream"),
}


class ProtocolError(ValueError):
    """A message that cannot be used; the connection goes on where nothing was lost by it."""


@dataclass(frozen=True)
class Settings:
    """What a client asks for in its first message; simulstream's clients leave the defaults.

    audio_out: the translated voice is sent too; resume: the key of a dropped session, received: the number of its last
    event that came through."""

    sample_rate: int = SAMPLE_RATE
    format: str = "int16"
    protocol: str = "text"
    audio_out: bool = False
    source_lang: str = ""
    target_lang: str = ""
    token: str = ""
    resume: str = ""
    received: int = 0

    def changed(self, message: dict) -> "Settings":
        """These settings with those of a message. Raises ProtocolError that names what is wrong."""
        unknown = sorted(set(message) - KNOWN)
        if unknown:
            raise ProtocolError(f"unknown setting '{unknown[0][:40]}'; known: {', '.join(sorted(KNOWN))}")
        kinds = {"sample_rate": int, "audio_out": bool, "received": int, "end_of_stream": bool}
        values = {}
        for name, value in message.items():
            if name == "metrics_metadata":
                continue
            kind = kinds.get(name, str)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ProtocolError(f"{name}: expected {kind.__name__}, got {json.dumps(value)[:40]}")
            if name != "end_of_stream":
                values[name] = value
        settings = replace(self, **values)
        if not MIN_RATE <= settings.sample_rate <= MAX_RATE:
            raise ProtocolError(f"sample_rate {str(settings.sample_rate)[:20]}: expected {MIN_RATE} to {MAX_RATE} Hz")
        if not 0 <= settings.received < 2**53:
            raise ProtocolError("received: expected the number of an event, or 0")
        for name, choices in (("format", FORMATS), ("protocol", PROTOCOLS)):
            if getattr(settings, name) not in choices:
                raise ProtocolError(f"{name} '{getattr(settings, name)[:40]}': use {' or '.join(choices)}")
        return settings


def read_message(text: str) -> dict:
    """The json object of a text message. Raises ProtocolError."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a text message must be a json object ({str(error)[:80]})") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"a text message must be a json object, got {type(message).__name__}")
    return message


def read_audio(content: bytes, format: str) -> np.ndarray:
    """Samples [n] of a binary message: int16 as it is, float32 in [-1, 1]. Raises ProtocolError."""
    kind = FORMATS[format]
    if len(content) % kind.itemsize:
        raise ProtocolError(f"an audio message of {len(content)} bytes holds no whole number of {format} samples")
    return np.frombuffer(content, kind).astype(kind.newbyteorder("="))


def pcm(samples: np.ndarray) -> bytes:
    """float32 [n] in [-1, 1] as little-endian int16."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


class TextWriter:
    """Events as simulstream's replies: one `{"new", "deleted"}` a push, and the voice where it was asked for."""

    number = 0  # its replies have none

    def __init__(self, audio_out: bool):
        self._audio_out = audio_out
        self._said = Said()
        self._early = []  # events of a push that is not processed

    def opening(self, key: str) -> list:
        """What is said when a session begins."""
        return []

    def messages(self, events: list, heard_s: float | None) -> list:
        """What a push led to: str and bytes, to be sent in this order; heard_s None: the first part of it, which waits
        for the rest."""
        if heard_s is None:
            self._early += events
            return []
        events, self._early = [*self._early, *events], []
        before = self._said.text()
        for event in events:
            self._said.take(event)
        new, deleted = changed(before, self._said.text())
        self._said.trim()
        found = [json.dumps({"new": new, "deleted": deleted}, ensure_ascii=False)]
        for event in events:
            if self._audio_out and isinstance(event, Speech) and len(event.samples):
                head = {"sample_rate": event.sample_rate, "samples": len(event.samples), "source_ms": event.source_ms}
                found += [json.dumps({"audio": head}), pcm(event.samples)]
        return found

    def closing(self) -> list:
        """What is said last."""
        return [json.dumps({"end_of_processing": True})]


class EventWriter:
    """Every event as a numbered json object; the samples of a `speech` follow it as one binary message (int16)."""

    def __init__(self, audio_out: bool):
        self._audio_out = audio_out
        self.number = 0

    def opening(self, key: str) -> list:
        """What is said when a session begins; key: to take it up again."""
        return [json.dumps({"kind": "session", "key": key})]

    def messages(self, events: list, heard_s: float | None):
        """What a push led to, and `heard`: how much audio was processed (None: of this push not all). One after the
        other, so that `number` is that of the message that was taken last."""
        for event in events:
            if isinstance(event, Speech) and not self._audio_out:
                continue
            yield self._numbered(self._record(event))
            if isinstance(event, Speech):
                yield pcm(event.samples)
        if heard_s is not None:
            yield self._numbered({"kind": "heard", "seconds": round(heard_s, 3)})

    def closing(self) -> list:
        """What is said last."""
        return [self._numbered({"kind": "end"})]

    @staticmethod
    def _record(event) -> dict:
        record = as_record(event)
        if isinstance(event, Speech):
            record |= {"sample_rate": event.sample_rate, "samples": len(event.samples)}
        if isinstance(event, SourceText | TargetText):
            record["text"] = event.text
        return record

    def _numbered(self, record: dict) -> str:
        self.number += 1
        return json.dumps({"n": self.number, **record}, ensure_ascii=False)


def writer_of(settings: Settings):
    """What writes the replies of a session."""
    return (EventWriter if settings.protocol == "events" else TextWriter)(settings.audio_out)
