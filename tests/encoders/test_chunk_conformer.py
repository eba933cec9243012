"""StreamSpeech's encoder run incrementally: at every push, what the whole recomputation gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.config import ChunkConformerConfig, ConfigError, ModelConfig
from echostream_plugin.encoders.chunk_conformer import ChunkConformerEncoder, ChunkConformerState
from echostream_plugin.modules.packed import can_pack, pack_linears

SEGMENTS = (4, 8, 12, 16, 24, 32, 5, 0)
SMALL = {"input_dim": 12, "dim": 16, "layers": 2, "heads": 2, "ffn_dim": 32, "conv_channels": 16}


def make_encoder():
    torch.manual_seed(1)
    encoder = ChunkConformerEncoder(ChunkConformerConfig(**SMALL)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases and norms too, which start as constants
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


ENCODER = make_encoder()


def make_features(frames, batch_size=1, seed=0):
    return torch.randn(batch_size, frames, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("segment_frames", [5, 7, 9, 15])
def test_training_refuses_chunks_that_would_lose_audio(segment_frames):
    encoder, features = make_encoder().train(), make_features(64)
    with pytest.raises(ConfigError, match="would lose audio: use an even number"):
        for _ in range(20):  # whatever convolution chunk is drawn
            encoder(features, torch.tensor([64]), segment_frames)


@pytest.mark.parametrize("segment_frames", [2, 4, 6, 8, 10, 12, 16, 17, 31, 32, 0])
def test_every_piece_of_audio_reaches_the_frames_in_training(segment_frames):
    encoder, features = make_encoder().train(), make_features(128).requires_grad_()
    for dropout in (module for module in encoder.modules() if isinstance(module, torch.nn.Dropout)):
        dropout.eval()
    for seed in range(4):
        torch.manual_seed(seed)
        with torch.enable_grad():
            (reached,) = torch.autograd.grad(encoder(features, torch.tensor([128]), segment_frames)[0].sum(), features)
        assert reached.abs().sum(2).gt(0).all()


def whole(features, segment_frames):
    lengths = torch.full((features.size(0),), features.size(1))
    return ENCODER(features, lengths, segment_frames)[0]


def close(actual, wanted):
    assert actual.shape == wanted.shape
    torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=0)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@settings(max_examples=12)
@given(st.sampled_from(SEGMENTS), st.lists(st.integers(0, 90), min_size=1, max_size=5))
def test_final_frames_and_rest_are_the_whole_recomputation_at_every_push(segment_frames, sizes):
    features, heard, outputs = make_features(sum(sizes)), 0, []
    state = ENCODER.initial_state(1, segment_frames)
    for size in sizes:
        out, state = ENCODER.step(features[:, heard : heard + size], state)
        outputs.append(out)
        heard += size
        close(torch.cat([*outputs, ENCODER.finish(state)], dim=1), whole(features[:, :heard], segment_frames))


@pytest.mark.skipif(not can_pack(), reason="needs FBGEMM (x86)")
def test_packed_layers_stream_the_same():
    features, packed = make_features(70), pack_linears(make_encoder(), "half")
    out, state = packed.step(features, packed.initial_state(1, 8))
    actual, wanted = torch.cat([out, packed.finish(state)], dim=1), whole(features, 8)
    torch.testing.assert_close(actual, wanted, atol=2e-2, rtol=0)  # these weights are rounded to half precision


@pytest.mark.parametrize("frames", [0, 1, 15, 16, 17, 63])
def test_ragged_tails(frames):
    features = make_features(64 + frames)
    out, state = ENCODER.step(features, ENCODER.initial_state(1, 8))
    assert out.size(1) == (64 + frames) // 32 * 8
    close(torch.cat([out, ENCODER.finish(state)], dim=1), whole(features, 8))


@pytest.mark.parametrize("segment_frames, block", [(4, 4), (8, 8), (16, 16), (32, 32), (12, 24), (24, 48), (5, 40)])
def test_nothing_sees_beyond_its_block(segment_frames, block):
    """Where attention chunk and convolution chunk end together, and nowhere else, frames are final (480 ms: 24)."""
    state = ENCODER.initial_state(1, segment_frames)
    assert state.block_features == 4 * block
    features = make_features(4 * block + 40)
    changed = features.clone()
    changed[:, 4 * block :] = make_features(40, seed=1)
    close(whole(changed, segment_frames)[:, :block], whole(features, segment_frames)[:, :block])
    _, state = ENCODER.step(features[:, : 4 * block - 1], state)
    assert state.frames == 0
    _, state = ENCODER.step(features[:, 4 * block - 1 : 4 * block], state)
    assert state.frames == block


def test_batched_streams_equal_single_ones_and_states_stack():
    features = make_features(150, batch_size=3)
    out, state = ENCODER.step(features, ENCODER.initial_state(3, 8))
    singles = []
    for i, (row, alone) in enumerate(zip(features.split(1), state.unstack(), strict=True)):
        single, other = ENCODER.step(row, ENCODER.initial_state(1, 8))
        close(out[i : i + 1], single)
        close(ENCODER.finish(alone), ENCODER.finish(other))
        singles.append(other)
    close(ENCODER.finish(ChunkConformerState.stack(singles)), ENCODER.finish(state))


def test_memory_grows_with_the_source_by_keys_and_values_only():
    sizes = []
    state = ENCODER.initial_state(1, 8)
    for _ in range(4):
        _, state = ENCODER.step(make_features(320), state)
        sizes.append(state.nbytes)
    grown = {after - before for before, after in zip(sizes, sizes[1:], strict=False)}
    assert grown == {80 * 2 * 2 * 16 * 4}  # frames, layers, keys and values, dimension, bytes


def test_a_drawn_chunk_size_is_used_at_once():
    """StreamSpeech keeps its chunk mask by length: there a new size waits for a longer batch."""
    features = make_features(400)
    small = whole(features, 8)
    large = whole(features, 16)
    assert not torch.allclose(small, large, atol=1e-2)
    close(whole(features, 8), small)
    ENCODER.set_chunk_size(16, 16)
    close(ENCODER(features, torch.tensor([400]))[0], large)
    ENCODER.set_chunk_size(8)
    close(ENCODER(features, torch.tensor([400]))[0], small)


def test_padding_masks_attention_and_whole_chunks_are_untouched_by_it():
    """As in StreamSpeech, padding reaches the convolutions of the last, partial chunk, and nothing else."""
    features = make_features(200, batch_size=2)
    both, lengths = ENCODER(features, torch.tensor([200, 128]), 8)
    assert lengths.tolist() == [50, 32]
    close(both[1:, :32], whole(features[1:, :128], 8))


@pytest.mark.parametrize("sizes", [(8, 7), (5,), (-1,), (8, -8)])
def test_chunk_sizes_that_lose_audio_are_refused(sizes):
    with pytest.raises(ConfigError, match="chunk"):
        ENCODER.set_chunk_size(*sizes)
    assert (ENCODER.chunk_size, ENCODER.conv_chunk_size) == (8, 8)


def test_training_draws_the_convolution_chunk_under_the_seed():
    encoder = make_encoder().train()
    features = make_features(200)

    def run(seed):
        torch.manual_seed(seed)
        return encoder(features, torch.tensor([200]), 16)[0]

    torch.testing.assert_close(run(3), run(3))


def test_the_config_says_which_encoder_it_is():
    values = {"encoder": {"kind": "chunk_conformer", **SMALL, "dim": 256}}
    assert isinstance(ModelConfig.from_dict(values).encoder, ChunkConformerConfig)
    assert ModelConfig.from_dict({}).encoder.kind == "emformer"
    for wrong in ({"kind": "transformer"}, {"kind": "emformer", "conv_channels": 8}, {"kind": 3}):
        with pytest.raises(ConfigError, match="encoder"):
            ModelConfig.from_dict({"encoder": wrong})
