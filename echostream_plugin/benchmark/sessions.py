"""Whole sessions: time per push, the stages it goes to, and how many sessions a core serves."""

import math
import time
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from echostream_plugin.benchmark.measure import Spread, timed
from echostream_plugin.config import ModelConfig
from echostream_plugin.constants import SAMPLE_RATE, SPECIALS
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.batch import run_together
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.events import Speech, TargetText
from echostream_plugin.inference.features import Frontend, features_of
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.work import Call
from echostream_plugin.model import S2STModel
from echostream_plugin.modules.recording import record_calls
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, StreamingVocoder, VocoderConfig, VocosConfig

PUSH_MS = 320
TOKENS_PER_SECOND = 3.0  # of source and of target
UNITS_PER_TOKEN = 15  # of 20 ms, some of 40: about as much speech comes out as goes in


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound whose pitch and loudness wander. [n] float32"""
    draw = np.random.default_rng(seed)
    clock, knots = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE, np.arange(0, seconds + 1, 0.1)
    pitch = np.interp(clock, knots, 80 + 3000 * draw.random(len(knots)))
    loud = np.interp(clock, knots, draw.random(len(knots)) ** 3)
    return (0.3 * loud * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)).astype(np.float32)


class ScheduledUnits(nn.Module):
    """The unit decoder's projection with outputs that are made sure of: every token gives the same units, so that the
    vocoder has the work that it has with speech."""

    def __init__(self, projection: nn.Module, upsample: int):
        super().__init__()
        self.projection = projection
        symbols = torch.full((upsample,), projection.weight.size(0) - 1)  # blanks
        units = min(UNITS_PER_TOKEN, upsample - 1)
        symbols[:units] = len(SPECIALS) + torch.arange(units)
        self.register_buffer("gain", 1e4 * nn.functional.one_hot(symbols, projection.weight.size(0)).float())

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [B, U * upsample, D], whole tokens; returns logits [B, U * upsample, V]."""
        return self.projection(frames) + self.gain.repeat(frames.size(1) // self.gain.size(0), 1)


def random_bundle(config: ModelConfig, vocoder: VocoderConfig | VocosConfig | None) -> Bundle:
    """A model with random weights that hears and says about three tokens a second, as speech does, and speaks about
    as long as it hears; vocoder None: no speech."""
    torch.manual_seed(0)
    model = S2STModel(config).eval()
    symbols = [Dictionary((*SPECIALS, *(f"▁t{i}" for i in range(head.vocab - 4)))) for head in (config.asr, config.mt)]
    kind = CodeVocos if isinstance(vocoder, VocosConfig) else CodeHiFiGAN
    spoken = None if vocoder is None else kind(vocoder).remove_weight_norm().eval()
    bins = config.encoder.input_dim
    bundle = Bundle(model, config, *symbols, np.full(bins, 10, np.float32), np.full(bins, 4, np.float32), spoken)
    with torch.inference_mode():
        features = torch.from_numpy(features_of(noise(10.0), SAMPLE_RATE, bundle.cmvn_mean, bundle.cmvn_std))[None]
        frames, _ = model.encoder(features, torch.tensor([features.size(1)]))
        for head in (model.source_unigram_decoder, model.ctc_target_unigram_decoder):
            head.proj.bias[0] += blank_bias(head(frames)[0], round(TOKENS_PER_SECOND * 10))
    model.decoder.output_projection = ScheduledUnits(model.decoder.output_projection, config.unit.upsample)
    return bundle


def blank_bias(logits: Tensor, wanted: int) -> float:
    """The least that the blank must gain for logits [S, V] to give no more than `wanted` tokens."""
    low, high = -50.0, 50.0
    for _ in range(14):
        bias = (low + high) / 2
        raised = logits.clone()
        raised[:, 0] += bias
        many = len(greedy_collapse(raised)[0]) > wanted
        low, high = (bias, high) if many else (low, bias)
    return high


@contextmanager
def stopwatch(bundle: Bundle):
    """Seconds by stage, in a dict that fills while sessions of this bundle work. Not for two threads at once."""
    model, spent, undo = bundle.model, {}, []
    watched = [
        ("features", Frontend, "push"),
        ("encoder", model.encoder, "step"),
        ("encoder", model.encoder, "finish"),
        ("CTC heads", model.source_unigram_decoder, "step"),
        ("CTC heads", model.ctc_target_unigram_decoder, "step"),
        ("MT", model.target_unigram_decoder, "add_source"),
        ("MT", model.target_unigram_decoder, "propose"),
        ("T2U and units", model.synthesizer_encoder, "step"),
        ("T2U and units", model.decoder, "step"),
        ("T2U and units", model.decoder, "finish"),
        ("vocoder", StreamingVocoder, "frames"),
    ]
    if bundle.vocoder is not None:
        generator = type(StreamingVocoder(bundle.vocoder).generator)
        watched += [("vocoder", generator, "step"), ("vocoder", generator, "finish")]
    for stage, owner, name in watched:
        spent.setdefault(stage, 0.0)
        own = vars(owner).get(name)
        setattr(owner, name, _clocked(getattr(owner, name), spent, stage))
        undo.append((owner, name, own))
    try:
        yield spent
    finally:
        for owner, name, own in undo:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _clocked(function, spent: dict, stage: str):
    def call(*args, **kwargs):
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.perf_counter() - began

    return call


def speaking(bundle: Bundle) -> SessionOptions:
    """How a random bundle translates: sentences of 10 s, each of which may say ten tokens more at its end."""
    speaks = bundle.vocoder is not None
    return SessionOptions(pause_ms=800, longest_sentence_ms=10000, max_tokens=10, speech=speaks)


def percentile(times: list, share: float) -> float:
    """The time below which so large a share of them lies; the worst is not left out of a few."""
    return sorted(times)[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


def time_session(bundle: Bundle, seconds: float) -> dict:
    """A session over so much sound in pushes of 320 ms, its first one among them: real-time factor, times of pushes,
    how soon the first speech of a push is there, seconds by stage."""
    session, samples, pushes, soon = TranslationSession(bundle, speaking(bundle)), noise(seconds), [], []
    tokens, spoken, size = 0, 0.0, SAMPLE_RATE * PUSH_MS // 1000
    with stopwatch(bundle) as spent:
        for start in range(0, len(samples), size):
            began, events = time.perf_counter(), []
            for event in session.push_events(samples[start : start + size], SAMPLE_RATE):
                if isinstance(event, Speech) and not any(isinstance(each, Speech) for each in events):
                    soon.append(1000 * (time.perf_counter() - began))
                events.append(event)
            pushes.append(1000 * (time.perf_counter() - began))
            tokens += sum(len(event.added.split()) for event in events if isinstance(event, TargetText))
            spoken += sum(len(event.samples) / event.sample_rate for event in events if isinstance(event, Speech))
        began = time.perf_counter()
        spoken += sum(len(event.samples) / event.sample_rate for event in session.finish() if isinstance(event, Speech))
        last = 1000 * (time.perf_counter() - began)
    return {
        "seconds": seconds,
        "rtf": (sum(pushes) + last) / 1000 / seconds,
        "push_ms": Spread.of(pushes),
        "push_p95_ms": percentile(pushes, 0.95),
        "push_p99_ms": percentile(pushes, 0.99),
        "push_worst_ms": max(pushes),
        "speech_soonest_ms": Spread.of(soon) if soon else None,
        "finish_ms": last,
        "tokens": tokens,
        "spoken_seconds": spoken,
        "stages_rtf": {stage: value / seconds for stage, value in spent.items()},
    }


@torch.inference_mode()
def time_batches(bundle: Bundle, sizes: list, runs: int, device: str) -> list:
    """Encoder step and CTC heads of B sessions stacked: how many sessions one process listens to in real time."""
    model, rows = bundle.model, []
    features = torch.randn(1, PUSH_MS // 10, bundle.config.encoder.input_dim, device=device)
    heads = (model.source_unigram_decoder, model.ctc_target_unigram_decoder)
    for size in sizes:
        states = [model.encoder.step(features, model.encoder.initial_state())[1] for _ in range(size)]
        head_states = [[head.initial_state() for _ in range(size)] for head in heads]

        def work(states=states, head_states=head_states):
            answers = run_together([Call(model.encoder.step, features, state) for state in states])
            for head, past in zip(heads, head_states, strict=True):
                calls = [Call(head.step, frames, one) for (frames, _), one in zip(answers, past, strict=True)]
                run_together(calls)

        with record_calls():
            work()
        spread = timed(work, runs, device)
        rows.append({"sessions": size, "ms": spread, "at_real_time": size * PUSH_MS / spread.median})
    return rows
