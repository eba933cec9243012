"""What `optimize` does to a bundle leaves the translation as it was, or nearly so where the user asked for rounding."""

import copy
from pathlib import Path

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.bundle import load_bundle, save_bundle
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.optimize import optimize, prepare
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.modules.native_linear import NativeLinear
from echostream_plugin.modules.packed import PackedLinear, can_pack
from echostream_plugin.vocoder import StreamingVocoder
from tests import native_library
from tests.tiny_bundle import speechlike, tiny_bundle

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
def test_a_bundle_in_eight_bits_is_packed_in_half_precision_too(tmp_path):
    side = {f"{name}_dictionary": BUNDLE / f"{name}.dict.txt" for name in ("source", "target")}
    model = load_bundle(BUNDLE).model
    save_bundle(tmp_path, model, **side, gcmvn=BUNDLE / "gcmvn.json", int8=["encoder"])
    assert optimize(load_bundle(tmp_path)).quantize == "half"


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


def recorded_frames(bundle):
    """The lengths, in frames, and streams of the segments that are recorded."""
    return {(x[0][0], x[0][1]) for (_, _, x, *_) in bundle.model.encoder.emformer._recorder._recordings}


@pytest.fixture
def without_operator(monkeypatch):
    monkeypatch.setenv("ECHOSTREAM_NATIVE", "off")


@pytest.mark.parametrize("quantize, kind", [("none", "float32"), ("half", "half"), ("int8", "int8")])
def test_steps_are_compiled_where_the_operator_is_there(quantize, kind):
    native_library.use()
    bundle = optimize(tiny_bundle(), quantize)
    assert bundle.instructions == native_library.paths()[-1] and bundle.quantize == quantize
    layer = bundle.model.encoder.emformer.layers[0].attention.query
    assert type(layer) is NativeLinear and layer.packing == kind
    assert (type(bundle.model.source_unigram_decoder.proj) is NativeLinear) == (quantize != "none")
    assert bundle.model.encoder.emformer._recorder is None
    with pytest.raises(BundleError, match="packed"):
        bundle.to("meta")


@needs_fbgemm
def test_an_encoder_without_compiled_steps_is_packed_as_recordings_need_it(monkeypatch):
    native_library.use()
    monkeypatch.delattr(EmformerEncoder, "compile_steps")
    bundle = optimize(tiny_bundle(), "half")
    kinds = {type(m) for m in bundle.model.encoder.modules() if isinstance(m, torch.nn.Linear)}
    assert kinds == {PackedLinear} and bundle.model.encoder.emformer._recorder.recorded
    assert type(bundle.model.source_unigram_decoder.proj) is NativeLinear and bundle.instructions is None


def test_without_the_operator_steps_are_recorded(without_operator, monkeypatch):
    bundle = optimize(tiny_bundle())
    assert bundle.instructions is None and bundle.model.encoder.emformer._recorder.recorded
    assert not any(isinstance(module, NativeLinear) for module in bundle.model.modules())
    monkeypatch.setenv("ECHOSTREAM_NATIVE", "fast")
    with pytest.raises(ConfigError, match="ECHOSTREAM_NATIVE 'fast': use auto"):
        optimize(tiny_bundle())


@pytest.mark.parametrize("path", ["off", "portable", "avx2"])
def test_every_way_translates_the_same(monkeypatch, path):
    if path not in ("off", *native_library.paths()):
        pytest.skip(f"this processor has no {path}")
    wanted = translate(load_bundle(BUNDLE))
    monkeypatch.setenv("ECHOSTREAM_NATIVE", path)
    assert translate(optimize(load_bundle(BUNDLE))) == wanted and wanted[1]


def test_whole_segments_and_those_that_pushes_leave_are_recorded_before_any_push(without_operator):
    bundle = optimize(tiny_bundle(), options=SessionOptions(chunk_ms=960))
    assert recorded_frames(bundle) == {(1, 8), (1, 16), (1, 24)}
    prepare(bundle, SessionOptions(chunk_ms=160), push_ms=40)
    assert recorded_frames(bundle) == {(1, 8), (1, 16), (1, 24), (1, 1), (1, 2), (1, 3), (1, 4)}
    prepare(bundle, SessionOptions(chunk_ms=320), streams=3)
    assert (3, 8) in recorded_frames(bundle)
    count = bundle.model.encoder.emformer._recorder.recorded
    prepare(bundle, SessionOptions(chunk_ms=0))
    prepare(bundle, SessionOptions(chunk_ms=40000), push_ms=10**7)
    prepare(bundle, SessionOptions(chunk_ms=160), push_ms=10**7)
    assert bundle.model.encoder.emformer._recorder.recorded == count
    with pytest.raises(ConfigError, match="push_ms must be at least 1, got 0"):
        prepare(bundle, push_ms=0)


def test_sessions_record_nothing_whatever_they_push(without_operator):
    bundle = optimize(tiny_bundle())
    before = recorded_frames(bundle)
    session, samples = TranslationSession(bundle, max_tokens=4), speechlike(3.0)
    for start in range(0, len(samples), 640):
        session.push(samples[start : start + 640], 16000)
    session.finish()
    recordings = bundle.model.encoder.emformer._recorder._recordings.values()
    assert recorded_frames(bundle) == before == {(1, 8)}
    assert [recording.uses > 5 for recording in recordings] == [True]


@needs_fbgemm
def test_weights_that_are_loaded_later_take_effect_and_copies_keep_theirs():
    def hear(bundle):
        features = torch.ones(1, 90, 80)
        with torch.inference_mode():
            frames, state = bundle.model.encoder.step(features, bundle.model.encoder.initial_state(1, 8))
            return torch.cat([frames, bundle.model.encoder.finish(state)], dim=1)

    one, other = (optimize(tiny_bundle(seed=seed), "half") for seed in (1, 2))
    before, wanted, copied = hear(one), hear(other), copy.deepcopy(one)
    one.model.load_state_dict(other.model.state_dict())
    assert torch.equal(hear(one), wanted) and not torch.equal(wanted, before)
    assert torch.equal(hear(copied), before)
    prepare(one)
    copied.model.load_state_dict(one.model.state_dict())
    copied.model.encoder.emformer.layers[0].output_norm.bias.data.fill_(1.0)
    assert torch.equal(hear(one), wanted) and not torch.equal(hear(copied), wanted)


def speak(bundle, units):
    vocoder = StreamingVocoder(bundle.vocoder)
    samples, state = vocoder.push(units, vocoder.initial_state())
    return torch.cat([samples, vocoder.finish(state)])
