"""Defects of StreamSpeech that EchoStream does not have, each as a statement that would be false of StreamSpeech.

docs/streamspeech.md lists them all, with those of these statements that stand in other files.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from echostream_plugin.config import ChunkConformerConfig
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.stages import Writer
from echostream_plugin.model import S2STModel
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle, tiny_config

ROOT = Path(__file__).resolve().parents[1]
CONFORMER = ChunkConformerConfig(dim=16, layers=2, heads=2, ffn_dim=32, conv_channels=16)
KINDS = ("emformer", "chunk_conformer")
AGENTS = ("echostream_agent", "echostream_s2tt_agent", "echostream_asr_agent")


def build(kind):
    config = tiny_config()
    torch.manual_seed(0)
    return S2STModel(config if kind == "emformer" else dataclasses.replace(config, encoder=CONFORMER)).eval()


def make_features(frames, seed=0):
    return torch.randn(1, frames, 80, generator=torch.Generator().manual_seed(seed))


def encode(model, features, segment_frames):
    with torch.no_grad():
        return model.encoder(features, torch.tensor([features.size(1)]), segment_frames)[0]


def close(actual, wanted):
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=0)


# Training


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawn_segment_is_used_whatever_was_drawn_before(kind):
    """There the chunk mask of the longest batch so far stays: no later, shorter batch gets its own chunk size."""
    model, short = build(kind), make_features(200)
    encode(model, make_features(400), 8)
    after_a_longer_batch = encode(model, short, 16)
    close(after_a_longer_batch, encode(build(kind), short, 16))
    assert (after_a_longer_batch - encode(model, short, 8)).abs().max() > 1e-2


@pytest.mark.parametrize("tokens", [1, 4])
def test_an_utterance_padded_in_a_batch_equals_itself_alone(tokens):
    """There padding reaches the last chunk through the convolutions, the waits, and the unit decoder's positions."""
    model = build("emformer")
    lengths, prev_tokens = torch.tensor([230, 149]), torch.randint(4, 20, (2, 6))
    prev_tokens[1, tokens:] = 1
    features = torch.cat([make_features(230), torch.nn.functional.pad(make_features(149, 1), (0, 0, 0, 81), value=5.0)])
    with torch.no_grad():
        batch = model(features, lengths, prev_tokens)
        alone = model(features[1:, :149], lengths[1:], prev_tokens[1:, :tokens])
    for name in ("encoder", "asr_logits", "st_logits", "mt_logits", "unit_logits"):
        single = getattr(alone, name)
        close(getattr(batch, name)[1:, : single.size(1)], single)
    assert batch.unit_lengths.tolist()[1] == alone.unit_lengths.item() == alone.unit_logits.size(1)


# The encoder in use


@pytest.mark.parametrize("segment_frames", [3, 5, 7, 11, 15])
@pytest.mark.parametrize("kind", KINDS)
def test_odd_segments_hear_all_of_the_audio_in_its_place(kind, segment_frames):
    """There a segment of 5 frames hears the first 70 % of the audio, stretched."""
    model = build(kind)
    features = make_features(203).requires_grad_()
    frames, lengths = model.encoder(features, torch.tensor([203]), segment_frames)
    assert frames.size(1) == int(lengths) == 51
    mixture = torch.arange(float(frames.size(2)))  # the plain sum of a normalised frame is constant
    for t in range(51):
        heard = torch.autograd.grad(frames[0, t] @ mixture, features, retain_graph=True)[0][0].abs().sum(1).nonzero()
        assert 4 * t in heard[:, 0].tolist(), f"frame {t} does not hear the audio at {40 * t} ms"
    everywhere = torch.autograd.grad((frames @ mixture).sum(), features)[0][0].abs().sum(1)
    assert (everywhere[:201] > 0).all()  # a causal stride of 4 leaves out what follows the last frame


def test_a_chunk_is_final_when_its_audio_is_there():
    """The 25 ms window leaves k chunks of 320 ms with 32 k - 2 feature frames. There the newest 8 encoder frames are
    made of 30 and change when more is heard, and with them one CTC decision in six."""
    bundle = tiny_bundle()
    features = torch.from_numpy(features_of(speechlike(3.2), 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    assert features.size(1) == 32 * 10 - 2
    whole = encode(bundle.model, features, 8)
    with torch.no_grad():
        heads = bundle.model.source_unigram_decoder, bundle.model.ctc_target_unigram_decoder
        decided = [head(whole).argmax(-1) for head in heads]
        state, heard, frames = bundle.model.encoder.initial_state(1, 8), 0, []
        for chunk in range(1, 11):
            out, state = bundle.model.encoder.step(features[:, heard : 32 * chunk - 2], state)
            heard = 32 * chunk - 2
            assert out.size(1) == 8 and bundle.model.encoder.finish(state).size(1) == 0
            frames.append(out)
        frames = torch.cat(frames, dim=1)
        close(frames, whole)
        assert all(torch.equal(head(frames).argmax(-1), wanted) for head, wanted in zip(heads, decided, strict=True))


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 48000, 96000])
def test_the_same_sound_at_any_rate_gives_the_same_features(rate):
    """There everything is taken for 48 kHz: 3 s at 16 kHz become 98 frames instead of 298."""

    def chirp(rate):
        clock = np.arange(3 * rate) / rate
        return (0.3 * np.sin(2 * np.pi * (200 * clock + 500 * clock**2))).astype(np.float32)  # up to 3.2 kHz

    flat = np.zeros(80, np.float32), np.ones(80, np.float32)
    wanted, given = (features_of(chirp(one), one, *flat) for one in (16000, rate))
    assert given.shape == wanted.shape == (298, 80)
    loud = wanted > wanted.max() - 6
    assert np.abs(given - wanted)[2:-2][loud[2:-2]].max() < 0.2


# Writing and speaking


def test_a_step_that_writes_nothing_does_not_delay_the_next(monkeypatch):
    """There the CTC counts of a decoding step are taken as used up before it is known whether a word comes of it."""

    def nothing(self, count, provisional=None):
        yield from ()
        return []

    monkeypatch.setattr(Writer, "drafting", nothing)
    session, samples = TranslationSession(tiny_bundle(), speech=False), speechlike(3.0)
    for start in range(0, len(samples), 5120):
        session.push(samples[start : start + 5120], 16000)
    assert session._stream.listener.st.tokens and session._stream.listener.asr.tokens
    assert (session._stream.translator.policy.asr, session._stream.translator.policy.st) == (0, 0)


def test_the_transcript_is_never_spliced():
    """There new text is what exceeds the number of characters given before, though those may have changed."""
    bundle = tiny_bundle()
    samples = speechlike(4.0, seed=2)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    with torch.no_grad():
        tokens, _ = greedy_collapse(bundle.model.source_unigram_decoder(encode(bundle.model, features, 8))[0])
    session, given = TranslationSession(bundle, translate=False), ""
    for start in range(0, len(samples), 1777):
        given += "".join(event.added for event in session.push(samples[start : start + 1777], 16000))
    given += "".join(event.added for event in session.finish() if hasattr(event, "added"))
    assert given == bundle.source_dictionary.text(tokens) != ""


# The agents under SimulEval


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return save_tiny_bundle(tmp_path_factory.mktemp("defects"))


@pytest.fixture
def make_agent(bundle_folder, monkeypatch, tmp_path):
    """An agent of this repository as SimulEval builds it from a command line."""
    simuleval_agent = pytest.importorskip("simuleval.utils.agent")

    def make(name, *flags):
        simuleval_agent.EVALUATION_SYSTEM_LIST.clear()
        path = str(ROOT / "agent" / f"{name}.py")
        options = ["--bundle", str(bundle_folder), "--output", str(tmp_path), "--source-segment-size", "320", *flags]
        monkeypatch.setattr(sys, "argv", ["simuleval", "--agent", path, "--max-len", "6", *options])
        return simuleval_agent.build_system_args()[0]

    return make


def feed(agent, samples, rate=16000):
    """The segments that an agent gives for samples in segments of 320 ms, the last one marked."""
    from simuleval.data.segments import SpeechSegment

    size = rate * 320 // 1000
    starts = range(0, len(samples), size)
    return [
        agent.pushpop(
            SpeechSegment(
                content=samples[start : start + size].tolist(),
                sample_rate=rate,
                finished=start == starts[-1],
                tgt_lang=None,
            )
        )
        for start in starts
    ]


@pytest.mark.parametrize("name", AGENTS)
def test_the_last_segment_and_no_other_is_marked_finished(make_agent, name):
    """There none is: the agent resets itself before it answers, and a server that waits for the mark hangs."""
    given = feed(make_agent(name), speechlike(2.0, seed=3))
    assert [segment.finished for segment in given] == [False] * (len(given) - 1) + [True]


@pytest.mark.parametrize("name", AGENTS[1:])
def test_texts_hold_no_marks_of_subwords(make_agent, name):
    """There subwords are joined by a SimulEval of its own only."""
    given = feed(make_agent(name), speechlike(3.0, seed=3))
    words = [segment.content for segment in given if segment.content]
    assert words and not any("▁" in text or "  " in text for text in words)


def test_the_rate_of_the_audio_counts_not_the_flag(make_agent):
    agent = make_agent("echostream_s2tt_agent", "--sample-rate", "48000")
    feed(agent, speechlike(1.5))
    assert agent.session.source_ms == pytest.approx(1500)


@pytest.mark.parametrize("flag, prints", [("False", False), ("True", True)])
def test_output_asr_translation_false_is_false(make_agent, capsys, flag, prints):
    agent = make_agent("echostream_asr_agent", "--output-asr-translation", flag)
    capsys.readouterr()
    feed(agent, speechlike(2.0, seed=3))
    assert ("Streaming ASR" in capsys.readouterr().out) == prints
