"""`--decoding recompute` does what StreamSpeech's agent did, push by push, fed with the features that the agent saw.

The data hold a small model with random weights, and of two clips the policy's actions, CTC tokens, MT tokens and units
at every push of 320 ms (k1 = 0 and 1, stride_n = 1 and 2), 640 and 1280 ms; and the features before CMVN: a clip's, and
of each push the last four frames, which the resampler still changed later.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from echostream_plugin.config import (
    ChunkConformerConfig,
    ConfigError,
    CTCHeadConfig,
    ModelConfig,
    TextDecoderConfig,
    UnitDecoderConfig,
)
from echostream_plugin.constants import EOS
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.events import Speech, TargetText
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.policies import POLICIES
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.translators.recompute import PrefixTranslator
from echostream_plugin.model import S2STModel
from tests.tiny_bundle import speechlike, tiny_bundle, tiny_vocoder

DATA = Path(__file__).parents[1] / "data"
TRACES = DATA / "streamspeech_traces"
RECORDS = json.loads((TRACES / "traces.json").read_text(encoding="utf-8"))


FEATURES, CMVN = load_file(TRACES / "features.safetensors"), np.load(TRACES / "gcmvn.npz")


def seen_features(clip: str, frames: int) -> np.ndarray:
    """What the original agent saw of a clip when it had so many frames, normalised. [frames, 80]"""
    whole = FEATURES[clip].numpy()
    seen = whole if frames == len(whole) else np.concatenate([whole[: frames - 4], FEATURES[f"{clip}.{frames}"]])
    return (seen - CMVN["mean"]) / CMVN["std"]


@pytest.fixture(scope="module")
def model():
    size = {"dim": 32, "heads": 4, "ffn_dim": 64}
    config = ModelConfig(
        encoder=ChunkConformerConfig(layers=2, conv_channels=64, **size),
        asr=CTCHeadConfig(vocab=41, dim=32),
        st=CTCHeadConfig(vocab=47, dim=32),
        mt=TextDecoderConfig(vocab=47, encoder_dim=32, layers=2, **size),
        unit=UnitDecoderConfig(
            vocab=55, encoder_layers=1, layers=2, upsample=5, time_positions=False, offset_embedding=False, **size
        ),
    )
    model = S2STModel(config).eval()
    weights = load_file(TRACES / "model.safetensors")
    model.load_state_dict({name: tensor for name, tensor in weights.items() if not name.endswith(".version")})
    return model


@pytest.mark.parametrize("trace", RECORDS)
def test_every_push_is_the_original_agents(model, trace):
    clip, segment, k1, stride_n = trace.split(".")
    chunk_ms = int(segment.removeprefix("seg"))
    dictionary = Dictionary.read(DATA / "streamspeech_parity" / "data" / "tgt.txt")
    options = SessionOptions(chunk_ms=chunk_ms, lagging_k1=int(k1[1:]), stride_n=int(stride_n[1:]))
    translator = PrefixTranslator(model, dictionary, POLICIES["ctc"](options))
    for record in RECORDS[trace]:
        seen = seen_features(clip, record["frames"])
        with torch.no_grad():
            frames, _ = model.encoder(torch.from_numpy(seen)[None], torch.tensor([len(seen)]), chunk_ms // 40)
            step = translator.step(frames, record["finished"])
        assert (step.asr, step.st) == (record["asr"], record["st"])
        tokens = None if "mt" not in record else [token for token in record["mt"] if token != EOS]
        assert (step.tokens, step.units) == (tokens, record.get("units"))
        assert bool(step.new_units or record["finished"]) == (record["action"] == "write")


class StoredFeatures:
    """A front end that gives the stored features, as many frames at each push as the original agent had."""

    sample_rate = 16000

    def __init__(self, features, counts):
        self.features, self.counts = features, [0, *counts]

    def push(self, samples):
        return self.features[self.counts.pop(0) : self.counts[0]]

    def finish(self):
        return self.features[:0]


@pytest.mark.parametrize("trace", RECORDS)
def test_a_session_writes_what_the_original_agent_wrote_when_it_did(model, trace, monkeypatch):
    """Its encoder is incremental, its texts, units and times of writing are those of the whole recomputation."""
    clip, segment, k1, stride_n = trace.split(".")
    chunk_ms, records = int(segment.removeprefix("seg")), RECORDS[trace]
    counts = [record["frames"] for record in records]
    stored = StoredFeatures(seen_features(clip, counts[-1]), counts)
    monkeypatch.setattr("echostream_plugin.inference.session.Frontend", lambda *_: stored)
    source, target = (Dictionary.read(DATA / "streamspeech_parity" / "data" / f"{side}.txt") for side in ("src", "tgt"))
    bundle = Bundle(model, model.config, source, target, CMVN["mean"], CMVN["std"], tiny_vocoder(50))
    waits = {"lagging_k1": int(k1[1:]), "stride_n": int(stride_n[1:])}
    session = TranslationSession(bundle, chunk_ms=chunk_ms, decoding="recompute", **waits)
    committed, spoken = [], 0
    for record in records:
        events = session.push(np.zeros(16 * chunk_ms), 16000) + (session.finish() if record["finished"] else [])
        new = [unit for event in events if isinstance(event, Speech) for unit in event.units]
        assert bool(new or record["finished"]) == (record["action"] == "write")
        if "units" in record:
            units = [unit - 4 for unit in record["units"] if unit - 4 in range(50)]
            assert new == units[spoken:]
            spoken, committed = max(spoken, len(units)), [token for token in record["mt"] if token != EOS]
    if chunk_ms < 640:  # whole words leave tokens of a hypothesis uncommitted
        assert session.target_text == target.text(committed)


def test_an_unknown_decoding_is_named():
    with pytest.raises(ConfigError, match="decoding 'again': use incremental or recompute"):
        SessionOptions(decoding="again")


@pytest.mark.parametrize("speech", [False, True])
def test_a_session_recomputes(speech):
    """The whole way through a session: texts grow, units are spoken, and a reset leaves nothing."""
    bundle, samples = tiny_bundle(), speechlike(3.0)
    session = TranslationSession(bundle, decoding="recompute", speech=speech)
    results = []
    for _ in range(2):
        events = []
        for start in range(0, len(samples), 5120):
            events += session.push(samples[start : start + 5120], 16000)
        events += session.finish()
        texts = [event.text for event in events if isinstance(event, TargetText)]
        assert texts and all(after.startswith(before) for before, after in zip(texts, texts[1:], strict=False))
        spoken = [event for event in events if isinstance(event, Speech)]
        assert bool(spoken) == speech and all(np.isfinite(event.samples).all() for event in spoken)
        results.append((texts, [event.units for event in spoken]))
        session.reset()
    assert results[0] == results[1]


def test_the_end_is_one_decoding_step(monkeypatch):
    steps, speech = [], speechlike(3.0)
    step = PrefixTranslator.step
    monkeypatch.setattr(
        PrefixTranslator, "step", lambda *args, **kwargs: steps.append(args[2]) or step(*args, **kwargs)
    )
    session = TranslationSession(tiny_bundle(), SessionOptions(decoding="recompute", speech=False))
    session.push(speech[:16000], 16000)
    session.push(speech[16000:], 16000, last=True)
    session.finish()
    assert steps == [False, True]


@pytest.mark.parametrize("decoding", ["incremental", "recompute"])
def test_the_chunk_conformer_streams_in_a_session(decoding):
    """Its transcript is the CTC head's over the whole recording, whatever the pushes; it translates and speaks."""
    tiny, samples = tiny_bundle(), speechlike(4.0)
    encoder = ChunkConformerConfig(dim=16, layers=2, heads=2, ffn_dim=32, conv_channels=16)
    torch.manual_seed(0)
    config = dataclasses.replace(tiny.config, encoder=encoder)
    bundle = dataclasses.replace(tiny, model=S2STModel(config).eval(), config=config)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    with torch.no_grad():
        frames, _ = bundle.model.encoder(features, torch.tensor([features.size(1)]), 8)
        tokens, _ = greedy_collapse(bundle.model.source_unigram_decoder(frames)[0])
    for push in (5120, 1777):
        session = TranslationSession(bundle, decoding=decoding)
        events = []
        for start in range(0, len(samples), push):
            events += session.push(samples[start : start + push], 16000)
        events += session.finish()
        assert session.source_text == bundle.source_dictionary.text(tokens) != ""
        assert session.target_text and any(isinstance(event, Speech) for event in events)
