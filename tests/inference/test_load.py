"""Many sessions on one model that join, leave, send rubbish and vanish: every survivor says what it says alone.

The promises that concern sessions, and where each is tested:

| promise | alone | under load, here |
|---|---|---|
| 1. streaming equals the masked training output, for any cutting | test_session, encoders/test_emformer | survivors |
| 2. memory and time per push are flat for hours | test_long (twenty minutes) | memory |
| 3. N interleaved sessions give what N sessions alone give | test_session, test_batch | survivors |
| 4. bad input harms no other session and loses nothing produced | test_session, test_batch | survivors, refusals |
| 5. a reset leaves no residue | test_session | reset |
| 6. computation-aware latency is never below plain latency | evaluation/test_latency | no concern of a session |
| 7. a file from a stranger runs no code | test_bundle, test_resume (snapshots) | no concern of a session |

survivors: `test_survivors_say_what_they_say_alone`; refusals: `test_refused_pieces_are_named_and_change_nothing`;
reset: `test_a_session_that_was_reset_is_as_good_as_new`; memory: `test_the_load_leaves_no_memory`.
"""

import ctypes
import gc
import resource
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import speechlike, tiny_bundle

SESSIONS = 50
CHUNK_MS = 320
PLAIN = SessionOptions(max_tokens=3)
SENTENCES = SessionOptions(max_tokens=2, pause_ms=200, longest_sentence_ms=1200, fresh_encoder=True, context_tokens=2)
RATES = (16000, 16000, 16000, 8000, 44100, 48000)
FATES = ("finish", "finish", "finish", "leave", "vanish", "break")


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


class Vanished:
    """A piece whose sender goes away while it is read."""

    def __array__(self, *args, **kwargs):
        raise ConnectionResetError("gone")


@dataclass
class Speaker:
    """One user: what it says, how, when it comes and how it ends."""

    key: int
    rate: int
    samples: np.ndarray
    options: SessionOptions
    joins: int
    fate: str
    said: list = field(default_factory=list)
    pushed: list = field(default_factory=list)
    position: int = 0

    @property
    def over(self) -> bool:
        return self.position >= len(self.samples)


def rubbish(generator, rate: int):
    """A piece that is not audio, and the rate it comes with."""
    noise = generator.standard_normal(500)
    kinds = [
        lambda: (np.where(generator.random(500) < 0.1, np.nan, noise), rate),
        lambda: (np.array([0.0, np.inf]), rate),
        lambda: (noise * 1e9, rate),
        lambda: (np.zeros((2, 700)), rate),
        lambda: (np.zeros((3, 4, 5)), rate),
        lambda: (noise.astype(np.complex64), rate),
        lambda: (noise.astype(np.uint8), rate),
        lambda: ("noise", rate),
        lambda: ([[1.0], [1.0, 2.0]], rate),
        lambda: (Vanished(), rate),
        lambda: (noise, rate + 1000),
        lambda: (noise, None),
    ]
    return kinds[generator.integers(len(kinds))]()


def dressed(generator, samples: np.ndarray):
    """The same audio as a client may send it: int16, two channels, a list."""
    kind = generator.integers(4)
    if kind == 1:
        return (samples * 32767).astype(np.int16)
    if kind == 2:
        return np.stack([samples, samples], axis=1)
    return samples.tolist() if kind == 3 else samples


def speakers(seed: int) -> list:
    generator = np.random.default_rng(seed)
    crowd = []
    for key in range(SESSIONS):
        rate = int(generator.choice(RATES))
        samples = speechlike(generator.uniform(0.3, 1.6), rate, seed=100 + key)
        samples[: len(samples) // 4] *= key % 2
        options = SENTENCES if key % 5 == 0 else PLAIN
        crowd.append(Speaker(key, rate, samples, options, int(generator.integers(6)), FATES[key % len(FATES)]))
    return crowd


def next_piece(speaker: Speaker, generator):
    """(piece, rate) of this round. Mostly a chunk, at times any size, nothing, everything left, or rubbish."""
    luck = generator.random()
    if luck < 0.2:
        return rubbish(generator, speaker.rate)
    chunk = speaker.rate * CHUNK_MS // 1000
    size = chunk if luck < 0.8 else int(generator.choice([0, 1, chunk // 3, 2 * chunk, 10**9]))
    piece = dressed(generator, speaker.samples[speaker.position : speaker.position + size])
    speaker.position += size
    speaker.pushed.append(piece)
    return piece, speaker.rate


def run_load(bundle, seed: int) -> tuple[list, list]:
    """A crowd on one model, by a plan that the seed decides. Returns the speakers that stayed to the end, with what was
    said to them, and weak references to all sessions."""
    generator, batch = np.random.default_rng(seed), BatchedSession(bundle, PLAIN)
    waiting, present, stayed, references = speakers(seed), {}, [], []
    turn = 0
    while waiting or present:
        for speaker in [speaker for speaker in waiting if speaker.joins <= turn]:
            references.append(weakref.ref(batch.join(speaker.key, speaker.options)))
            present[speaker.key] = speaker
            waiting.remove(speaker)
        pieces = {key: next_piece(speaker, generator) for key, speaker in present.items()}
        for key, speaker in present.items():
            if speaker.fate == "vanish" and speaker.position > len(speaker.samples) // 2:
                pieces[key] = Vanished(), speaker.rate
        replies = batch.push({key: piece for key, (piece, _) in pieces.items()}, {k: r for k, (_, r) in pieces.items()})
        for key, reply in replies.items():
            assert reply.error is None or isinstance(reply.error, InputError)
            present[key].said += reply.events
        leaving = [s for s in present.values() if s.over or (s.fate == "leave" and s.position > len(s.samples) // 2)]
        leaving += [s for s in present.values() if isinstance(pieces[s.key][0], Vanished) and s.fate == "vanish"]
        ends = batch.finish([speaker.key for speaker in leaving if speaker.fate == "finish"])
        for speaker in {speaker.key: speaker for speaker in leaving}.values():
            if speaker.key in ends:
                speaker.said += ends[speaker.key].events
                stayed.append(speaker)
            batch.leave(speaker.key)
            del present[speaker.key]
        turn += 1
    assert batch.batches < batch.calls and not batch.sessions
    return stayed, references


def assert_same(one: list, other: list):
    """Texts, units and times equal, samples to 1e-4."""
    assert [type(event) for event in one] == [type(event) for event in other]
    for a, b in zip(one, other, strict=True):
        if isinstance(a, Speech):
            assert (a.units, a.source_ms, a.sample_rate) == (b.units, b.source_ms, b.sample_rate)
            np.testing.assert_allclose(a.samples, b.samples, atol=1e-4)
        else:
            assert a == b


def test_survivors_say_what_they_say_alone(bundle):
    stayed, _ = run_load(bundle, seed=1)
    assert len(stayed) == sum(fate == "finish" for fate in FATES) * SESSIONS // len(FATES) + 1
    kinds = set()
    for speaker in stayed:
        session, expected = TranslationSession(bundle, speaker.options), []
        for piece in speaker.pushed:
            expected += session.push(piece, speaker.rate)
        assert_same(speaker.said, expected + session.finish())
        kinds |= set(map(type, expected))
    assert kinds >= {SourceText, TargetText, Speech, Sentence}


def test_refused_pieces_are_named_and_change_nothing(bundle):
    """Every kind of rubbish, each between two good pieces of its own session."""
    generator = np.random.default_rng(2)
    samples, batch, said = speechlike(1.0, seed=5), BatchedSession(bundle, PLAIN), {key: [] for key in range(8)}
    for key in said:
        batch.join(key)
    refused = 0
    for start in range(0, len(samples), 2000):
        replies = batch.push({key: rubbish(generator, 16000)[0] for key in said}, 0 if start == 0 else 16000)
        for reply in replies.values():
            refused += reply.error is not None
            assert reply.error is None or (isinstance(reply.error, InputError) and "sample" in str(reply.error))
        good = batch.push(dict.fromkeys(said, samples[start : start + 2000]), 16000)
        for key, reply in good.items():
            said[key] += reply.events
    assert refused > 40
    replies = batch.finish()
    assert all(isinstance(reply.events[-1], Finished) for reply in replies.values())
    late = batch.push(dict.fromkeys(said, samples[:100]), 16000)
    assert all(isinstance(reply.error, SessionError) for reply in late.values())


def test_a_session_that_was_reset_is_as_good_as_new(bundle):
    """In the middle of a crowd, at another rate than before."""
    batch, samples = BatchedSession(bundle, SENTENCES), speechlike(1.2, 8000, seed=7)
    for key in range(6):
        batch.join(key)
    batch.push({key: speechlike(0.7, seed=key) for key in range(6)}, 16000)
    for key in range(0, 6, 2):
        batch.sessions[key].reset()
    rates = {key: 16000 if key % 2 else 8000 for key in range(6)}
    replies = batch.push({key: speechlike(0.7, seed=9) if key % 2 else samples for key in range(6)}, rates)
    ends = batch.finish(range(0, 6, 2))
    fresh = TranslationSession(bundle, SENTENCES)
    expected = fresh.push(samples, 8000) + fresh.finish()
    for key in range(0, 6, 2):
        assert_same(replies[key].events + ends[key].events, expected)


def resident_bytes() -> int:
    """Of this process, after what is free was given back."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library keeps what it keeps
        pass
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of the process from /proc")
def test_the_load_leaves_no_memory(bundle):
    """No session outlives its leaving, and the process is as large as before."""
    sizes = []
    for _ in range(3):  # the first ones make what stays: kernels, tables, the allocator's own
        _, references = run_load(bundle, seed=3)
        sizes.append(resident_bytes())
        assert len(references) == SESSIONS and not any(reference() for reference in references)
    assert sizes[2] - sizes[1] < 4 << 20
