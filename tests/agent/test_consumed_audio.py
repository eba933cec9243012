"""SimulEval hands an agent all the audio so far at every push; ours looks at each sample once."""

from types import SimpleNamespace

import pytest

pytest.importorskip("simuleval.utils.agent")

from echostream_plugin.agents.session_agent import SessionAgent  # noqa: E402
from echostream_plugin.inference.session import TranslationSession  # noqa: E402
from tests.tiny_bundle import speechlike, tiny_bundle  # noqa: E402


class GuardedSource(list):
    """A growing list that may be read from `consumed` on only."""

    consumed = 0

    def __getitem__(self, index):
        assert isinstance(index, slice) and index.start >= self.consumed and index.stop is None
        return super().__getitem__(index)

    def __iter__(self):
        raise AssertionError("the whole source was read")


def test_an_agent_never_touches_audio_that_it_has_consumed():
    samples, source = speechlike(1.6, seed=2).tolist(), GuardedSource()
    session = TranslationSession(tiny_bundle(vocoder=False), speech=False, max_tokens=3)
    states = SimpleNamespace(source=source, source_sample_rate=16000)
    agent = SimpleNamespace(session=session, states=states, taken_samples=0)
    for start in range(0, len(samples), 5120):
        source.extend(samples[start : start + 5120])
        SessionAgent.hear(agent)
        source.consumed = len(source)
        assert SessionAgent.hear(agent) == []  # nothing new
    assert session.source_ms == 1600
