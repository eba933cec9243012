"""Beam search finds what trying everything finds, and a beam of one is greedy decoding."""

import itertools

import pytest
import torch

from echostream_plugin.config import TextDecoderConfig
from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.beam import beam_search
from echostream_plugin.decoders.text import TextDecoder

VOCABULARY = 7


def new_decoder(seed):
    torch.manual_seed(seed)
    sizes = dict(dim=16, encoder_dim=12, layers=2, heads=2, ffn_dim=24)
    decoder = TextDecoder(TextDecoderConfig(vocab=VOCABULARY, **sizes)).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            parameter.mul_(2.0)  # so that hypotheses differ
    return decoder, torch.randn(1, 9, 12)


def score_of(decoder, source, tokens, penalty):
    """log-probability / length ** penalty of a finished hypothesis, by teacher forcing."""
    with torch.inference_mode():
        logits = decoder.logits(decoder(torch.tensor([[EOS, *tokens]]), source))[0]
    logits = logits.clone()
    logits[:, PAD] = -torch.inf
    shares = logits.log_softmax(1)
    total = sum(float(shares[place, token]) for place, token in enumerate([*tokens, EOS]))
    return total / (len(tokens) + 1) ** penalty


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all(seed, penalty):
    decoder, source = new_decoder(seed)
    choices = [token for token in range(VOCABULARY) if token not in (EOS, PAD)]
    every = [tokens for length in (1, 2, 3) for tokens in itertools.product(choices, repeat=length)]
    best = max(every, key=lambda tokens: score_of(decoder, source, tokens, penalty))
    assert beam_search(decoder, source, 400, 3, penalty) == list(best)


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed):
    decoder, source = new_decoder(seed)
    state, tokens, last = decoder.add_source(source, decoder.initial_state()), [], EOS
    with torch.inference_mode():
        while len(tokens) < 6:
            hidden, state = decoder.step(torch.tensor([[last]]), state)
            scores = decoder.logits(hidden)[0, -1]
            scores[PAD] = -torch.inf
            if not tokens:
                scores[EOS] = -torch.inf
            last = int(scores.argmax())
            if last == EOS:
                break
            tokens.append(last)
    assert beam_search(decoder, source, 1, 6) == tokens


def test_no_more_tokens_than_allowed_and_at_least_one():
    for seed in range(8):
        decoder, source = new_decoder(seed)
        found = beam_search(decoder, source, 3, 2)
        assert 1 <= len(found) <= 2 and EOS not in found and PAD not in found
