"""The same speech through StreamSpeech's model, recomputed and incremental, and through EchoStream.

They share decoders, their random weights and the rate at which they write, and all but one the vocoder; run by
scripts/compare_streamspeech.py.
"""

import math
import statistics
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from echostream_plugin.benchmark.sessions import (
    PUSH_MS,
    TOKENS_PER_SECOND,
    blank_bias,
    random_bundle,
    stopwatch,
)
from echostream_plugin.config import ModelConfig
from echostream_plugin.constants import FRAME_MS, SAMPLE_RATE
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder import VocoderConfig, VocosConfig

LIGHT = "EchoStream, half-precision weights, code_vocos"
WARM_UP_SECONDS = 12
PUSH = SAMPLE_RATE * PUSH_MS // 1000


@dataclass(frozen=True)
class AllFeatures(StreamState):
    """What recomputing keeps: every feature frame so far, [B, T, F]."""

    features: Tensor


class RecomputedEncoder(nn.Module):
    """An encoder that starts from the first frame at every push, as StreamSpeech's agent runs it: none of its frames
    is ever final before the source ends."""

    def __init__(self, encoder: nn.Module, segment_frames: int):
        super().__init__()
        self.encoder, self.segment_frames = encoder, segment_frames

    def output_lengths(self, lengths):
        """As of the encoder inside."""
        return self.encoder.output_lengths(lengths)

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> AllFeatures:
        """The state before the first feature frame."""
        return AllFeatures(next(self.parameters()).new_zeros(batch_size, 0, self.encoder.config.input_dim))

    def step(self, features: Tensor, state: AllFeatures) -> tuple[Tensor, AllFeatures]:
        """features: [B, t, F]; no frames come out, they wait for `finish`."""
        none = features.new_zeros(features.size(0), 0, self.encoder.config.dim)
        return none, AllFeatures(torch.cat([state.features, features], dim=1))

    def finish(self, state: AllFeatures) -> Tensor:
        """All frames [B, S, C], if the utterance ended here."""
        lengths = torch.full((state.batch_size,), state.features.size(1), device=state.features.device)
        return self.encoder(state.features, lengths, self.segment_frames)[0]


@dataclass(frozen=True)
class System:
    """A row of the table: a name, a model and how a session decodes with it."""

    name: str
    bundle: Bundle
    decoding: str

    def session(self) -> TranslationSession:
        """A new session of this system."""
        options = SessionOptions(chunk_ms=PUSH_MS, max_tokens=10, decoding=self.decoding)
        return TranslationSession(self.bundle, options)


def read_recordings(paths: list, seconds: float) -> np.ndarray:
    """`seconds` of sound at 16 kHz: the recordings one after the other, from the first again when they are through."""
    once = np.concatenate([read_mono(path) for path in paths])
    return np.tile(once, math.ceil(seconds * SAMPLE_RATE / len(once)))[: round(seconds * SAMPLE_RATE)]


def build_systems(
    echostream: ModelConfig, streamspeech: ModelConfig, vocoder: VocoderConfig, light: VocosConfig, samples
) -> list[System]:
    """The four rows, warm. The configurations differ in the encoder only; decoders get the same weights, and so do the
    vocoders but for the last row's, which is EchoStream as it is meant to run: half-precision weights, `code_vocos`.

    samples: [n] at 16 kHz, over which the rate of tokens is set."""
    bundles = [random_bundle(config, vocoder) for config in (echostream, streamspeech, streamspeech)]
    bundles.append(random_bundle(echostream, light))
    first = bundles[0]
    shared = {name: tensor for name, tensor in first.model.state_dict().items() if not name.startswith("encoder.")}
    for bundle in bundles:
        bundle.model.load_state_dict(shared, strict=False)
    for bundle in bundles[:3]:
        bundle.vocoder.load_state_dict(first.vocoder.state_dict())
    weights = ("none", "none", "none", "half")
    bundles = [optimize(_suited(bundle, samples), kind) for bundle, kind in zip(bundles, weights, strict=True)]
    bundles[2].model.encoder = RecomputedEncoder(bundles[2].model.encoder, PUSH_MS // FRAME_MS).eval()
    names = ("EchoStream", "StreamSpeech, incremental", "StreamSpeech, recomputed", LIGHT)
    decodings = ("incremental", "incremental", "recompute", "incremental")
    systems = [System(*row) for row in zip(names, bundles, decodings, strict=True)]
    for system in systems:
        time_pushes(system, samples[: WARM_UP_SECONDS * SAMPLE_RATE])
    return [systems[2], systems[1], systems[0], systems[3]]


@torch.inference_mode()
def _suited(bundle: Bundle, samples: np.ndarray) -> Bundle:
    """The bundle with CMVN of these samples, writing and speaking about as fast as people do."""
    raw = features_of(samples, SAMPLE_RATE, np.zeros_like(bundle.cmvn_mean), np.ones_like(bundle.cmvn_std))
    bundle = replace(bundle, cmvn_mean=raw.mean(0), cmvn_std=raw.std(0))
    model, seconds = bundle.model, len(samples) / SAMPLE_RATE
    features = torch.from_numpy((raw - bundle.cmvn_mean) / bundle.cmvn_std)[None]
    frames, _ = model.encoder(features, torch.tensor([features.size(1)]), PUSH_MS // FRAME_MS)
    wanted = round(TOKENS_PER_SECOND * seconds)
    for head in (model.source_unigram_decoder, model.ctc_target_unigram_decoder):
        head.proj.bias[0] += blank_bias(head(frames)[0], wanted)
    return bundle


def held_bytes(value, seen: set | None = None) -> int:
    """Bytes of all tensors and arrays that a session or a part of it holds; weights, in whatever form, do not count."""
    seen = set() if seen is None else seen
    if isinstance(value, nn.Module | nn.Parameter | Bundle) or id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        if (storage.data_ptr(), "storage") in seen:
            return 0
        seen.add((storage.data_ptr(), "storage"))
        return storage.nbytes()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(held_bytes(item, seen) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(held_bytes(item, seen) for item in value)
    if isinstance(value, StreamState) or type(value).__module__.startswith("echostream_plugin.inference."):
        return held_bytes(getattr(value, "__dict__", {}), seen)
    return 0


def time_pushes(system: System, samples: np.ndarray) -> dict:
    """One session over samples [n] at 16 kHz in pushes of 320 ms; `finish` is left out of the times."""
    session, pushes, encoder_ms, events = system.session(), [], 0.0, []
    with stopwatch(system.bundle) as spent:
        for start in range(0, len(samples) - PUSH + 1, PUSH):
            before, began = spent["encoder"], time.perf_counter()
            events += session.push(samples[start : start + PUSH], SAMPLE_RATE)
            pushes.append(1000 * (time.perf_counter() - began))
            encoder_ms = 1000 * (spent["encoder"] - before)
    tokens = session.target_text.count("t")  # the symbols of `random_bundle` are t0, t1, ... behind marks of words
    held, listened = held_bytes(session), held_bytes(session._stream.listener)
    session.finish()
    return {
        "pushes": pushes,
        "encoder_ms": encoder_ms,
        "held_bytes": held,
        "encoder_bytes": listened,
        "tokens": tokens,
        "units": sum(len(event.units) for event in events if isinstance(event, Speech)),
        "source_text": session.source_text,
    }


def summary(name: str, runs: list[dict]) -> dict:
    """A row from several runs over the same samples: medians over runs, quantiles over all pushes of all runs."""
    pushes = sorted(ms for run in runs for ms in run["pushes"])
    seconds = len(runs[0]["pushes"]) * PUSH_MS / 1000
    return {
        "system": name,
        "seconds": seconds,
        "rtf": statistics.median(sum(run["pushes"]) for run in runs) / 1000 / seconds,
        "push_ms": statistics.median(pushes),
        "push_p95_ms": pushes[math.ceil(0.95 * len(pushes)) - 1],
        "push_worst_ms": pushes[-1],
        "encoder_ms": statistics.median(run["encoder_ms"] for run in runs),
        "encoder_mb": runs[0]["encoder_bytes"] / 1e6,
        "held_mb": runs[0]["held_bytes"] / 1e6,
        "tokens_per_second": runs[0]["tokens"] / seconds,
        "units_per_second": runs[0]["units"] / seconds,
    }
