"""Whole sessions at the same time: how many speakers one process serves at real time, alone and stacked."""

import time

from echostream_plugin.benchmark.measure import Spread
from echostream_plugin.benchmark.sessions import PUSH_MS, noise, percentile, speaking
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import Bundle

SECONDS = 20.0  # that each of them speaks


def time_crowd(bundle: Bundle, sizes: list[int], seconds: float = SECONDS) -> list[dict]:
    """Rows {sessions, rtf, at_real_time, round_ms, round_p99_ms, calls_saved}: all push 320 ms of other speech at once.

    rtf: seconds of work for a second of one session; at_real_time: how many of them fill one process; calls_saved: of
    those of the model."""
    return [_row(bundle, size, seconds) for size in sizes]


def _row(bundle: Bundle, sessions: int, seconds: float) -> dict:
    batch = BatchedSession(bundle, speaking(bundle))
    voices = {key: noise(seconds, seed=key) for key in range(sessions)}
    for key in voices:
        batch.join(key)
    size, rounds = SAMPLE_RATE * PUSH_MS // 1000, []
    for start in range(0, round(seconds * SAMPLE_RATE), size):
        began = time.perf_counter()
        replies = batch.push({key: voice[start : start + size] for key, voice in voices.items()}, SAMPLE_RATE)
        rounds.append(1000 * (time.perf_counter() - began))
        for reply in replies.values():
            if reply.error is not None:
                raise reply.error
    rtf = sum(rounds) / 1000 / seconds / sessions
    return {
        "sessions": sessions,
        "rtf": rtf,
        "at_real_time": 1 / rtf,
        "round_ms": Spread.of(rounds),
        "round_p99_ms": percentile(rounds, 0.99),
        "calls_saved": 1 - batch.batches / batch.calls,
    }
