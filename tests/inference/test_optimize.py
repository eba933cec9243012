"""What `optimize` does to a bundle leaves the translation as it was, or nearly so where the user asked for rounding."""

from pathlib import Path

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.modules.packed import can_pack
from echostream_plugin.vocoder import StreamingVocoder

BUNDLE = Path(__file__).parents[2] / "examples" / "quickstart" / "bundle"
RECORDINGS = sorted((BUNDLE / "samples").glob("*.wav"))
needs_fbgemm = pytest.mark.skipif(not can_pack(), reason="needs FBGEMM (x86)")


def translate(bundle):
    """Transcript, translation and units of a recording, pushed in 320 ms."""
    session, (samples, rate), units = TranslationSession(bundle), read_audio(RECORDINGS[0]), []
    events = []
    for start in range(0, len(samples), rate * 320 // 1000):
        events += session.push(samples[start : start + rate * 320 // 1000], rate)
    events += session.finish()
    for event in events:
        units += getattr(event, "units", ())
    return session.source_text, session.target_text, units


def asr_symbols(bundle):
    """The best symbol of the ASR head at every frame of all recordings."""
    symbols = []
    for path in RECORDINGS:
        features = torch.from_numpy(features_of(*read_audio(path), bundle.cmvn_mean, bundle.cmvn_std))[None]
        with torch.inference_mode():
            state = bundle.model.encoder.initial_state(1, 8)
            frames, state = bundle.model.encoder.step(features.to(next(bundle.model.parameters())), state)
            for head in (bundle.model.source_unigram_decoder, bundle.model.ctc_target_unigram_decoder):
                symbols.append(head.step(frames, head.initial_state())[0][0].argmax(-1))
    return torch.cat(symbols)


@needs_fbgemm
def test_a_bundle_is_packed_in_half_precision_by_default_and_translates_the_same():
    wanted = translate(load_bundle(BUNDLE))
    bundle = optimize(load_bundle(BUNDLE))
    assert bundle.quantize == "half"
    assert translate(bundle) == wanted and wanted[1]


@needs_fbgemm
def test_int8_keeps_99_percent_of_the_greedy_tokens():
    wanted = asr_symbols(load_bundle(BUNDLE))
    agree = asr_symbols(optimize(load_bundle(BUNDLE), "int8")).eq(wanted)
    assert len(agree) > 300
    assert agree.float().mean() >= 0.99


def test_bfloat16_translates():
    bundle = optimize(load_bundle(BUNDLE), "bf16")
    assert translate(bundle)[1]


@needs_fbgemm
def test_weights_that_would_be_rounded_are_not_packed_by_default():
    bundle = load_bundle(BUNDLE)
    with torch.no_grad():
        bundle.model.source_unigram_decoder.proj.weight += 1e-6
    assert optimize(bundle).quantize == "none"


@needs_fbgemm
def test_packed_weights_stay_on_the_cpu():
    with pytest.raises(BundleError, match="packed"):
        optimize(load_bundle(BUNDLE)).to("meta")


def test_unknown_quantisation_names_the_known_ones():
    with pytest.raises(ConfigError, match="int4.*int8"):
        optimize(load_bundle(BUNDLE), "int4")


def test_a_vocoder_in_bfloat16_says_the_same():
    bundle = load_bundle(BUNDLE)
    units = list(range(0, 60, 3))
    plain = speak(bundle, units)
    rounded = speak(optimize(bundle, vocoder_bf16=True), units)
    assert plain.shape == rounded.shape
    error = (plain - rounded).square().mean()
    assert 0 < error < plain.square().mean() * 10**-3


def speak(bundle, units):
    vocoder = StreamingVocoder(bundle.vocoder)
    samples, state = vocoder.push(units, vocoder.initial_state())
    return torch.cat([samples, vocoder.finish(state)])
