"""What keeps CTC heads from writing early: by hand, by gradients, and that tokens are pulled to where they are said."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.fairseq_ext.criterion import TwoPassCTCCriterion, first_tokens
from echostream_plugin.fairseq_ext.ctc_losses import ctc_loss, early_penalty, heard_share, prior_ctc_loss
from tests.fairseq_ext.test_criterion import prepare


def paths_of(target, frames, symbols):
    """All sequences of symbols whose collapse is the target; blank is 0."""
    for path in itertools.product(range(symbols), repeat=frames):
        if [s for s, _ in itertools.groupby(path) if s] == target:
            yield path


def test_the_prior_divides_every_frame_of_every_path():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 4, requires_grad=True)
    lengths, targets, alpha = torch.tensor([4, 3]), torch.tensor([[2, 3], [2, 1]]), 0.3
    loss = prior_ctc_loss(logits, lengths, targets, 0, alpha)
    probs = logits.softmax(-1)
    blank = torch.cat([probs[0, :, 0], probs[1, :3, 0]]).mean().detach()
    prior = torch.tensor([float(blank), *[float(1 - blank) / 3] * 3])
    wanted = 0.0
    for row, frames, target in ((0, 4, [2, 3]), (1, 3, [2])):
        weighed = probs[row] / prior**alpha
        path_probs = [math.prod(weighed[f, s] for f, s in enumerate(p)) for p in paths_of(target, frames, 4)]
        wanted = wanted - sum(path_probs).log()
    assert torch.allclose(loss, wanted, rtol=1e-5)
    grads = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, wanted)]
    assert torch.allclose(*grads, atol=1e-5)
    assert torch.allclose(prior_ctc_loss(logits, lengths, targets, 0, 0.0), ctc_loss(logits, lengths, targets, 0))


def test_a_target_that_does_not_fit_costs_nothing_with_a_prior_too():
    logits = torch.randn(1, 2, 6, requires_grad=True)
    loss = prior_ctc_loss(logits, torch.tensor([2]), torch.tensor([[2, 3, 4]]), 0, 0.5)
    assert loss == 0 and torch.autograd.grad(loss, logits)[0].abs().max() == 0


def test_speech_is_heard_where_it_is_loud():
    features = torch.zeros(2, 48, 4) - 1.0
    features[0, 8:16] = features[0, 32:40] = 2.0
    features[1, 20:24] = 5.0
    heard = heard_share(features, torch.tensor([48, 24]), torch.tensor([12, 6]), 12)
    assert heard[0].tolist() == [0, 0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.75, 1, 1, 1]
    assert heard[1].tolist() == [0, 0, 0, 0, 0] + [1] * 7


def peaks(frames, places, symbols=5):
    """Logits of a head that is sure of token 2, then 4, at these frames and of blank elsewhere."""
    logits = torch.zeros(1, frames, symbols)
    logits[0, :, 0] = 40.0
    for token, place in zip((2, 4), places, strict=False):
        logits[0, place, 0], logits[0, place, token] = 0.0, 40.0
    return logits


@pytest.mark.parametrize("places, slack, early", [
    ([0, 1], 0.0, True), ([0, 1], 1.0, True), ([12, 19], 0.0, False), ([0, 19], 1.0, False), ([4, 9], 0.0, True),
])  # fmt: skip
def test_a_token_costs_its_lead_in_frames(places, slack, early):
    heard = torch.linspace(0.05, 1, 20)[None]
    targets, lengths = torch.tensor([[2, 4]]), torch.tensor([20])
    written = [sum(place <= frame for place in places) for frame in range(20)]
    cost = sum(max(0.0, count - slack - 2 * (frame + 1) / 20) for frame, count in enumerate(written))
    assert (cost > 0) == early
    penalty = early_penalty(peaks(20, places), lengths, targets, 0, heard, slack)
    assert float(penalty) == pytest.approx(cost, abs=1e-3)


def test_a_token_that_stays_is_one_token_and_padding_costs_nothing():
    logits = peaks(20, [10])
    logits[0, 10:15, 0], logits[0, 10:15, 2] = 0.0, 40.0
    heard = torch.zeros(1, 20)
    cost = early_penalty(logits, torch.tensor([20]), torch.tensor([[2, 1]]), 0, heard, 0.0)
    assert float(cost) == pytest.approx(10.0, abs=1e-3)
    assert float(early_penalty(logits, torch.tensor([12]), torch.tensor([[2, 1]]), 0, heard, 0.0)) == pytest.approx(2.0)


def first_token(weight: float) -> int:
    """Where a head that may write anywhere puts the first of two tokens that are said at frames 10 to 20 of 20."""
    torch.manual_seed(0)
    logits = torch.nn.Parameter(peaks(20, [1, 3]) / 80)  # a little early
    features = torch.cat([torch.zeros(1, 40, 4), torch.ones(1, 40, 4)], dim=1)
    lengths, targets = torch.tensor([20]), torch.tensor([[2, 4]])
    heard = heard_share(features, torch.tensor([80]), lengths, 20)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        loss = ctc_loss(logits, lengths, targets, 0) + weight * early_penalty(logits, lengths, targets, 0, heard, 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, starts = greedy_collapse(logits[0].detach())
    assert tokens == [2, 4]
    return starts[0]


def test_the_penalty_moves_tokens_to_where_they_are_said():
    """Plain CTC is content with tokens before the speech; with the penalty the first one waits for it."""
    assert first_token(0.0) < 5 and first_token(1.0) >= 10


def test_remedies_count_in_training_only_and_where_asked(corpus):
    plain = prepare(corpus)
    model, criterion, sample = prepare(
        corpus, "--ctc-blank-prior", "0.3", "--ctc-early-weight", "0.5", "--ctc-early-slack", "0"
    )
    criterion.eval()
    plain[1].eval()
    loss, _, logging = criterion(model, sample)
    assert torch.equal(loss, plain[1](plain[0], sample)[0]) and "early_loss" not in logging
    assert 0 <= logging["asr_first"] <= logging["asr_tokens"] + 100 and "st_first" in logging
    criterion.train()
    plain[1].train()
    model.eval()
    with_both, _, logging = criterion(model, sample)
    without = plain[1](plain[0], sample)[0]
    assert logging["early_loss"] > 0 and not torch.allclose(with_both - logging["early_loss"], without, rtol=1e-4)
    criterion.blank_prior = 0.0
    early_only, _, logging = criterion(model, sample)
    assert torch.allclose(early_only, without + logging["early_loss"], rtol=1e-5)
    criterion.early_weight = 0.0
    assert torch.equal(criterion(model, sample)[0], without)


@pytest.mark.parametrize("flag", ["--ctc-blank-prior", "--ctc-early-weight", "--ctc-early-slack"])
def test_negative_values_are_refused(corpus, flag):
    with pytest.raises(ConfigError, match=f"{flag} -1.0: must not be negative"):
        prepare(corpus, flag, "-1")


def test_tokens_in_the_first_frames_are_counted_and_logged_by_utterance(corpus):
    logits = torch.stack([peaks(20, [1, 3])[0], peaks(20, [2, 5])[0], peaks(20, [3])[0]])
    output = SimpleNamespace(asr_logits=logits, st_logits=logits[:, 4:], lengths=torch.tensor([20, 20, 3]))
    counts = first_tokens(output)
    assert counts == {"asr_first": 3, "st_first": 1}  # what lies in padding, or later, does not count
    with metrics.aggregate() as logged:
        TwoPassCTCCriterion.reduce_metrics([{"sample_size": 3, "ntokens": 3, "loss": 1, "nsentences": 3, **counts}])
    assert logged.get_smoothed_value("asr_first") == 1.0 and logged.get_smoothed_value("st_first") == 0.33
