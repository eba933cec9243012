"""What a server takes: every limit that protects it and its speakers from each other, with its default."""

from dataclasses import dataclass

from echostream_plugin.config import ConfigError, option


@dataclass(frozen=True)
class Limits:
    """Each is a flag of `echostream serve`."""

    max_sessions: int | None = option(
        None, "speakers at a time, one more is refused with a message; auto: as many as this machine holds in real time"
    )
    max_lag: float = option(3.0, "seconds that the model may be behind its speakers before new ones are refused")
    backlog: float = option(30.0, "seconds of audio of one speaker that may wait; beyond, the server stops reading")
    message_kb: int = option(1024, "largest message in KiB")
    idle: float = option(60.0, "seconds without audio or a message after which a speaker is disconnected")
    session_hours: float = option(4.0, "longest session")
    resume: float = option(60.0, "seconds that a dropped session waits for its speaker to come back; 0: none")
    kept: int = option(32, "dropped sessions that wait at a time; the oldest makes room")
    connections: int = option(1000, "open connections of all kinds; one more is closed at once")
    outbox_mb: float = option(16.0, "MiB of replies that a client may leave unread before it is disconnected")
    push_ms: int = option(160, "audio of a speaker that is collected before the model is asked, in ms")

    def __post_init__(self):
        for name in ("max_sessions", "message_kb", "push_ms", "kept", "connections"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1_000_000_000:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("max_lag", "backlog", "idle", "session_hours", "outbox_mb"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.resume < 1e9:
            raise ConfigError(f"--resume must not be negative, got {self.resume}")
