"""What every encoder promises, for each in the registry: streaming equals the parallel form, for any cutting."""

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from echostream_plugin.encoders import ENCODERS, encoder_of
from echostream_plugin.inference import snapshot
from echostream_plugin.inference.frontends import FRONTENDS
from echostream_plugin.modules.recording import record_calls
from echostream_plugin.modules.weights import build
from tests import native_library
from tests.encoders.streamed import parallel, random_features, stream

TOLERANCE = 1e-4
BINS = 12
ZIPFORMER = {
    "dim": 16, "stack_dims": (12, 16, 16, 16, 16, 16), "layers": (1, 1, 1, 2, 1, 1), "ffn_dim": (16,) * 6,
    "heads": (2,) * 6, "query_dim": 4, "value_dim": 4, "conv_kernel": (5, 7, 5, 5, 5, 5), "unmasked_dims": (8,) * 6,
    "left_context_frames": 9,
}  # fmt: skip
# of each kind, options by variant; a new encoder gets the suite by a line here
VARIANTS = {
    "emformer": {
        "default": {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "subsampling_channels": 4, "memory_size": 2,
                    "left_context_frames": 9, "conv_kernel": 5},
    },
    "chunk_conformer": {
        "default": {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "conv_channels": 16, "depthwise_kernel": 7},
    },
    "whisper": {
        "default": {"dim": 12, "inner_dim": 16, "layers": 3, "heads": 2, "ffn_dim": 24, "left_context_frames": 9},
        "fine": {"dim": 12, "inner_dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "halve_after": 2,
                 "left_context_frames": 5, "memory_size": 3},
        "rotary": {"dim": 12, "inner_dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24, "halve_after": 1,
                   "left_context_frames": 0, "memory_size": 2, "memory_kind": "attention", "position": "rotary"},
    },
    "zipformer": {
        "default": ZIPFORMER,
        "ahead": {**ZIPFORMER, "lookahead_frames": 1, "memory_size": 2, "left_context_frames": 8,
                  "scaled_scores": True},
    },
}  # fmt: skip
features_of = partial(random_features, bins=BINS)
RAGGED = (0, 1, 2, 3, 4, 15, 16, 17, 31, 63, 64, 65, 150)


def make_encoder(kind: str, variant: str = "default"):
    """A small one whose outputs differ from frame to frame."""
    torch.manual_seed(0)
    encoder = ENCODERS[kind](ENCODERS[kind].Config(input_dim=BINS, **VARIANTS[kind][variant])).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return encoder


CASES = [(kind, variant) for kind, variants in VARIANTS.items() for variant in variants]
MADE = {case: make_encoder(*case) for case in CASES}


@pytest.fixture(params=CASES, ids="-".join)
def encoder(request):
    return MADE[request.param]


def same(given, wanted):
    assert given.shape == wanted.shape
    assert given.numel() == 0 or (given - wanted).abs().max() < TOLERANCE


def test_every_encoder_is_here():
    assert set(VARIANTS) == set(ENCODERS)


@settings(max_examples=6)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.sampled_from([0, 4, 8, 16]), st.integers(1, 150))
def test_streaming_equals_parallel_for_any_cutting(sizes, segment, frames):
    for made in MADE.values():
        features = features_of(frames, seed=frames)
        same(stream(made, features, sizes, segment), parallel(made, features, segment))


def test_ragged_ends(encoder):
    for frames in RAGGED[1:]:
        features = features_of(frames)
        same(stream(encoder, features, [7]), parallel(encoder, features))
        assert parallel(encoder, features).size(1) == -(-frames // 4) == encoder.output_lengths(frames)


def test_padding_changes_nothing(encoder):
    if encoder.counts_padding:
        pytest.skip("StreamSpeech's encoder sees the padding that follows an utterance, and is kept so")
    lengths = torch.tensor([150, 64, 17, 1])
    features = features_of(150, batch_size=4)
    with torch.no_grad():
        together, counts = encoder(features, lengths)
        for i, length in enumerate(lengths.tolist()):
            same(together[i : i + 1, : counts[i]], parallel(encoder, features[i : i + 1, :length]))


def test_nothing_depends_on_what_comes_after_the_segment(encoder):
    """Features after three segments, and after what is heard beyond them, are others: the outputs of three segments
    stay."""
    heard = 96 + type(encoder).context_ms(encoder.config)["right_context"] // 10
    features, others = features_of(200), features_of(200, seed=1)
    changed = torch.cat([features[:, :heard], others[:, heard:]], dim=1)
    before, after = parallel(encoder, features, 8), parallel(encoder, changed, 8)
    assert torch.equal(before[:, :24], after[:, :24]) or (before - after)[:, :24].abs().max() < TOLERANCE
    assert (before - after)[:, 24:].abs().max() > 0.01


def test_streams_in_one_state_equal_streams_alone(encoder):
    features = features_of(200, batch_size=3)
    states = [encoder.initial_state(1, 8) for _ in range(3)]
    with torch.no_grad():
        states = [encoder.step(features[i : i + 1, :70], state)[1] for i, state in enumerate(states)]
        together, joined = encoder.step(features[:, 70:160], type(states[0]).stack(states))
        for i, (state, one) in enumerate(zip(states, joined.unstack(), strict=True)):
            out, alone = encoder.step(features[i : i + 1, 70:160], state)
            same(together[i : i + 1], out)
            same(encoder.finish(one), encoder.finish(alone))


def test_a_state_is_a_value(encoder):
    """Streams that take turns on one module, and provisional looks between, change nothing for each other."""
    first, second = features_of(130, seed=2), features_of(130, seed=3)
    wanted = [stream(encoder, features, [13], 8) for features in (first, second)]
    states, outputs = [encoder.initial_state(1, 8) for _ in range(2)], [[], []]
    with torch.no_grad():
        for start in range(0, 130, 13):
            for i, features in enumerate((first, second)):
                out, states[i] = encoder.step(features[:, start : start + 13], states[i])
                outputs[i].append(out)
                seen = parallel(encoder, features[:, : start + 13], 8)
                tail = encoder.finish(states[i])
                same(tail, seen[:, seen.size(1) - tail.size(1) :])
        for i in range(2):
            same(torch.cat([*outputs[i], encoder.finish(states[i])], dim=1), wanted[i])


def test_a_snapshot_goes_on(encoder, tmp_path):
    """Written to a file and read back after every step, by whoever has the parameters."""
    features, state, outputs = features_of(130, seed=4), encoder.initial_state(1, 8), []
    with torch.no_grad():
        for piece in features.split(29, dim=1):
            out, state = encoder.step(piece, state)
            snapshot.save(tmp_path / "state", {"state": state})
            state = snapshot.load(tmp_path / "state")["state"]
            outputs.append(out)
        same(torch.cat([*outputs, encoder.finish(state)], dim=1), stream(encoder, features, [29], 8))


def test_weights_from_a_file_are_the_same(encoder, tmp_path):
    """With the tables that no file holds, whatever becomes of the file; no first values are drawn to be replaced."""
    file = tmp_path / "weights.safetensors"
    save_file(encoder.state_dict(), file)
    random_numbers = torch.get_rng_state()
    read = build(lambda: type(encoder)(encoder.config), file)
    assert torch.equal(torch.get_rng_state(), random_numbers)
    with open(file, "r+b") as overwritten:
        overwritten.write(bytes(file.stat().st_size))
    for parts in ("named_parameters", "named_buffers"):
        there, here = dict(getattr(read, parts)()), dict(getattr(encoder, parts)())
        assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def test_threads_share_the_parameters(encoder):
    streams = [features_of(130, seed=seed) for seed in range(4)]
    wanted = [stream(encoder, features, [13, 40], 8) for features in streams]
    with ThreadPoolExecutor(4) as threads:
        for given_, one in zip(threads.map(lambda x: stream(encoder, x, [13, 40], 8), streams), wanted, strict=True):
            same(given_, one)


def test_the_state_does_not_grow(encoder):
    if encoder.grows:
        pytest.skip("its attention sees the whole past")
    state, sizes = encoder.initial_state(1, 8), []
    with torch.no_grad():
        for _ in range(30):
            state = encoder.step(features_of(32), state)[1]
            sizes.append(state.nbytes)
    assert max(sizes[10:]) == min(sizes[10:])


@torch.inference_mode()
def test_recorded_steps_are_the_same(encoder):
    """See `modules.recording`."""
    if not hasattr(encoder, "record_steps"):
        pytest.skip("its steps are not recorded")
    recorded, features = copy.deepcopy(encoder), features_of(32 * 40)
    recorded.record_steps()
    with record_calls():
        stream(recorded, features[:, :100], [32], 8)
    recorders = [module._recorder for module in recorded.modules() if getattr(module, "_recorder", None)]
    assert recorders and all(recorder.recorded for recorder in recorders)
    same(stream(recorded, features, [32], 8), parallel(encoder, features, 8))


@torch.inference_mode()
def test_compiled_steps_are_the_same(encoder):
    """See `modules.native`."""
    if not hasattr(encoder, "compile_steps"):
        pytest.skip("its steps are not compiled")
    native_library.use()
    compiled, features = copy.deepcopy(encoder), features_of(32 * 40)
    assert compiled.compile_steps()
    same(stream(compiled, features, [32], 8), parallel(encoder, features, 8))
    same(stream(compiled, features, [7, 50], 8), parallel(encoder, features, 8))


def test_a_gradient_reaches_every_parameter(encoder):
    with torch.enable_grad():
        out, lengths = encoder(features_of(150, batch_size=2), torch.tensor([150, 66]), 8)
        valid = torch.arange(out.size(1)) < lengths.unsqueeze(1)
        (out[valid] * torch.randn_like(out[valid])).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    encoder.zero_grad(set_to_none=True)


def test_what_an_encoder_owns(encoder):
    """Its options, flags, front end and names serve to find it and to build it."""
    assert encoder.Config.features in FRONTENDS and encoder.architectures
    assert encoder_of([f"encoder.{name}" for name in encoder.state_dict()]) is type(encoder)
    assert all(field.metadata["help"] for field in dataclasses.fields(encoder.Config))
    hearing = type(encoder).context_ms(encoder.config)
    assert set(hearing) == {"segment", "left_context", "right_context", "memory"} and hearing["segment"] == 320
