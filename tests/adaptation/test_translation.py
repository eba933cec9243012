"""Text first: what the decoder is shown, that it learns and goes on after a kill."""

import numpy as np
import pytest
import torch

from echostream_plugin.adaptation.translation import TextRecipe, TextTraining, ctc_frames
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import BLANK
from echostream_plugin.decoders.conditioned import ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.ctc import CollapseState, collapse_step

VOCAB = 12
SIZE = {"vocab": VOCAB, "dim": 16, "encoder_dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32, "dropout": 0.0}
NO_DROPOUT = {"attention_dropout": 0.0, "activation_dropout": 0.0}
RECIPE = TextRecipe(updates=400, batch=16, rate=5e-3, warmup=20, most_errors=0.0, word_dropout=0.0, label_smoothing=0.0)


def decoder(**more):
    torch.manual_seed(0)
    return ConditionedDecoder(ConditionedDecoderConfig(**SIZE, **NO_DROPOUT, source_vocab=VOCAB, **more))


def pairs(count=200, seed=0):
    """Each source subword has one translation."""
    rng = np.random.default_rng(seed)
    sources = [rng.integers(4, VOCAB, size=int(rng.integers(1, 6))).tolist() for _ in range(count)]
    return [(source, [15 - token for token in source]) for source in sources]


def collapsed(frames):
    logits = torch.nn.functional.one_hot(torch.tensor(frames), 2000).float()
    return collapse_step(logits, CollapseState.initial(), forbidden=())[0]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_heard_collapses_to_the_text(seed):
    tokens = np.random.default_rng(seed).integers(4, 6, size=30).tolist()  # many follow themselves
    frames = ctc_frames(tokens, VOCAB, 0.0, TextRecipe(), np.random.default_rng(seed))
    assert collapsed(frames) == tokens and BLANK in frames and len(frames) > len(tokens)


def test_errors_are_as_many_as_asked():
    tokens, rng = [5] * 5000, np.random.default_rng(0)
    found = collapsed(ctc_frames(tokens, 1000 + VOCAB, 0.3, TextRecipe(), rng))
    lacking, wrong = len(tokens) - found.count(5), len(found) - found.count(5)
    assert lacking / 5000 == pytest.approx(0.3 * 0.85, abs=0.02) and wrong / 5000 == pytest.approx(0.3 * 0.6, abs=0.02)


def test_it_learns_to_translate_texts_it_has_not_seen():
    training, other = TextTraining(decoder(), pairs(2000), RECIPE), pairs(100, seed=1)
    before = training.accuracy(other)
    while training.done < RECIPE.updates:
        training.update()
    assert before < 0.3 and training.accuracy(other) > 0.8 > training.accuracy(other, errors=0.9)


def test_one_that_goes_on_is_one_without_a_break(tmp_path):
    whole, first = TextTraining(decoder(), pairs(), RECIPE), TextTraining(decoder(), pairs(), RECIPE)
    for _ in range(6):
        whole.update()
    for _ in range(3):
        first.update()
    first.save(tmp_path / "t.pt")
    second = TextTraining(decoder(), pairs(), RECIPE)
    second.resume(tmp_path / "t.pt")
    for _ in range(3):
        second.update()
    assert second.loss == whole.loss
    for name, tensor in whole.decoder.state_dict().items():
        assert torch.equal(tensor, second.decoder.state_dict()[name]), name


@pytest.mark.parametrize("what", ["texts", "recipe", "file"])
def test_what_cannot_be_gone_on_with_is_said(tmp_path, what):
    TextTraining(decoder(), pairs(), RECIPE).save(tmp_path / "t.pt")
    if what == "file":
        (tmp_path / "t.pt").write_bytes(b"no checkpoint")
    recipe = TextRecipe(batch=16, seed=3) if what == "recipe" else RECIPE
    other = TextTraining(decoder(), pairs(seed=5 if what == "texts" else 0), recipe)
    with pytest.raises(ConfigError, match="delete it to train anew"):
        other.resume(tmp_path / "t.pt")


def test_too_few_texts_are_refused():
    with pytest.raises(ConfigError, match="3 pairs of texts are fewer than an update takes: 16"):
        TextTraining(decoder(), pairs(3), RECIPE)
