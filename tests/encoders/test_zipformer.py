"""What the Zipformer adds to icefall's: exact ends and batches, a memory bank, a look-ahead that is what it says."""

import dataclasses
from functools import lru_cache, partial

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders.zipformer import ZipformerConfig, ZipformerEncoder, left_chunks
from echostream_plugin.modules.zipformer.convolution import ChunkCausalConvolution
from echostream_plugin.modules.zipformer.parts import Downsample
from tests import zipformer_reference as reference
from tests.encoders.streamed import parallel, random_features, stream
from tests.inference.test_memory import MOST_SHAPES, Shapes

TOLERANCE = 1e-5
features_of = partial(random_features, bins=24)
ENDS = (1, 2, 4, 7, 8, 12, 15)  # frames of 20 ms after the last whole chunk
TINY = {
    "input_dim": 12, "dim": 16, "stack_dims": (16,) * 6, "layers": (1,) * 6, "ffn_dim": (16,) * 6, "heads": (2,) * 6,
    "query_dim": 4, "value_dim": 4, "conv_kernel": (3,) * 6, "unmasked_dims": (8,) * 6,
}  # fmt: skip


@lru_cache
def frozen(**options):
    """The frozen model, whose convolutions have edges."""
    encoder = ZipformerEncoder(reference.config_of("frozen", **options)).eval()
    misfits = encoder.load_state_dict(reference.read_golden()[0], strict=False)
    assert not misfits.unexpected_keys and all("memory_bias" in name for name in misfits.missing_keys)
    return encoder


def tiny(**options):
    torch.manual_seed(0)
    encoder = ZipformerEncoder(ZipformerConfig(**{**TINY, **options})).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (3.0 if "self_attn_weights" in name else 0.3))
    return encoder


def differ(given, wanted):
    assert given.shape == wanted.shape
    return (given - wanted).abs().max().item() if given.numel() else 0.0


# ------------------------------------------------------------------------------------------------- traps


@pytest.mark.parametrize("segment", [4, 8])
def test_a_ragged_end_is_as_in_the_masked_form(segment):
    """icefall's streaming form fits the convolution's edges to the short chunk; the masked form, ours too, does not."""
    encoder = frozen()
    for end in ENDS:
        features = features_of(2 * (32 + end))
        assert differ(stream(encoder, features, [11], segment), parallel(encoder, features, segment)) < TOLERANCE, end


def test_icefalls_own_streams_differ_there(monkeypatch):
    """The test above would see it: with edges fitted to the frames that there are, short ends differ."""
    scale = ChunkCausalConvolution._scale

    def fitted(self, windows):
        return scale(self, dataclasses.replace(windows, chunk=windows.frames, lengths=None))

    monkeypatch.setattr(ChunkCausalConvolution, "_scale", fitted)
    features = features_of(2 * (32 + 4))
    assert differ(stream(frozen(), features, [11], 8), parallel(frozen(), features, 8)) > 100 * TOLERANCE


def test_ragged_ends_are_those_of_the_package():
    if reference.reference() is None:
        pytest.skip("needs the package zipformer 0.1.3, see tests/zipformer_reference.py")
    _, stacks = reference.build(reference.config_of("frozen"), spread=0.3)
    encoder = ZipformerEncoder(reference.config_of("frozen")).eval()
    encoder.encoder.load_state_dict(stacks.state_dict())
    wrong = []
    for end in ENDS:
        frames = torch.randn(1, 32 + end, 16, generator=torch.Generator().manual_seed(end))
        masked = reference.masked(stacks, frames, 16, 64)
        with torch.no_grad():
            state = encoder.encoder.initial_state(1, *reference.view(16, 64))
            out, state = encoder.encoder.step(frames, state)
            given = torch.cat([out, encoder.encoder.finish(frames[:, :0], state)], dim=1)
        assert differ(given, masked) < TOLERANCE
        wrong.append(differ(reference.streamed(stacks, frames, 16, 64)[:, : masked.size(1)], masked))
    assert min(wrong) > 10 * TOLERANCE  # the package itself


@pytest.mark.parametrize("segment", [8, 0])
def test_an_utterance_in_a_padded_batch_equals_itself_alone(segment):
    encoder, lengths = frozen(), [201, 96, 78, 67, 33, 7, 1]
    features = features_of(201, batch_size=len(lengths))
    with torch.no_grad():
        together, counts = encoder(features, torch.tensor(lengths), segment)
    for row, length in enumerate(lengths):
        alone = parallel(encoder, features[row : row + 1, :length], segment)
        assert differ(together[row : row + 1, : counts[row]], alone) < TOLERANCE, length


def test_icefalls_downsampling_reads_padding(monkeypatch):
    """The test above would see it."""
    forward = Downsample.forward
    monkeypatch.setattr(Downsample, "forward", lambda self, x, lengths: forward(self, x, None))
    features = features_of(201, batch_size=2)
    with torch.no_grad():
        together, counts = frozen()(features, torch.tensor([201, 67]), 8)
    alone = parallel(frozen(), features[1:, :67], 8)
    assert differ(together[1:, : counts[1]], alone) > 0.01


def test_a_look_at_the_end_changes_nothing():
    encoder, features = frozen(), features_of(300)
    wanted, state, outputs = stream(encoder, features, [37]), encoder.initial_state(), []
    with torch.no_grad():
        for piece in features.split(37, dim=1):
            out, state = encoder.step(piece, state)
            outputs.append(out)
            before = state.clone()
            first, second = encoder.finish(state), encoder.finish(state)
            assert torch.equal(first, second) and all(map(torch.equal, tensors(state), tensors(before)))
        assert torch.equal(torch.cat([*outputs, encoder.finish(state)], dim=1), wanted)


def tensors(state):
    zipformer = state.zipformer
    stacks = [tensor for stack in zipformer.stacks for tensor in (stack.past, stack.inputs)]
    return [state.front.features, state.front.hidden, zipformer.past_chunks, zipformer.pending, *stacks]


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("segment", [8, 0])
def test_tiny_utterances(ahead, segment):
    encoder = frozen(lookahead_frames=ahead)
    with torch.no_grad():
        assert encoder.finish(encoder.initial_state(1, segment)).shape == (1, 0, 40)
    for count in (1, 2, 3, 7, 8, 9):
        features = features_of(count)
        given = stream(encoder, features, [2], segment)
        assert given.size(1) == -(-count // 4) == encoder.output_lengths(count)
        assert differ(given, parallel(encoder, features, segment)) < TOLERANCE


# ------------------------------------------------------------------------------------------------- what a frame hears


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_look_ahead_is_what_it_says(ahead):
    """A chunk hears its last feature, and 40 ms more where that is asked for, and not a feature more."""
    encoder = frozen(lookahead_frames=ahead)
    hearing = ZipformerEncoder.context_ms(encoder.config)
    end = 2 * hearing["segment"] // 10 + hearing["right_context"] // 10  # of what the second chunk hears
    features = features_of(200)
    wanted = parallel(encoder, features)
    for changed, stays in ((end, True), (end - 1, False)):
        others = features.clone()
        others[:, changed] += 1.0
        given = parallel(encoder, others)
        assert torch.equal(given[:, :8], wanted[:, :8])
        assert torch.equal(given[:, 8:16], wanted[:, 8:16]) is stays
        assert not torch.equal(given[:, 16:], wanted[:, 16:])


def test_frames_come_as_soon_as_they_can():
    for ahead in (0, 1):
        encoder = frozen(lookahead_frames=ahead)
        state, features = encoder.initial_state(), features_of(64)
        with torch.no_grad():
            needed = 32 + 4 * ahead
            out, state = encoder.step(features[:, : needed - 1], state)
            assert out.size(1) == 0
            assert encoder.step(features[:, needed - 1 : needed], state)[0].size(1) == 8


@pytest.mark.parametrize("memory", [0, 40])
def test_old_chunks_are_heard_through_the_memory_alone(memory):
    """Of 35 chunks of 160 ms the second is another. Six attentions and twelve convolutions that each reach one chunk
    back, and a front end that reads 19 features, do not take it to the last two."""
    encoder = tiny(segment_frames=4, left_context_frames=4, memory_size=memory)
    features = features_of(560, bins=12)
    others = features.clone()
    others[:, 16:32] += 3.0
    with torch.no_grad():
        change = (parallel(encoder, others) - parallel(encoder, features)).abs().amax((0, 2))
    assert change[4:8].min() > 0.01
    if memory:
        assert change[-8:].min() > 1e-5
    else:
        assert change[-8:].max() == 0


def test_a_memory_of_fewer_chunks_forgets():
    encoder = tiny(segment_frames=4, left_context_frames=4, memory_size=2)
    features = features_of(1200, bins=12)
    others = features.clone()
    others[:, 16:32] += 3.0
    with torch.no_grad():
        change = (parallel(encoder, others) - parallel(encoder, features)).abs().amax((0, 2))
    assert change[4:8].min() > 0.01 and change[-8:].max() == 0
    encoder, features = encoder.double(), features.double()  # so many layers after each other multiply rounding errors
    assert differ(stream(encoder, features, [100]), parallel(encoder, features)) < 1e-8


def test_a_memory_begins_when_the_first_chunk_has_left():
    """With one chunk of left context, the third chunk is the first that remembers."""
    plain, remembers = (tiny(segment_frames=4, left_context_frames=4, memory_size=size) for size in (0, 3))
    remembers.load_state_dict(plain.state_dict(), strict=False)
    features = features_of(16 * 8, bins=12)
    for run in (parallel, lambda encoder, features: stream(encoder, features, [16])):
        change = (run(remembers, features) - run(plain, features)).abs().amax((0, 2))
        assert change[:8].max() < TOLERANCE and change[8:12].max() > 0.01


def test_without_memory_the_network_is_icefalls():
    plain, names = tiny(), tiny(memory_size=2).state_dict()
    assert not any("memory" in name for name in plain.state_dict())
    assert sum("memory_bias" in name for name in names) == 6 and len(names) == len(plain.state_dict()) + 6


def test_the_state_is_as_large_after_half_an_hour():
    encoder = tiny(memory_size=2, left_context_frames=16)
    state, sizes = encoder.initial_state(), set()
    with torch.inference_mode():
        for minute in range(30):
            state = encoder.step(features_of(6016, bins=12, seed=minute), state)[1]
            sizes.add(state.nbytes)
    assert len(sizes) == 1  # a minute is 188 chunks


# ------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "options, message",
    [
        ({"segment_frames": 6}, "segment_frames 6: a chunk of this encoder is a multiple of 4 encoder frames"),
        ({"stack_dims": (192, 256, 384, 510, 384, 256), "dim": 510}, "stack_dims .*divisible by 4, not 510"),
        ({"dim": 256}, "dim 256 must be the largest of stack_dims, 512"),
        ({"segment_frames": 0, "memory_size": 4}, "memory_size 4 needs chunks: segment_frames must not be 0"),
        ({"layers": (2, 2)}, "layers 2,2: expected 6 numbers"),
        ({"layers": (2, 2, 2, 0, 2, 2)}, "layers must be at least 1, got 0"),
        ({"heads": (4, 4, 4, "8", 4, 4)}, "heads: expected a whole number, got '8'"),
        ({"conv_kernel": (31, 31, 16, 15, 15, 31)}, "conv_kernel 31,31,16,15,15,31: each must be odd"),
        ({"unmasked_dims": (512,) * 6}, "unmasked_dims .*512 is more than its stack's 192"),
        ({"position_dim": 47}, "position_dim 47 must be even"),
        ({"lookahead_frames": 2}, "lookahead_frames must be at most 1"),
        ({"kind": "emformer"}, "cannot be of kind 'emformer'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ZipformerConfig(**options)


def test_segments_that_do_not_fit_are_refused():
    encoder = tiny()
    for call in (encoder.check_training_segment, lambda segment: encoder.initial_state(1, segment)):
        with pytest.raises(ConfigError, match="segment_frames 10: a chunk of this encoder is a multiple of 4"):
            call(10)
    with pytest.raises(ConfigError, match="segment_frames 10"):
        parallel(encoder, features_of(50, bins=12), 10)
    with pytest.raises(ConfigError, match="segment_frames -4: a chunk of this encoder is a multiple of 4"):
        encoder.check_training_segment(-4)


@pytest.mark.parametrize("segment, left, wanted", [(8, 64, 8), (8, 63, 7), (8, 4, 1), (8, 0, 0), (0, 64, 0)])
def test_left_context_is_whole_chunks_but_one_at_least(segment, left, wanted):
    assert left_chunks(segment, left) == wanted
    hearing = ZipformerEncoder.context_ms(ZipformerConfig(segment_frames=segment, left_context_frames=left))
    assert hearing["left_context"] == (wanted * segment * 40 if segment else None)


def test_scores_that_are_divided_begin_with_weights_as_much_larger():
    """By the fourth root of the width, queries and keys both, so that the first scores are those of icefall's."""
    outputs, weights = [], []
    for scaled in (False, True):
        torch.manual_seed(0)
        encoder = ZipformerEncoder(ZipformerConfig(**TINY, scaled_scores=scaled)).eval()
        for layer in (each for stack in encoder.encoder.encoders for each in getattr(stack, "encoder", stack).layers):
            layer.self_attn_weights.in_proj.bias.data.zero_()
        weights.append(encoder.encoder.encoders[0].layers[0].self_attn_weights.in_proj.weight.data)
        outputs.append(parallel(encoder, features_of(90, bins=12)))
    torch.testing.assert_close(weights[1][:16], 2**0.5 * weights[0][:16])  # 4 ** (1 / 4)
    assert torch.equal(weights[1][16:], weights[0][16:])  # of positions
    assert differ(*outputs) < TOLERANCE


def test_the_front_end_has_few_shapes_for_any_push():
    front, shapes = tiny().encoder_embed, Shapes()
    with torch.inference_mode(), shapes:
        for length in range(1, 160):
            state = front.initial_state(1)
            out, state = front.step(features_of(length, bins=12), state)
            assert out.size(1) + front.finish(state).size(1) == (length + 1) // 2
    assert len(shapes.seen) == 6 and shapes.most <= MOST_SHAPES
