"""What a server takes: every limit that protects it and its speakers from each other, with its default."""

from dataclasses import dataclass

from echostream_plugin.config import ConfigError, option


@dataclass(frozen=True)
class Limits:
    """Each is a flag of `echostream serve`."""

    max_sessions: int = option(8, "speakers at a time; one more is refused with a message")
    max_lag: float = option(3.0, "seconds that the model may be behind its speakers before new ones are refused")
    backlog: float = option(30.0, "seconds of audio of one speaker that may wait; beyond, the server stops reading")
    message_kb: int = option(1024, "largest message in KiB")
    idle: float = option(60.0, "seconds without audio or a message after which a speaker is let go")
    session_hours: float = option(4.0, "longest session")
    resume: float = option(60.0, "seconds that a dropped session waits for its speaker to come back; 0: none")
    outbox_mb: float = option(16.0, "MiB of replies that a client may leave unread before it is let go")
    push_ms: int = option(160, "audio of a speaker that is collected before the model is asked, in ms")

    def __post_init__(self):
        for name, least in (("max_sessions", 1), ("message_kb", 1), ("push_ms", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        for name in ("max_lag", "backlog", "idle", "session_hours", "outbox_mb"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.resume < 1e9:
            raise ConfigError(f"--resume must not be negative, got {self.resume}")
