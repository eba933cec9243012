"""Streams of a `code_vocos` that are computed together say what each says alone, whatever their lengths."""

import pytest
import torch

from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.vocoder import CodeVocos, StreamingVocoder, VocosConfig
from tests.tiny_bundle import speechlike, tiny_bundle

PUSHES = [(3, 40, 0), (1, 0, 90), (7, 2, 1), (0, 0, 0), (30, 5, 12)]  # frames of each stream, push by push


def vocos(units=9, **sizes):
    torch.manual_seed(3)
    sizes = {"embedding_dim": 8, "dim": 16, "hidden_dim": 16, "coarse_blocks": 2, "fine_blocks": 1} | sizes
    model = CodeVocos(VocosConfig(num_embeddings=units, prosody_dim=8, **sizes)).eval()
    with torch.no_grad():
        model.head.bias[: model.bins] += 3
    return model


@pytest.mark.parametrize("sizes", [{}, {"coarse_blocks": 0}, {"coarse_blocks": 0, "fine_blocks": 0}])
@torch.inference_mode()
def test_streams_of_any_lengths(sizes):
    stream = StreamingVocoder(vocos(**sizes)).generator
    alone = together = [stream.initial_state()] * 3
    said = 0
    for counts in PUSHES:
        frames = [torch.stack([torch.randint(0, 9, (1, n)).float(), 90 + 60 * torch.rand(1, n)], 2) for n in counts]
        wanted = [stream.step(*pair) for pair in zip(frames, alone, strict=True)]
        found = stream.step_together(list(zip(frames, together, strict=True)))
        for (samples, state), (samples_alone, state_alone) in zip(found, wanted, strict=True):
            torch.testing.assert_close(samples, samples_alone, atol=1e-5, rtol=0)
            assert state.cut == state_alone.cut
            for name in ("frames", "phase", "noise", "tail"):
                torch.testing.assert_close(getattr(state, name), getattr(state_alone, name), atol=1e-5, rtol=0)
            said += samples.abs().sum()
        alone, together = [state for _, state in wanted], [state for _, state in found]
    assert said > 10


@torch.inference_mode()
def test_a_state_keeps_nothing_of_the_other_streams():
    stream = StreamingVocoder(vocos()).generator
    pairs = [(torch.full((1, n, 2), 5.0), stream.initial_state()) for n in (20, 31, 60)]
    for (_, state), (frames, start) in zip(stream.step_together(pairs), pairs, strict=True):
        assert state.nbytes == stream.step(frames, start)[1].nbytes


def test_sessions_in_a_batch_share_the_vocoder():
    bundle = tiny_bundle()
    bundle.vocoder = vocos(20)
    options, utterances = SessionOptions(max_tokens=8), {key: speechlike(1.6, seed=70 + key) for key in range(3)}
    batch = BatchedSession(bundle, options)
    for key in utterances:
        batch.join(key)
    said = {key: reply.events for key, reply in batch.push(utterances, 16000).items()}
    for key, reply in batch.finish().items():
        session = TranslationSession(bundle, options)
        wanted = session.push(utterances[key], 16000) + session.finish()
        for one, other in zip(said[key] + reply.events, wanted, strict=True):
            assert type(one) is type(other)
            if isinstance(one, Speech):
                assert one.units == other.units
                torch.testing.assert_close(*map(torch.from_numpy, (one.samples, other.samples)), atol=1e-4, rtol=0)
    assert batch.batches < 0.7 * batch.calls
