"""The Zipformer's training parts, against icefall's where the package is: gradients, schedules, ScaledAdam, Eden."""

import pytest
import torch
from torch import nn

from echostream_plugin.encoders.zipformer import ZipformerConfig, ZipformerEncoder
from echostream_plugin.modules.zipformer.attention import constant
from echostream_plugin.modules.zipformer.front import LAYER_SKIP
from echostream_plugin.modules.zipformer.layer import (
    ATTENTION_SKIP,
    CONSTANT_ATTENTION,
    CONVOLUTION_SKIP,
    FEED_FORWARD_SKIP,
)
from echostream_plugin.modules.zipformer.parts import BiasNorm, Bypass
from echostream_plugin.modules.zipformer.regularisers import Balancer, Whiten, limited, penalise_excess
from echostream_plugin.modules.zipformer.scaled_adam import ScaledAdam, eden_factor
from echostream_plugin.modules.zipformer.schedule import Clock, Schedule, SharedDropout, sequence_mask
from tests import zipformer_reference as reference

TINY = {
    "input_dim": 12, "dim": 16, "stack_dims": (12, 16, 16, 16, 16, 16), "layers": (1, 1, 2, 1, 1, 1),
    "ffn_dim": (16,) * 6, "heads": (2,) * 6, "query_dim": 4, "value_dim": 4, "conv_kernel": (3,) * 6,
    "unmasked_dims": (8, 8, 16, 8, 8, 8),
}  # fmt: skip
OFF = {"dropout": 0.0, "bypass_clamp": False, "layer_drop": False, "module_skip": False, "feature_mask": False}


def package():
    if reference.reference() is None:
        pytest.skip("needs the package zipformer 0.1.3, see tests/zipformer_reference.py")
    return reference.reference()


def gradient(module, x, towards):
    x = x.clone().requires_grad_(True)
    module(x).backward(towards)
    return x.grad


# ------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("positive, sizes", [((0.3, 0.7), (0.2, 0.5)), ((0.45, 0.55), (2.0, 4.0))])
def test_a_balancer_corrects_gradients_as_icefalls(positive, sizes):
    ours = Balancer(Clock(), positive, sizes, probability=1.0)
    theirs = package().scaling.Balancer(6, -1, *positive, *sizes, prob=1.0)
    x, towards = torch.randn(5, 20, 6) + torch.linspace(-1, 2, 6), torch.randn(5, 20, 6)
    given = gradient(ours, x, towards)
    torch.testing.assert_close(given, gradient(theirs, x, towards), atol=1e-6, rtol=1e-4)
    assert not torch.equal(given, towards) and torch.equal(gradient(ours.eval(), x, towards), towards)


@pytest.mark.parametrize("groups", [1, 2])
def test_whitening_corrects_gradients_as_icefalls(groups):
    ours = Whiten(Clock(), 1.2, groups, 0.05, probabilities=(1.0, 1.0))
    theirs = package().scaling.Whiten(groups, 1.2, (1.0, 1.0), 0.05)
    x, towards = torch.randn(50, 8) @ torch.randn(8, 8), torch.randn(50, 8)
    given = gradient(ours, x, towards)
    torch.testing.assert_close(given, gradient(theirs, x, towards), atol=1e-6, rtol=1e-4)
    assert not torch.equal(given, towards)
    assert torch.equal(gradient(Whiten(Clock(), 1e6, groups, probabilities=(1.0, 1.0)), x, towards), towards)


def test_whitening_looks_less_where_it_finds_nothing():
    module = Whiten(Clock(), 1e6, probabilities=(0.025, 1.0))
    assert module.probability == 1.0
    gradient(module, torch.randn(9, 4), torch.randn(9, 4))
    assert module.probability == 0.025


def test_excess_is_penalised_as_by_a_loss():
    x = torch.tensor([-30.0, -1.0, 26.0], requires_grad=True)
    (penalise_excess(x, 25.0, 0.1) * 2).sum().backward()
    assert torch.allclose(x.grad, torch.tensor([1.9, 2.0, 2.1]))


def test_limits_turn_the_gradients_that_lead_out(monkeypatch):
    monkeypatch.setattr("echostream_plugin.modules.zipformer.regularisers.chance", lambda probability: True)
    x = torch.tensor([0.1, 0.1, 0.95, 1.2, 1.2], requires_grad=True)
    limited(x, 0.9, 1.0).backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))
    assert x.grad.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]  # a descent subtracts them


def test_a_bypass_is_clamped_less_and_less(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "echostream_plugin.modules.zipformer.parts.limited", lambda x, *bounds: seen.append(bounds) or x
    )
    clock = Clock()
    module, x = Bypass(4, clock, clamp=True), torch.randn(2, 3, 4)
    for clock.batches in (0, 10_000, 20_000, 90_000):
        module(x, x)
    Bypass(4, clock, clamp=False)(x, x)
    assert seen == [(0.9, 1.0), (0.55, 1.0), (0.2, 1.0), (0.2, 1.0)]


def test_a_norm_is_limited(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "echostream_plugin.modules.zipformer.parts.limited", lambda x, *bounds: seen.append(bounds) or x
    )
    norm = BiasNorm(4)
    norm(torch.ones(2, 4)), norm.eval()(torch.ones(2, 4))
    assert seen == [(-1.5, 1.5)]


def test_gradients_of_the_first_convolution_are_a_fifth():
    torch.manual_seed(0)
    front = ZipformerEncoder(ZipformerConfig(**TINY, **OFF)).encoder_embed
    features, gradients = torch.randn(2, 40, 12), []
    for training in (True, False):
        front.zero_grad()
        front.train(training)(features, torch.tensor([40, 40])).square().sum().backward()
        gradients.append([front.conv[place].weight.grad.clone() for place in (0, 4)])
    (first, second), (first_whole, second_whole) = gradients
    torch.testing.assert_close(first, 0.2 * first_whole)
    torch.testing.assert_close(second, second_whole)
    assert first.abs().max() > 0


def values_of(regulariser, at):
    """Its numbers; at: of a number or schedule."""
    if isinstance(regulariser, Balancer):
        return [*map(at, (*regulariser.positive, *regulariser.sizes, regulariser.probability)), regulariser.scale]
    return [regulariser.groups, at(regulariser.limit), regulariser.scale, *regulariser.probabilities]


def values_of_icefalls(module):
    names = ("num_groups", "whitening_limit", "grad_scale", "min_prob", "max_prob")
    if hasattr(module, "min_positive"):
        names = ("min_positive", "max_positive", "min_abs", "max_abs", "prob", "grad_scale")
    return [float(getattr(module, name)) for name in names]


@pytest.mark.parametrize("batches", [None, 0, 1000, 4000, 8000, 30_000])
def test_regularisers_and_schedules_are_icefalls(batches):
    scaling, config = package().scaling, reference.config_of("frozen", balancers=True, whiten=True)
    front, stacks = (module.train() for module in reference.build(config))
    encoder = ZipformerEncoder(config)
    encoder.clock.batches, count = batches, 0
    for module in (*front.modules(), *stacks.modules()):
        if isinstance(module, scaling.ScheduledFloat):
            module.batch_count = batches
    for ours, theirs in ((encoder.encoder_embed, front), (encoder.encoder, stacks)):
        theirs = dict(theirs.named_modules())
        for name, module in ours.named_modules():
            if isinstance(module, Balancer | Whiten):
                given = values_of(module, lambda value: value.at(encoder.clock) if hasattr(value, "at") else value)
                assert given == pytest.approx(values_of_icefalls(theirs[name])), name
                count += 1
    assert count == 7 * 25 + 7  # of layers and front end
    ours, theirs = encoder.encoder.encoders[0].layers[0], stacks.encoders[0].layers[0]
    pairs = {
        ATTENTION_SKIP: theirs.attention_skip_rate, CONVOLUTION_SKIP: theirs.conv_skip_rate,
        CONSTANT_ATTENTION: theirs.const_attention_rate, FEED_FORWARD_SKIP: theirs.ff2_skip_rate,
        ours.self_attn_weights.position_skip: theirs.self_attn_weights.pos_emb_skip_rate,
        LAYER_SKIP: front.convnext.layerdrop_rate,
    }  # fmt: skip
    for schedule, rate in pairs.items():
        assert schedule.at(encoder.clock) == pytest.approx(float(rate))
    if batches is not None:
        dropout = scaling.ScheduledFloat((0.0, 0.3), (20000.0, 0.1))
        dropout.batch_count = batches
        assert ours.feed_forward1.dropout.schedule.at(encoder.clock) == pytest.approx(float(dropout.train()))


# ------------------------------------------------------------------------------------------------- schedules


def test_sequences_are_dropped_with_their_probability():
    torch.manual_seed(0)
    mask = sequence_mask(torch.zeros(4000, 3, 2), 0.1)
    assert mask.shape == (4000, 1, 1) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs((mask == 0).float().mean() - 0.1) < 0.02


def test_constant_attention_is_a_mean_of_what_is_there():
    weights = torch.tensor([[0.7, 0.1, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(constant(weights), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0], [1.0, 0.0, 0.0, 0.0]]))


def test_schedules():
    clock = Clock()
    assert ATTENTION_SKIP.at(clock) == 0 and Schedule(((0, 1.0),), default=0.3).at(clock) == 0.3
    values = []
    for clock.batches in (0, 2000, 4000, 10_000, 16_000, 20_000):
        values.append(ATTENTION_SKIP.at(clock))
    assert values == pytest.approx([0.2, 0.125, 0.05, 0.025, 0.0, 0.0])
    clock.batches = 5
    assert Schedule(((10, 0.5), (20, 0.1))).at(clock) == 0.5


def test_layers_are_left_out_stack_after_stack_as_in_icefall():
    encoder = ZipformerEncoder(ZipformerConfig(**TINY))
    layers = [layer for stack in encoder.encoder.encoders for layer in getattr(stack, "encoder", stack).layers]
    theirs = None
    if reference.reference() is not None:
        _, stacks = reference.build(reference.config_of("frozen", **TINY))
        theirs = [layer.bypass.skip_rate for s in stacks.encoders for layer in getattr(s, "encoder", s).layers]
    for batches in (0, 300, 571.5, 900, 1143, 1600, 2000, 4000, 9000):
        encoder.clock.batches = batches
        ours = [layer.bypass.skip.at(encoder.clock) for layer in layers]
        if theirs:
            for rate in theirs:
                rate.batch_count = batches
            assert ours == pytest.approx([float(rate.train()) for rate in theirs])
    assert ours == pytest.approx([0.035 * factor**0.5 for factor in (1, 2, 4, 4, 8, 4, 2)])


def test_updates_advance_the_schedules():
    encoder = ZipformerEncoder(ZipformerConfig(**TINY, batches_per_update=0.5))
    assert encoder.clock.batches is None
    encoder.set_num_updates(300)
    assert encoder.clock.batches == 150 and encoder.encoder.encoders[0].layers[0].clock is encoder.clock


def test_dropout_is_the_same_at_all_times():
    torch.manual_seed(0)
    out = SharedDropout(0.5, Clock())(torch.ones(3, 7, 40))
    assert set(out.unique().tolist()) == {0.0, 2.0} and torch.equal(out, out[:, :1].expand_as(out))


def test_masked_channels_are_the_same_sequences_in_all_stacks():
    torch.manual_seed(0)
    encoder = ZipformerEncoder(ZipformerConfig(**TINY)).train().encoder
    masks = encoder._channel_masks(torch.zeros(4000, 5, 12))
    first, wide, never = masks[0], masks[1], masks[2]
    assert first.shape == (4000, 1, 12) and wide.shape == (4000, 1, 16) and never.min() == 1
    assert first[:, :, :8].min() == 1 and torch.equal(first[:, 0, 8], wide[:, 0, 8])
    assert torch.equal(first[:, 0, 10], wide[:, 0, 12]) and torch.equal(first[:, 0, 8], first[:, 0, 9])
    assert abs((first[:, 0, 9] == 0).float().mean() - 0.125) < 0.02
    assert abs((first[:, 0, 11] == 0).float().mean() - 0.234) < 0.02


def test_without_its_flags_a_training_computes_what_inference_does():
    torch.manual_seed(0)
    encoder = ZipformerEncoder(ZipformerConfig(**TINY, **OFF, balancers=True, whiten=True))
    features, lengths = torch.randn(3, 90, 12), torch.tensor([90, 61, 30])
    with torch.no_grad():
        wanted = encoder.eval()(features, lengths)[0]
    encoder.set_num_updates(0)
    torch.testing.assert_close(encoder.train()(features, lengths)[0].detach(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["dropout", "layer_drop", "module_skip", "feature_mask"])
def test_every_flag_changes_a_training(part):
    torch.manual_seed(0)
    value = 0.3 if part == "dropout" else True
    encoder = ZipformerEncoder(ZipformerConfig(**{**TINY, **OFF, part: value}))
    features, lengths = torch.randn(8, 90, 12), torch.full((8,), 90)
    with torch.no_grad():
        wanted = encoder.eval()(features, lengths)[0]
        encoder.set_num_updates(0)
        given = encoder.train()(features, lengths)[0]
    assert (given - wanted).abs().max() > 0.01 and given.isfinite().all()


@pytest.mark.parametrize("segment", [8, 0])
def test_every_update_has_gradients_of_all_parameters(segment):
    """Of those that nothing of a batch used too, or a training of several processes ends."""
    torch.manual_seed(0)
    encoder = ZipformerEncoder(ZipformerConfig(**TINY, memory_size=2, balancers=True, whiten=True)).train()
    encoder.set_num_updates(0)
    for _ in range(4):  # positions are left out in half of the calls
        encoder.zero_grad(set_to_none=True)
        encoder(torch.randn(2, 40, 12), torch.tensor([40, 21]), segment)[0].square().mean().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(dtype):
    torch.manual_seed(0)
    encoder = ZipformerEncoder(ZipformerConfig(**TINY, memory_size=2, balancers=True, whiten=True)).to(dtype)
    encoder.set_num_updates(100)
    features = torch.randn(2, 200, 12).to(dtype)
    out, lengths = encoder(features, torch.tensor([200, 141]), 4)
    out.float().square().mean().backward()
    assert out.dtype is dtype and out.isfinite().all() and lengths.tolist() == [50, 36]
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_left_contexts_are_drawn():
    encoder = ZipformerEncoder(ZipformerConfig(**TINY, left_context_frames=64, left_context_choices=(16, 32, 0)))
    assert {encoder.train()._view(8)[1] for _ in range(60)} == {2, 4, 8}
    assert {encoder.eval()._view(8)[1] for _ in range(20)} == {8}


# ------------------------------------------------------------------------------------------------- optimizer


def network(scale=1.0):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 6))
    module.register_parameter("scalar", nn.Parameter(torch.tensor(0.5)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    return module


def descend(module, optimizer, steps, spike=None):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(16, 6, generator=generator)
        loss = (module(x) * module.scalar - x.flip(1)).square().mean() * (1e4 if step == spike else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach() for parameter in module.parameters()]


def test_scaled_adam_is_icefalls():
    theirs, ours = network(), network()
    wanted = descend(theirs, package().optim.ScaledAdam(theirs.parameters(), lr=0.03, clipping_scale=2.0), 60, spike=45)
    given = descend(ours, ScaledAdam(ours.parameters(), lr=0.03), 60, spike=45)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_steps_of_scaled_adam_are_relative():
    """A tensor ten times as large, with gradients of any size, changes ten times as much."""
    changes = []
    for scale, loss_scale in ((1.0, 1.0), (10.0, 1.0), (10.0, 1e-3)):
        parameter = nn.Parameter(scale * torch.arange(1.0, 7.0))
        optimizer = ScaledAdam([parameter], lr=0.01, sizes=(1e-5, 1e3))
        before = parameter.detach().clone()
        (loss_scale * (parameter * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 2.0])).sum()).backward()
        optimizer.step()
        changes.append((parameter.detach() - before) / scale)
    assert changes[0].abs().min() > 1e-4
    for change in changes[1:]:
        torch.testing.assert_close(change, changes[0], atol=1e-7, rtol=1e-4)


def test_scaled_adam_goes_on_from_its_state():
    whole, parts = network(), network()
    wanted = descend(whole, ScaledAdam(whole.parameters(), lr=0.03), 12)
    optimizer = ScaledAdam(parts.parameters(), lr=0.03)
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        if step == 7:
            state = optimizer.state_dict()
            optimizer = ScaledAdam(parts.parameters(), lr=0.5)
            optimizer.load_state_dict(state)
        x = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        (parts(x) * parts.scalar - x.flip(1)).square().mean().backward()
        optimizer.step()
    for one, other in zip(parts.parameters(), wanted, strict=True):
        assert torch.equal(one, other)


def test_a_gradient_that_is_not_finite_changes_no_size():
    module = network()
    optimizer = ScaledAdam(module.parameters(), lr=0.03)
    descend(module, optimizer, 12)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("updates, epochs", [(0, 0), (250, 0), (500, 1), (10_000, 3), (90_000, 30)])
def test_eden(updates, epochs):
    given = eden_factor(updates, epochs, 7500, 3.5, 500, 0.5)
    optim = package().optim
    eden = optim.Eden.__new__(optim.Eden)
    eden.batch, eden.epoch, eden.base_lrs = updates, epochs, [1.0]
    eden.lr_batches, eden.lr_epochs, eden.warmup_batches, eden.warmup_start = 7500, 3.5, 500, 0.5
    assert given == pytest.approx(eden.get_lr()[0])
