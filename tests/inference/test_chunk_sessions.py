"""Sessions with a model that writes text in chunks: transcripts and translations, cut, batched, saved, long streams."""

import dataclasses

import numpy as np
import pytest
import torch

from echostream_plugin.constants import EOS
from echostream_plugin.decoders.speechllm.search import allowed
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.batch import BatchedSession
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.errors import BundleError, SessionError
from echostream_plugin.inference.events import Sentence, SourceText, TargetText
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.work import alone
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle, tiny_chunk_bundle, tiny_vocoder

PUSH = 5120  # 320 ms
KINDS = {"source_text": SourceText, "target_text": TargetText}


@pytest.fixture(scope="module", params=KINDS)
def bundle(request):
    return tiny_chunk_bundle(request.param)


def run(session, samples, push=PUSH, end=True):
    events = []
    for start in range(0, len(samples), push):
        events += session.push(samples[start : start + push], 16000)
    return events + (session.finish() if end else [])


def written(bundle, samples, beam=1):
    """The tokens of a whole recording, from the parallel encoder."""
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    with torch.inference_mode():
        frames, _ = bundle.model.encoder(features, torch.tensor([features.size(1)]), 8)
        writer = ChunkWriter(bundle.model, beam)
        writer.hear(frames)
        alone(writer.finish())
    return writer


def text(bundle, events):
    kind = KINDS[bundle.config.llm.target]
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("push", [1600, 5120, 7777, 10**6])
def test_the_text_is_that_of_the_whole_for_any_cutting(bundle, push):
    samples = speechlike(3.3)
    session = TranslationSession(bundle)
    events = text(bundle, run(session, samples, push))
    side = bundle.config.llm.target
    dictionary = getattr(bundle, side.replace("_text", "_dictionary"))
    wanted = dictionary.text(written(bundle, samples).tokens)
    assert wanted and getattr(session, side) == wanted == events[-1].text
    assert "".join(event.added for event in events) == wanted


def test_what_is_written_is_what_training_would_predict(bundle):
    """Each token is the best of the packed sequence of all of them; the ends too, where no chunk was cut."""
    samples = speechlike(3.3)
    writer = written(bundle, samples)
    features = torch.from_numpy(features_of(samples, 16000, bundle.cmvn_mean, bundle.cmvn_std))[None]
    with torch.inference_mode():
        frames, lengths = bundle.model.encoder(features, torch.tensor([features.size(1)]), 8)
        chunks = torch.tensor([writer.starts]) // 16
        logits, tokens = bundle.model.chunk_decoder(frames, lengths, torch.tensor([writer.tokens]), chunks)
    best = allowed(logits).argmax(-1)
    counts = np.bincount(chunks[0].numpy(), minlength=6)
    assert (best != tokens).sum() <= (counts == 5).sum() == writer.capped < 6
    assert torch.equal(best[tokens != EOS], tokens[tokens != EOS])


def test_text_comes_when_its_chunk_was_heard(bundle):
    samples = speechlike(3.3)
    session, lengths = TranslationSession(bundle), []
    for start in range(0, len(samples), PUSH):
        lengths.append(len(getattr(session, bundle.config.llm.target)))
        session.push(samples[start : start + PUSH], 16000)
    # a segment of 320 ms is complete one push later (the window of 25 ms), and a chunk of 640 ms every second push
    grew = [later > earlier for earlier, later in zip(lengths, lengths[1:], strict=False)]
    assert any(grew) and not any(grew[0::2])


def test_words_have_the_times_of_their_chunk():
    bundle = tiny_chunk_bundle("source_text")
    writer = written(bundle, speechlike(3.3))
    assert writer.starts == sorted(writer.starts) and len(writer.starts) == len(writer.tokens)
    chunks = [start // 16 for start in writer.starts]
    assert max(chunks.count(chunk) for chunk in chunks) <= 5 and len(set(chunks)) > 2
    events = text(bundle, run(TranslationSession(bundle), speechlike(3.3)))
    times = events[-1].times_ms
    assert len(times) == len(events[-1].text.split()) and list(times) == sorted(times)


def test_the_other_text_of_a_translating_model_is_the_heads():
    bundle = tiny_chunk_bundle("target_text")
    session = TranslationSession(bundle)
    run(session, speechlike(3.3))
    other = TranslationSession(tiny_bundle(), speech=False)
    run(other, speechlike(3.3))
    assert session.source_text == other.source_text != "" and session.target_text != other.target_text
    transcribes = TranslationSession(bundle, translate=False)
    run(transcribes, speechlike(3.3))
    assert transcribes.source_text == session.source_text and transcribes.target_text == ""


def test_sessions_in_a_batch_are_sessions_alone(bundle):
    utterances = {key: speechlike(2.2 + 0.4 * key, seed=key) for key in range(3)}
    batch, said = BatchedSession(bundle), {key: [] for key in utterances}
    for key in utterances:
        batch.join(key)
    for start in range(0, max(map(len, utterances.values())), PUSH):
        pieces = {key: samples[start : start + PUSH] for key, samples in utterances.items() if start < len(samples)}
        for key, reply in batch.push(pieces, 16000).items():
            said[key] += reply.events
    for key, reply in batch.finish().items():
        said[key] += reply.events
    for key, samples in utterances.items():
        assert said[key] == run(TranslationSession(bundle), samples)
    assert batch.batches < 0.8 * batch.calls  # the steps of the decoder too run together


def test_a_snapshot_goes_on(bundle, tmp_path):
    samples = speechlike(3.3, seed=5)
    whole = run(TranslationSession(bundle), samples)
    for pushes in (3, 6):
        first, second = TranslationSession(bundle), TranslationSession(bundle)
        events = run(first, samples[: pushes * PUSH], end=False)
        snapshot.save(tmp_path / "state", first.snapshot())
        second.restore(snapshot.load(tmp_path / "state"))
        assert events + run(second, samples[pushes * PUSH :]) == whole


def test_a_reset_leaves_nothing(bundle):
    session = TranslationSession(bundle)
    run(session, speechlike(2.0, seed=8))
    session.reset()
    assert run(session, speechlike(2.0, seed=9)) == run(TranslationSession(bundle), speechlike(2.0, seed=9))


def test_sentences_of_a_long_stream(bundle):
    """Each begins with a decoder that has heard nothing, ends with its short last chunk, and takes no memory along."""
    quiet = np.zeros(16000, dtype=np.float32)
    samples = np.concatenate([piece for seed in range(4) for piece in (speechlike(1.5, seed=seed), quiet)])
    session = TranslationSession(bundle, pause_ms=400)
    sizes, events = [], []
    for start in range(0, len(samples), PUSH):
        events += session.push(samples[start : start + PUSH], 16000)
        stream = session._stream
        writer = stream.transcriber or stream.translator.writer
        sizes.append(writer._state.nbytes)
    events += session.finish()
    sentences = [event for event in events if isinstance(event, Sentence)]
    assert len(sentences) >= 3 and len(set(sizes)) == 1
    side = bundle.config.llm.target
    assert all(getattr(sentence, side) for sentence in sentences[:3])
    grown = [event for event in text(bundle, events)]
    assert "".join(event.added for event in grown) == "".join(getattr(each, side) for each in sentences)


def test_a_beam_inside_the_chunk(bundle):
    samples = speechlike(3.3, seed=2)
    greedy, searched = written(bundle, samples), written(bundle, samples, beam=4)
    assert searched.tokens != greedy.tokens
    session = TranslationSession(bundle, chunk_beam=4)
    run(session, samples)
    side = bundle.config.llm.target
    dictionary = getattr(bundle, side.replace("_text", "_dictionary"))
    assert getattr(session, side) == dictionary.text(searched.tokens)


def test_a_chunk_is_cut_at_the_most_tokens(bundle):
    model = tiny_chunk_bundle(bundle.config.llm.target, max_tokens=2).model
    frames = torch.randn(1, 40, 16)
    with torch.inference_mode():
        writer = ChunkWriter(model)
        writer.hear(frames)
        alone(writer.finish())
    counts = np.bincount(np.array(writer.starts) // 16, minlength=3)
    assert counts.max() == 2 and writer.capped == (counts == 2).sum()


def test_half_precision_and_saved_bundles(bundle, tmp_path):
    saved = load_bundle(save_tiny_bundle(tmp_path, bundle))
    assert saved.config == bundle.config and saved.session == bundle.session and saved.units == 0
    session, packed = TranslationSession(saved), TranslationSession(optimize(load_bundle(tmp_path / "bundle"), "half"))
    for each in (session, packed):
        run(each, speechlike(2.0))
    side = bundle.config.llm.target
    assert getattr(session, side) == getattr(packed, side) != ""


@pytest.mark.parametrize(
    "target, changes, message",
    [
        ("source_text", {"translate": True}, "writes the source text alone: use translate=False"),
        ("target_text", {"decoding": "incremental"}, "decoding 'incremental': .*use decoding='chunks'"),
        ("target_text", {"revise": True}, "revise: .*use revise=False"),
        ("source_text", {"endpointer": "text", "pause_ms": 400}, "endpointer 'text': .*use endpointer='energy'"),
        ("source_text", {"chunk_ms": 480}, "chunk_ms 480: .*chunks of 640 ms .llm.chunk_frames 16.,"),
        ("target_text", {"speech": True}, "the bundle has no vocoder"),
    ],
)
def test_what_it_cannot_do_is_said(target, changes, message):
    with pytest.raises(SessionError, match=message):
        TranslationSession(tiny_chunk_bundle(target), **changes)


def test_other_models_do_not_write_in_chunks():
    with pytest.raises(SessionError, match="decoding 'chunks': .*does not write in chunks"):
        TranslationSession(tiny_bundle(), decoding="chunks")
    assert bundle_options(tiny_bundle()).decoding == "incremental"


def test_a_vocoder_has_nothing_to_speak():
    with pytest.raises(BundleError, match="writes text only, so a vocoder has nothing to speak"):
        dataclasses.replace(tiny_chunk_bundle(), vocoder=tiny_vocoder())
