"""Sessions, batches, snapshots and optimised weights with a Zipformer are as with any encoder."""

import copy
import dataclasses

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.encoders.zipformer import ZipformerConfig
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.pushes import push_all
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.model import S2STModel
from echostream_plugin.modules.packed import can_pack
from tests.tiny_bundle import speechlike, tiny_bundle

OPTIONS = SessionOptions(max_tokens=6)
PUSH = 5120  # 320 ms


@pytest.fixture(scope="module")
def bundle():
    encoder = ZipformerConfig(
        dim=16, stack_dims=(12, 16, 16, 16, 16, 16), layers=(1,) * 6, ffn_dim=(16,) * 6, heads=(2,) * 6, query_dim=4,
        value_dim=4, conv_kernel=(5,) * 6, unmasked_dims=(8,) * 6, left_context_frames=16, memory_size=2,
    )  # fmt: skip
    tiny = tiny_bundle()
    torch.manual_seed(0)
    config = dataclasses.replace(tiny.config, encoder=encoder)
    model = S2STModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_tokens" not in name:
                parameter.mul_(3.0)
    return dataclasses.replace(tiny, model=model, config=config)


def run(session, samples, push=PUSH):
    return push_all(session, samples, 16000, push)


def plain(event):
    return (event.units, event.source_ms) if isinstance(event, Speech) else event


@pytest.mark.parametrize("decoding", ["incremental", "recompute"])
def test_the_transcript_is_that_of_the_whole_recording(bundle, decoding):
    samples = speechlike(3.3)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    with torch.no_grad():
        frames, _ = bundle.model.encoder(features, torch.tensor([features.size(1)]), 8)
        tokens, _ = greedy_collapse(bundle.model.source_unigram_decoder(frames)[0])
    for push in (5120, 1777):
        session = TranslationSession(bundle, dataclasses.replace(OPTIONS, decoding=decoding))
        events = run(session, samples, push)
        assert session.source_text == bundle.source_dictionary.text(tokens) != ""
        assert session.target_text and any(isinstance(event, Speech) for event in events)


def test_sessions_in_a_batch_are_as_alone(bundle):
    utterances = {key: speechlike(1.6, seed=key) for key in range(3)}
    batch, said = BatchedSession(bundle, OPTIONS), {key: [] for key in utterances}
    for key in utterances:
        batch.join(key)
    for start in range(0, len(utterances[0]), PUSH):
        replies = batch.push({key: samples[start : start + PUSH] for key, samples in utterances.items()}, 16000)
        for key, reply in replies.items():
            said[key] += reply.events
    assert batch.batches < batch.calls / 2
    for key, reply in batch.finish().items():
        wanted = run(TranslationSession(bundle, OPTIONS), utterances[key])
        assert list(map(plain, said[key] + reply.events)) == list(map(plain, wanted))


def test_a_session_goes_on_from_a_snapshot(bundle, tmp_path):
    samples = speechlike(1.9, seed=4)
    whole, relay = TranslationSession(bundle, OPTIONS), TranslationSession(bundle, OPTIONS)
    for start in range(0, len(samples), 3333):
        wanted = whole.push(samples[start : start + 3333], 16000)
        snapshot.save(tmp_path / "s", relay.snapshot())
        relay = TranslationSession(bundle, OPTIONS)
        relay.restore(snapshot.load(tmp_path / "s"))
        assert list(map(plain, relay.push(samples[start : start + 3333], 16000))) == list(map(plain, wanted))
    assert list(map(plain, relay.finish())) == list(map(plain, whole.finish()))


@pytest.mark.skipif(not can_pack(), reason="needs FBGEMM (x86)")
@pytest.mark.parametrize("quantize, tolerance", [("half", 1e-3), ("int8", 0.2)])
def test_packed_weights_and_recorded_steps(bundle, quantize, tolerance):
    plain, packed = bundle, copy.deepcopy(bundle)
    optimize(packed, quantize, options=dataclasses.replace(OPTIONS, chunk_ms=320))
    encoder = packed.model.encoder
    assert encoder.encoder._recorder.recorded and encoder.encoder_embed._recorder.recorded
    features, outputs = torch.randn(1, 128, 80, generator=torch.Generator().manual_seed(0)), []
    for model in (plain.model.encoder, encoder):
        with torch.inference_mode():
            state, frames = model.initial_state(1, 8), []
            for piece in features.split(32, dim=1):
                out, state = model.step(piece, state)
                frames.append(out)
            outputs.append(torch.cat(frames, dim=1))
    size = outputs[0].square().mean().sqrt()
    assert 0 < (outputs[0] - outputs[1]).square().mean().sqrt() < tolerance * size
    assert run(TranslationSession(packed, OPTIONS), speechlike(0.7))


def test_a_chunk_that_does_not_fit_is_refused(bundle):
    with pytest.raises(ConfigError, match="segment_frames 6: a chunk of this encoder is a multiple of 4"):
        TranslationSession(bundle, dataclasses.replace(OPTIONS, chunk_ms=240))
