"""A bundle whose vocoder is a code_vocos: read back, streamed through a session, in a snapshot."""

import numpy as np
import torch

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.bundle import load_bundle, save_bundle
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.speak import SpokenSentence, TextSpeaker
from echostream_plugin.vocoder import CodeVocos, StreamingVocoder, VocosConfig
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle


def tiny_vocos(units: int = 20) -> CodeVocos:
    torch.manual_seed(3)
    config = VocosConfig(
        num_embeddings=units, embedding_dim=8, dim=16, hidden_dim=16, coarse_blocks=1, fine_blocks=1, prosody_dim=8
    )
    model = CodeVocos(config).eval()
    with torch.no_grad():
        model.prosody.out.bias[0] = 1.3
        model.head.bias[: model.bins] += 2
    return model


def vocos_bundle():
    bundle = tiny_bundle()
    bundle.vocoder = tiny_vocos()
    return bundle


def test_round_trip(tmp_path):
    folder = save_tiny_bundle(tmp_path)
    bundle = load_bundle(folder)
    again = save_bundle(
        tmp_path / "again",
        bundle.model,
        source_dictionary=folder / "source.dict.txt",
        target_dictionary=folder / "target.dict.txt",
        gcmvn=folder / "gcmvn.json",
        vocoder=tiny_vocos(),
    )
    loaded = load_bundle(again)
    assert isinstance(loaded.vocoder, CodeVocos) and loaded.vocoder.config == tiny_vocos().config
    units = torch.tensor([[1, 5, 3, 9]])
    torch.testing.assert_close(loaded.vocoder(units)[0], tiny_vocos()(units)[0], atol=5e-3, rtol=0)


def test_a_session_speaks_what_the_vocoder_says_of_its_units():
    bundle = vocos_bundle()
    session = TranslationSession(bundle)
    audio = speechlike(3.0)
    events = [e for i in range(0, len(audio), 3000) for e in session.push(audio[i : i + 3000], 16000)]
    events += session.finish()
    assert_spoken(bundle, events)


def test_text_is_spoken_with_the_times_of_its_words():
    bundle = vocos_bundle()
    speaker = TextSpeaker(bundle)
    events = speaker.push("t1 t2y3 t4 t5y0y1") + speaker.finish()
    assert_spoken(bundle, events)
    (sentence,) = [event for event in events if isinstance(event, SpokenSentence)]
    ends = [word.end_ms for word in sentence.words]
    samples = sum(event.samples.size for event in events if isinstance(event, Speech))
    assert ends == sorted(ends) and 0 < ends[-1] <= samples / 16


def assert_spoken(bundle, events):
    """The speech of the events is their units' run once."""
    speech = [event for event in events if isinstance(event, Speech)]
    units = [unit for event in speech for unit in event.units]
    spoken = np.concatenate([event.samples for event in speech])
    with torch.inference_mode():
        expected, _ = bundle.vocoder(torch.tensor([units]))
    assert len(units) > 3 and spoken.std() > 1e-3
    np.testing.assert_allclose(spoken, expected[0].numpy(), atol=1e-5)


def test_stream_goes_on_from_a_snapshot(tmp_path):
    vocoder = StreamingVocoder(tiny_vocos())
    _, state = vocoder.push([1, 2, 3, 4, 5, 6, 7, 8, 9], vocoder.initial_state())
    snapshot.save(tmp_path / "state", {"vocoder": state})
    restored = snapshot.load(tmp_path / "state")["vocoder"]
    assert torch.equal(vocoder.push([3, 1, 4, 1, 5], restored)[0], vocoder.push([3, 1, 4, 1, 5], state)[0])
    assert torch.equal(vocoder.finish(restored), vocoder.finish(state))
