"""The Zipformer computes what icefall's recipe does: against a frozen model, and against the package where it is."""

import dataclasses
from functools import lru_cache

import pytest
import torch

from echostream_plugin.encoders.zipformer import ZipformerEncoder
from echostream_plugin.modules.zipformer.convolution import ChunkCausalConvolution
from echostream_plugin.modules.zipformer.parts import BiasNorm, Bypass, Downsample, position_table, swoosh_l, swoosh_r
from echostream_plugin.modules.zipformer.schedule import Clock
from tests import zipformer_reference as reference
from tests.encoders.streamed import stream

TOLERANCE = 1e-5
FRAMES = {"mini": 330, "small": 290, "medium": 70}  # of 20 ms
PARAMETERS = {"mini": (2_789_300, 378_289), "small": (21_720_098, 611_953), "medium": (63_944_070, 611_953)}
GRID = [(chunk, left) for chunk in reference.CHUNKS for left in reference.LEFTS]


def needs_reference():
    if reference.reference() is None:
        pytest.skip("needs the package zipformer 0.1.3, see tests/zipformer_reference.py")


def differ(given, wanted):
    assert given.shape == wanted.shape
    return (given - wanted).abs().max().item()


@lru_cache
def frozen(**options):
    """The frozen model, and its inputs and outputs by name."""
    state, tensors = reference.read_golden()
    encoder = ZipformerEncoder(reference.config_of("frozen", **options)).eval()
    encoder.load_state_dict(state)
    return encoder, tensors


# ------------------------------------------------------------------------------------------------- frozen outputs


@torch.no_grad()
def test_the_front_end_is_icefalls_later():
    encoder, tensors = frozen()
    frames = encoder.encoder_embed(tensors["features"], torch.tensor([tensors["features"].size(1)]))
    assert tensors["frames"].abs().max() > 1 and differ(frames, tensors["frames"]) < TOLERANCE


@torch.no_grad()
def test_masked_outputs_are_icefalls():
    encoder, tensors = frozen()
    for chunk, left in GRID:
        if (wanted := tensors.get(f"masked {chunk} {left}")) is None:
            continue
        given = encoder.encoder(tensors["frames"], torch.tensor([150]), *reference.view(chunk, left))
        assert differ(given, wanted) < TOLERANCE, (chunk, left)
    assert differ(tensors["masked 16 64"], tensors["masked 64 64"]) > 0.01
    assert differ(tensors["masked 16 64"], tensors["masked 16 128"]) > 1e-4


def test_streamed_outputs_are_icefalls():
    encoder, tensors = frozen()
    for left, name in ((32, "streamed 16 64"), (64, "masked 16 128")):
        encoder.config = dataclasses.replace(encoder.config, left_context_frames=left)
        wanted = tensors[name]
        given = stream(encoder, tensors["features"], [7, 40, 1], 8)[:, : wanted.size(1)]
        assert differ(given, wanted) < TOLERANCE


# ------------------------------------------------------------------------------------------------- the package itself


@lru_cache
def models(size):
    """Reference and ours with the same weights, and frames of 20 ms."""
    config = reference.config_of(size)
    front, stacks = reference.build(config)
    encoder = ZipformerEncoder(config).eval()
    parts = (encoder.encoder_embed, front), (encoder.encoder, stacks)
    loaded = [ours.load_state_dict(theirs.state_dict()) for ours, theirs in parts]
    assert not any(keys for result in loaded for keys in (result.missing_keys, result.unexpected_keys))
    features = torch.randn(1, 2 * FRAMES[size], config.input_dim)
    return front, stacks, encoder, features, reference.embedded(front, features)


@pytest.mark.parametrize("size", FRAMES)
def test_state_dicts_load_with_nothing_missing_or_left_over(size):
    needs_reference()
    front, stacks, encoder, _, _ = models(size)
    counts = tuple(sum(p.numel() for p in module.parameters()) for module in (stacks, front))
    assert counts == PARAMETERS[size]
    assert sum(tensor.numel() for tensor in encoder.state_dict().values()) == sum(counts)


@torch.no_grad()
@pytest.mark.parametrize("size", FRAMES)
def test_outputs_are_the_packages(size):
    needs_reference()
    front, stacks, encoder, features, wanted = models(size)
    frames = encoder.encoder_embed(features, torch.tensor([features.size(1)]))
    assert differ(frames, wanted) < TOLERANCE
    for chunk, left in GRID if size != "medium" else [(16, 64), (-1, 64)]:
        given = encoder.encoder(wanted, torch.tensor([wanted.size(1)]), *reference.view(chunk, left))
        assert differ(given, reference.masked(stacks, wanted, chunk, left)) < TOLERANCE, (chunk, left)


@pytest.mark.parametrize("size", ["mini", "small"])
def test_streams_are_the_packages(size):
    """Up to the last whole chunk: see `test_zipformer.py` for the rest."""
    needs_reference()
    _, stacks, encoder, features, frames = models(size)
    for chunk, left in ((16, 64), (32, 128), (64, 256)):
        whole = frames.size(1) // chunk * chunk
        wanted = reference.streamed(stacks, frames[:, :whole], chunk, left)
        encoder.config = dataclasses.replace(encoder.config, left_context_frames=left // 2)
        given = stream(encoder, features[:, : 2 * whole], [50, 81], chunk // 2)
        assert differ(given, wanted) < TOLERANCE, (chunk, left)


# ------------------------------------------------------------------------------------------------- parts


def test_swooshes():
    needs_reference()
    scaling, x = reference.reference().scaling, 20 * torch.randn(1000)
    for ours, theirs in ((swoosh_l, scaling.SwooshL()), (swoosh_r, scaling.SwooshR())):
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
    assert abs(swoosh_r(torch.zeros(1)).item()) < 1e-6


@pytest.mark.parametrize("count", [3, 20])
def test_positions(count):
    needs_reference()
    theirs = reference.reference().zipformer.CompactRelPositionalEncoding(48, 0.0).eval()
    theirs = theirs(torch.zeros(count, 1, 1), 30)[0]
    torch.testing.assert_close(position_table(30, count, 48, torch.float32, torch.device("cpu")), theirs)


def test_norm_bypass_and_downsampling():
    needs_reference()
    modules, x, y = reference.reference(), torch.randn(16, 2, 12), torch.randn(16, 2, 12)
    pairs = [
        (BiasNorm(12), modules.scaling.BiasNorm(12), (x,)),
        (Bypass(12, Clock(), True), modules.zipformer.BypassModule(12), (x, y)),
    ]
    for ours, theirs, inputs in pairs:
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.normal_()
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours.eval()(*inputs), theirs.eval()(*inputs), atol=1e-5, rtol=0)
    ours, theirs = Downsample(4), modules.zipformer.SimpleDownsample(12, 4, 0.0, True)
    with torch.no_grad():
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    for count in (16, 14, 13):  # the reference repeats the last frame of a single utterance
        given = ours(x.transpose(0, 1), torch.tensor([count, count]))[:, : -(-count // 4)]
        torch.testing.assert_close(given.transpose(0, 1), theirs(x[:count]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [2, 5, 16])
def test_chunk_causal_convolution(chunk):
    needs_reference()
    ours = ChunkCausalConvolution(6, 9)
    theirs = reference.reference().scaling.ChunkCausalDepthwiseConv1d(6, 9)
    with torch.no_grad():
        ours.chunkwise_conv_scale.normal_()
    theirs.load_state_dict(ours.state_dict())
    x, past = torch.randn(2, 4 * chunk, 6), torch.zeros(2, 4, 6)
    wanted = theirs(x.transpose(1, 2), chunk).transpose(1, 2)
    windows = type("Sizes", (), {"count": 4, "frames": chunk, "chunk": chunk, "lengths": None})
    torch.testing.assert_close(ours(x, past, windows)[0], wanted, atol=1e-5, rtol=0)
    windows.count, outputs = 1, []
    with torch.inference_mode():
        for piece in x.split(chunk, dim=1):  # as sums
            out, past = ours(piece, past, windows)
            outputs.append(out)
        torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, atol=1e-5, rtol=0)
