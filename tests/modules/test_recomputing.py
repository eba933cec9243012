"""Layers that are computed again backward: the same gradients from less memory."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.modules.recomputing import recompute

SIZES = {"dim": 32, "heads": 2, "ffn_dim": 64, "layers": 4, "subsampling_channels": 4, "left_context_frames": 16}


def gradients(encoder, backends, recomputes):
    """Of every parameter, and the bytes that were kept for them."""
    kept = []

    def keep(tensor):
        kept.append(tensor.untyped_storage())
        return tensor

    encoder.checkpoint_activations(recomputes)
    encoder.zero_grad()
    torch.manual_seed(1)
    features, lengths = torch.randn(2, 240, 80), torch.tensor([240, 177])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), sdpa_kernel(backends):
        loss = encoder(features, lengths)[0].square().mean()
    size = sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())
    loss.backward()  # outside the caller's choice of attention, as fairseq does it
    return {name: each.grad.clone() for name, each in encoder.named_parameters()}, size


@pytest.mark.parametrize("backends", [[SDPBackend.MATH], [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("right_context_frames", [0, 2])
def test_the_same_gradients_from_a_third_of_the_memory(backends, dropout, right_context_frames):
    torch.manual_seed(0)
    rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), dropout)
    encoder = EmformerEncoder(EncoderConfig(**SIZES, **rates, right_context_frames=right_context_frames)).train()
    (wanted, much), (found, little) = (gradients(encoder, backends, recomputes) for recomputes in (False, True))
    assert little < much / 3
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_without_gradients_nothing_is_kept_or_recomputed():
    calls = []

    def square(x):
        calls.append(x)
        return x * x

    with torch.no_grad():
        assert not recompute(square, torch.ones(1, requires_grad=True)).requires_grad
    recompute(square, torch.ones(1, requires_grad=True)).backward()
    assert len(calls) == 3
