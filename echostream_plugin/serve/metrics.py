"""What a server counts, for Prometheus (`/metrics`) and `/health`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LAG_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
REPLY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        gauge = {"registry": self.registry}
        self.sessions = Gauge("echostream_sessions", "Speakers that are heard now", **gauge)
        self.room = Gauge("echostream_room", "Speakers that are taken at a time", **gauge)
        self.detached = Gauge("echostream_detached_sessions", "Dropped sessions that wait for their speaker", **gauge)
        self.queued = Gauge("echostream_queued_seconds", "Audio that waits for the model, of all speakers", **gauge)
        self.load = Gauge("echostream_load", "Share of the time that the model works, of the last ten seconds", **gauge)
        self.real_time_factor = Gauge(
            "echostream_real_time_factor", "Seconds of work for a second of audio, of the last ten seconds", **gauge
        )
        self.lag = Histogram(
            "echostream_lag_seconds", "From a piece of audio's arrival to its events", buckets=LAG_BUCKETS, **gauge
        )
        self.reply = Histogram(
            "echostream_reply_seconds", "From an event to its handing to the network", buckets=REPLY_BUCKETS, **gauge
        )
        self.audio = Counter("echostream_audio_seconds", "Audio that was translated", **gauge)
        self.opened = Counter("echostream_sessions_opened", "Sessions that were begun", **gauge)
        self.refused = Counter("echostream_sessions_refused", "Sessions that were refused", ["reason"], **gauge)
        self.errors = Counter("echostream_errors", "Sessions that ended in an error", ["kind"], **gauge)

    def text(self) -> bytes:
        """The figures in Prometheus's text format."""
        return generate_latest(self.registry)
