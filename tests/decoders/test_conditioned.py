"""The MT decoder that reads the transcript: what it adds to which frame, by the rules of greedy CTC said in words."""

import copy

import pytest
import torch

from echostream_plugin.config import ConfigError, CTCHeadConfig, ModelConfig, TextDecoderConfig
from echostream_plugin.decoders.conditioned import HISTORY, ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.ctc import CTCHead, greedy_collapse
from echostream_plugin.decoders.transformer import sinusoidal_positions
from echostream_plugin.model import S2STModel
from tests.tiny_bundle import tiny_config

DIM, VOCAB = 6, 9
SIZE = {"vocab": 13, "dim": 8, "encoder_dim": DIM, "layers": 2, "heads": 2, "ffn_dim": 16}


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    made = ConditionedDecoder(ConditionedDecoderConfig(**SIZE, source_vocab=VOCAB)).eval()
    head = CTCHead(CTCHeadConfig(vocab=VOCAB, dim=DIM)).eval()
    torch.nn.init.normal_(head.proj.weight, std=2.0)
    made.attach_ctc_head(head)
    return made.requires_grad_(False)


def expected(decoder, frames):
    """One utterance, frame by frame."""
    table, rows = decoder.transcript.embed, []
    logits = decoder._head(frames[None])[0]
    likely = logits.softmax(-1)
    for t, frame in enumerate(frames):
        tokens, _ = greedy_collapse(logits[: t + 1], forbidden=())
        row = decoder.transcript.gain * frame + sum(likely[t, v] * table[0].weight[v] for v in range(1, VOCAB))
        context = sinusoidal_positions(len(tokens), 1, DIM)[0]
        for back in range(1, HISTORY):
            if len(tokens) > back:
                context = context + table[back].weight[tokens[-1 - back]]
        rows.append(row + (1 - likely[t, 0]) * context)
    return torch.stack(rows)


def test_a_frame_is_given_what_is_heard_in_it_and_before(decoder):
    frames = torch.randn(2, 40, DIM, generator=torch.Generator().manual_seed(1))
    found, _ = decoder.condition(frames, decoder._nothing_heard(2))
    assert len(greedy_collapse(decoder._head(frames)[0], forbidden=())[0]) > 2 * HISTORY  # there is something to hear
    torch.testing.assert_close(found, torch.stack([expected(decoder, one) for one in frames]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [0, 3, 0, 9], [12]])
def test_any_cutting_gives_the_same_frames_and_transcript(decoder, sizes):
    frames = torch.randn(2, 12, DIM, generator=torch.Generator().manual_seed(2))
    whole, after = decoder.condition(frames, decoder._nothing_heard(2))
    pieces, transcript = [], decoder._nothing_heard(2)
    for piece in frames.split(sizes, dim=1):
        piece, transcript = decoder.condition(piece, transcript)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=0)
    for name in ("last", "tokens", "count"):
        assert torch.equal(getattr(transcript, name), getattr(after, name))


def test_the_state_does_not_grow_with_what_was_heard(decoder):
    transcript, sizes = decoder._nothing_heard(1), set()
    for seed in range(20):
        frames = torch.randn(1, 8, DIM, generator=torch.Generator().manual_seed(seed))
        _, transcript = decoder.condition(frames, transcript)
        sizes.add(transcript.nbytes)
    assert len(sizes) == 1 and int(transcript.count) > 40


def test_text_alone_is_frames_whose_head_is_sure(decoder):
    tokens, padding = torch.tensor([[0, 4, 4, 0, 4, 7, 5, 0]]), torch.zeros(1, 8, dtype=torch.bool)
    frames, prev = torch.randn(1, 8, DIM), torch.tensor([[2, 5, 6]])
    sure = copy.copy(decoder)
    logits = torch.nn.functional.one_hot(tokens, VOCAB) * 1e4
    sure.attach_ctc_head(lambda x: None)
    sure._head.step = lambda x, state: (logits, state)
    sure._head.initial_state = decoder._head.initial_state
    heard = sure(prev, frames)
    torch.testing.assert_close(decoder.forward_text(prev, tokens, frames, padding), heard, atol=1e-5, rtol=0)


def test_the_head_does_not_learn_from_translations_and_is_the_models_own():
    torch.manual_seed(0)
    config = ModelConfig.from_dict({**(config := tiny_config().to_dict()), "mt": conditioned(config)})
    model = S2STModel(config)
    head = model.source_unigram_decoder
    assert not any("_head" in name for name in model.state_dict())
    frames = torch.randn(1, 9, config.encoder.dim, requires_grad=True)
    decoder = model.target_unigram_decoder
    decoder.logits(decoder(torch.tensor([[2, 5]]), frames)).sum().backward()
    assert head.proj.weight.grad is None and frames.grad.abs().sum() > 0
    assert decoder.transcript.embed[0].weight.grad.abs().sum() > 0
    twin = copy.deepcopy(model)
    assert twin.target_unigram_decoder._head is twin.source_unigram_decoder is not head


def conditioned(config):
    return {**config["mt"], "kind": "ctc_conditioned", "source_vocab": config["asr"]["vocab"]}


def test_a_decoder_without_a_head_says_so():
    decoder = ConditionedDecoder(ConditionedDecoderConfig(**SIZE, source_vocab=VOCAB))
    with pytest.raises(ValueError, match="call attach_ctc_head first"):
        decoder(torch.tensor([[2]]), torch.randn(1, 3, DIM))


def test_configurations_that_do_not_fit_are_refused():
    values = tiny_config().to_dict()
    values["mt"] = {**conditioned(values), "source_vocab": 7}
    with pytest.raises(ConfigError, match="mt.source_vocab must equal asr.vocab"):
        ModelConfig.from_dict(values)
    with pytest.raises(ConfigError, match="cannot be of kind 'transformer'"):
        ConditionedDecoderConfig(kind="transformer")
    with pytest.raises(ConfigError, match="cannot be of kind 'ctc_conditioned'"):
        TextDecoderConfig(kind="ctc_conditioned")
