"""Whisper's features, a piece at a time; and a session whose encoder reads them."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.constants import SPECIALS
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.bundle import Bundle, load_bundle, save_bundle
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.features import Frontend, features_of, raw_features
from echostream_plugin.inference.frontends.whisper import FLOOR, StreamingLogMel, mel_filters
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.pauses import PauseDetector
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.model import S2STModel
from tests import native_library
from tests.tiny_bundle import SOURCE_SUBWORDS, TARGET_SUBWORDS, UNITS, make_talkative, speechlike, tiny_vocoder
from tests.whisper_file import whisper_model_config

KIND = "whisper-log-mel"
ZEROS, ONES = np.zeros(80, np.float32), np.ones(80, np.float32)


@settings(max_examples=10)
@given(st.lists(st.integers(16, 12000), min_size=1, max_size=6), st.sampled_from([8000, 16000, 44100]))
def test_features_are_the_same_for_any_cutting(sizes, rate):
    samples, frontend, start, turn, pieces = speechlike(0.6, rate), Frontend(rate, ZEROS, ONES, KIND), 0, 0, []
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        pieces.append(frontend.push(samples[start : start + size]))
        start, turn = start + size, turn + 1
    given = np.concatenate([*pieces, frontend.finish()])
    whole = raw_features(samples, rate, KIND)
    assert given.shape == whole.shape
    np.testing.assert_allclose(given, whole, atol=1e-5)


def test_the_spectrum_is_whispers_own():
    """Above both floors; at the beginning Whisper mirrors the sound, here there is silence before it."""
    theirs = pytest.importorskip("faster_whisper.feature_extractor", reason="needs faster-whisper")
    extractor = theirs.FeatureExtractor()
    np.testing.assert_allclose(mel_filters(), extractor.mel_filters, atol=1e-7)
    samples = speechlike(3.0)
    theirs, ours = extractor(samples, padding=160).T, raw_features(samples, 16000, KIND)
    theirs = theirs[: len(ours)]
    heard = (theirs > theirs.max() - 1.99) & (ours > (FLOOR + 4) / 4 + 0.01)
    assert heard.mean() > 0.3
    np.testing.assert_allclose(ours[2:][heard[2:]], theirs[2:][heard[2:]], atol=1e-4)


def test_a_filter_bank_by_its_definition():
    """Area 1 for each filter, peaks where mel steps are even: linear up to 1 kHz."""
    filters = mel_filters()
    centres = (filters * np.linspace(0, 8000, 201)).sum(1) / filters.sum(1)
    assert filters.shape == (80, 201) and (np.diff(centres) > 0).all()
    np.testing.assert_allclose(filters[40:].sum(1) * 40, 1.0, atol=0.1)  # bins of 40 Hz


@pytest.mark.parametrize("samples, frames", [(0, 0), (199, 0), (200, 1), (360, 2), (5120, 31), (10240, 63)])
def test_a_frame_comes_when_its_window_is_there(samples, frames):
    """320 ms complete 31 frames, and so do 640 ms 63: a segment of 8 encoder frames is whole at its last sample."""
    assert len(StreamingLogMel().push(np.zeros(samples, np.float32))) == frames == StreamingLogMel.frame_count(samples)


def test_the_floor_is_fixed():
    quiet = raw_features(1e-6 * speechlike(1.0), 16000, KIND)
    assert quiet.min() == quiet.max() == pytest.approx((FLOOR + 4) / 4)
    loud = np.concatenate([1e-3 * speechlike(1.0), speechlike(1.0)])
    alone = raw_features(1e-3 * speechlike(1.0), 16000, KIND)
    np.testing.assert_array_equal(raw_features(loud, 16000, KIND)[: len(alone) - 2], alone[:-2])


def test_little_is_kept_and_a_snapshot_goes_on():
    samples, first = speechlike(2.0), Frontend(16000, ZEROS, ONES, KIND)
    begun = first.push(samples[:20001])
    assert first._extractor.held.nbytes < 4 * 600
    second = Frontend(16000, ZEROS, ONES, KIND)
    second.restore(first.snapshot())
    rest = [np.concatenate([one.push(samples[20001:]), one.finish()]) for one in (first, second)]
    np.testing.assert_array_equal(*rest)
    np.testing.assert_allclose(np.concatenate([begun, rest[0]]), raw_features(samples, 16000, KIND), atol=1e-5)


def test_a_pause_is_heard_in_these_features_too():
    samples = np.concatenate([speechlike(1.5), np.zeros(8000, np.float32), speechlike(0.5, seed=1)])
    detector = PauseDetector(ZEROS, ONES, KIND)
    detector.push(raw_features(samples, 16000, KIND))
    found = detector.pauses(60, 5)
    assert found and 37 < found[0] < 48  # 200 ms after 1.5 s
    silence = PauseDetector(ZEROS, ONES, KIND)
    silence.push(raw_features(np.zeros(16000, np.float32), 16000, KIND))
    silence.advance(20)
    assert silence.quiet_frames > 15


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(1)
    source, target = len(SPECIALS) + len(SOURCE_SUBWORDS), len(SPECIALS) + len(TARGET_SUBWORDS)
    model = S2STModel(whisper_model_config(source, target, UNITS + len(SPECIALS) + 1)).eval()
    make_talkative(model, 4.0, 3.0)
    dictionaries = (Dictionary((*SPECIALS, *pieces)) for pieces in (SOURCE_SUBWORDS, TARGET_SUBWORDS))
    return Bundle(model, model.config, *dictionaries, ZEROS, ONES, tiny_vocoder())


def translate(bundle, samples, piece, **options):
    session = TranslationSession(bundle, chunk_ms=320, **options)
    for start in range(0, len(samples), piece):
        session.push(samples[start : start + piece], 16000)
    session.finish()
    return session.source_text, session.target_text


def test_a_session_hears_with_the_front_end_of_its_encoder(bundle):
    samples = speechlike(4.0)
    texts = {translate(bundle, samples, piece) for piece in (5120, 64000)}
    assert len({source for source, _ in texts}) == 1 and all(map(all, texts))
    features = torch.from_numpy(features_of(samples, 16000, ZEROS, ONES, KIND))[None]
    with torch.no_grad():
        frames, _ = bundle.model.encoder(features, torch.tensor([features.size(1)]), 8)
        tokens, _ = greedy_collapse(bundle.model.source_unigram_decoder(frames)[0])
    wanted = bundle.source_dictionary.text(tokens)
    assert {source for source, _ in texts} == {wanted}


def test_an_optimised_bundle_says_the_same(bundle, monkeypatch):
    monkeypatch.setenv("ECHOSTREAM_NATIVE", "off")
    samples, wanted = speechlike(3.0), translate(bundle, speechlike(3.0), 5120)
    optimised = optimize(copy.deepcopy(bundle), quantize="none", options=SessionOptions(chunk_ms=320))
    fine, coarse = (getattr(optimised.model.encoder, name)._recorder for name in ("fine", "coarse"))
    recorded = fine.recorded, coarse.recorded
    assert translate(optimised, samples, 5120) == wanted and min(recorded) > 0
    assert (fine.recorded, coarse.recorded) == recorded  # every step of the stream was ready before it


def test_a_bundle_with_compiled_steps_says_the_same(bundle):
    native_library.use()
    samples, wanted = speechlike(3.0), translate(bundle, speechlike(3.0), 5120)
    optimised = optimize(copy.deepcopy(bundle), quantize="none", options=SessionOptions(chunk_ms=320))
    assert optimised.instructions is not None and translate(optimised, samples, 5120) == wanted


def test_a_session_goes_on_from_a_file(bundle, tmp_path):
    samples, first = speechlike(3.0), TranslationSession(bundle, chunk_ms=320, pause_ms=200)
    first.push(samples[:21000], 16000)
    snapshot.save(tmp_path / "state", first.snapshot())
    second = TranslationSession(bundle, chunk_ms=320, pause_ms=200)
    second.restore(snapshot.load(tmp_path / "state"))
    events = [session.push(samples[21000:], 16000) + session.finish() for session in (first, second)]
    assert [str(event) for event in events[0]] == [str(event) for event in events[1]] and len(events[0]) > 2


def test_a_bundle_says_which_features_it_reads(bundle, tmp_path):
    for side, pieces in (("source", SOURCE_SUBWORDS), ("target", TARGET_SUBWORDS)):
        (tmp_path / f"{side}.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    files = {"source_dictionary": tmp_path / "source.txt", "target_dictionary": tmp_path / "target.txt"}
    folder = save_bundle(tmp_path / "bundle", bundle.model, **files, gcmvn=None)
    again = load_bundle(folder)
    assert again.config == bundle.config and (again.cmvn_std == 1).all()
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"floor": -6.5', '"floor": -8'))
    with pytest.raises(BundleError, match="made with features .*-8.*this program makes"):
        load_bundle(folder)
