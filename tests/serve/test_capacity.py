"""Who is admitted, by costs and clocks that the test makes up."""

import asyncio
import logging

import aiohttp
import numpy as np
import pytest

from echostream_plugin.inference.batch import Reply
from echostream_plugin.serve import engine as engine_module
from echostream_plugin.serve.capacity import MOST_SPEAKERS, TOGETHER, Capacity, calibrate, rounds_of, speech_of
from echostream_plugin.serve.engine import Engine
from echostream_plugin.serve.limits import Limits
from echostream_plugin.serve.metrics import Metrics
from echostream_plugin.serve.speaker import Refused, Speaker
from tests.serve.running import running
from tests.tiny_bundle import tiny_bundle

PUSH_S = 0.16
RATE = 16000


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class CostlyBatch:
    """A batch whose rounds take `round_s` + `speaker_s` for each 160 ms of a speaker, on the test's clock."""

    def __init__(self, clock, round_s=0.01, speaker_s=0.01):
        self.clock, self.round_s, self.speaker_s, self.sessions, self.seen = clock, round_s, speaker_s, {}, []

    def join(self, key, options):
        self.sessions[key] = key

    def leave(self, key):
        del self.sessions[key]

    def push(self, pieces, rates):
        self.seen.append(pieces)
        audio = sum(len(piece) for piece in pieces.values()) / RATE
        self.clock.now += self.round_s + self.speaker_s * audio / PUSH_S
        return {key: Reply() for key in pieces}


def test_room_follows_from_the_two_measured_points():
    capacity = Capacity(PUSH_S)
    capacity.calibrate(0.02, 0.05)  # 10 ms a round and 10 ms a speaker
    assert capacity.load(0) == 0 and capacity.load(3) == pytest.approx(0.04 / 0.16)
    assert capacity.speakers == 13  # 0.14 s of 0.16 s; the next one would make it 0.15 s
    assert not capacity.has_room(13) and capacity.has_room(13, resumed=True)


def test_one_speaker_is_always_taken_and_a_fast_machine_is_not_trusted_without_end():
    slow, fast = Capacity(PUSH_S), Capacity(PUSH_S)
    slow.calibrate(1.0, 4.0)
    fast.calibrate(0.001, 0.001)
    assert slow.speakers == 1 and slow.has_room(0) and not slow.has_room(1)
    assert fast.speakers == MOST_SPEAKERS


def test_a_noisy_first_point_makes_nobody_free():
    capacity = Capacity(PUSH_S)
    capacity.calibrate(0.2, 0.04)
    assert capacity.speaker_s > 0 and capacity.load(TOGETHER) == pytest.approx(0.04 / PUSH_S)


def test_room_shrinks_soon_when_the_machine_gets_slower_and_returns_slowly():
    capacity = Capacity(PUSH_S)
    capacity.calibrate(0.02, 0.05)
    whole = capacity.speakers

    def rounds(factor, windows):
        for _ in range(16 * windows):  # 10.24 s of audio each
            capacity.saw(4 * PUSH_S, factor * 0.05)

    rounds(3.0, 4)
    assert capacity.factor > 2.5 and capacity.speakers <= 5
    before = capacity.factor
    rounds(1.0, 1)
    assert 2.2 < capacity.factor < before
    rounds(1.0, 60)
    assert capacity.speakers >= whole - 1


def test_a_calibration_hears_different_speech_of_several_and_leaves_nobody_behind():
    clock = Clock()
    batch, capacity = CostlyBatch(clock), Capacity(PUSH_S)
    calibrate(capacity, batch, None, np.arange(3 * RATE, dtype=np.float32), RATE, clock)
    assert capacity.round_s == pytest.approx(0.01) and capacity.speaker_s == pytest.approx(0.01)
    assert not batch.sessions
    voices = batch.seen[-1].values()
    assert len(voices) == TOGETHER and len({voice[0] for voice in voices}) == TOGETHER


def test_a_calibration_that_fails_leaves_nobody_behind():
    batch = CostlyBatch(Clock())
    batch.push = None
    with pytest.raises(TypeError):
        rounds_of(batch, None, np.ones(RATE, np.float32), RATE, 2, PUSH_S, Clock())
    assert not batch.sessions


def test_speech_is_the_bundles_and_noise_where_it_has_none(tmp_path):
    samples, rate = speech_of(tmp_path)
    assert rate == RATE and len(samples) == 3 * RATE and 0.01 < samples.std() < 0.1
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.wav").write_bytes(b"no recording")
    assert np.array_equal(speech_of(tmp_path)[0], samples)


class Hall:
    """An engine without its thread, whose rounds cost time of the test's clock, and speakers at the speed of speech."""

    def __init__(self, monkeypatch, **limits):
        self.clock = Clock()
        monkeypatch.setattr(engine_module.time, "monotonic", self.clock)
        self.engine = Engine(tiny_bundle(), Limits(push_ms=160, **limits), Metrics())
        self.engine._batch = CostlyBatch(self.clock)
        self.engine.capacity.calibrate(0.02, 0.05)
        self.speakers, self.lags = [], []

    def come(self, count):
        """So many want to join at once; returns how many were refused, and with which words."""
        words = []
        for _ in range(count):
            speaker = Speaker(f"s{len(self.speakers)}", RATE, None, self.heard, None)
            try:
                self.engine.join(speaker)
                self.speakers.append(speaker)
            except Refused as refusal:
                words.append((refusal.reason, str(refusal)))
        self.engine._open_joining()
        return words

    def heard(self, events, seconds):
        self.lags.append(self.clock.now - self.began - seconds)

    def speak(self, seconds):
        """Everybody speaks, in pieces of 160 ms; the rounds follow each other as the thread would run them."""
        self.began, brought = self.clock.now, 0
        for speaker in self.speakers:
            speaker.heard = 0
        self.lags = []
        while brought < seconds / PUSH_S:
            while self.began + (brought + 1) * PUSH_S <= self.clock.now:
                brought += 1
                for speaker in self.speakers:
                    self.engine.hear(speaker, np.zeros(int(PUSH_S * RATE), np.float32))
            before = self.clock.now
            self.engine._push_ready()
            if self.clock.now == before:
                self.clock.now = self.began + (brought + 1) * PUSH_S


def test_of_forty_who_come_together_as_many_are_taken_as_are_heard_in_time(monkeypatch):
    hall = Hall(monkeypatch)
    refused = hall.come(40)
    assert len(hall.speakers) == 13 and len(refused) == 27
    assert set(refused) == {("full", "the server is full (13 speakers); try again later")}
    hall.speak(60)
    assert max(hall.lags) < PUSH_S  # the wait for a round and the round
    assert hall.come(5) and len(hall.speakers) == 13


def test_beyond_the_capacity_the_lag_would_grow(monkeypatch):
    """The same hall with a number that is too large: what the measurement prevents."""
    hall = Hall(monkeypatch, max_sessions=40, max_lag=1e6)
    assert not hall.come(40)
    hall.speak(60)
    assert max(hall.lags) > 10


def test_a_number_overrides_the_measurement(monkeypatch):
    hall = Hall(monkeypatch, max_sessions=2)
    assert len(hall.come(5)) == 3 and hall.engine.room == 2


def test_a_place_that_is_left_is_given_again(monkeypatch):
    hall = Hall(monkeypatch)
    hall.come(20)
    hall.engine._end(hall.speakers.pop(), None)
    assert len(hall.come(2)) == 1


def test_many_who_bring_much_do_not_hold_up_one_who_speaks(monkeypatch):
    hall = Hall(monkeypatch)
    hall.come(8)
    for speaker in hall.speakers[1:]:
        hall.engine.hear(speaker, np.zeros(30 * RATE, np.float32))
    hall.engine.hear(hall.speakers[0], np.zeros(int(PUSH_S * RATE), np.float32))
    hall.began, before = 0, hall.clock.now
    hall.engine._push_ready()
    assert hall.clock.now - before < 0.01 + 0.01 * (1 + 7 * 2) + 1e-6  # 320 ms of each of them, not a second


def test_a_server_measures_itself_when_it_starts(tmp_path, caplog):
    async def health(server):
        async with aiohttp.ClientSession() as client, client.get(server.http + "/health") as response:
            return await response.json()

    with caplog.at_level(logging.INFO), running(tiny_bundle(), tmp_path, max_sessions=None) as server:
        room = asyncio.run(health(server))["room"]
        assert room == server.server.engine.room >= 1
        assert server.server.engine.capacity.speaker_s > 0 and not server.server.engine._batch.sessions
    assert f"room for {room} speakers" in caplog.text
