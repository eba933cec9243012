"""The paper-faithful layer: with mapped weights, torchaudio.models.Emformer computes the same."""

import pytest
import torch

from echostream_plugin.config import EncoderConfig
from echostream_plugin.modules.emformer import Emformer

torchaudio = pytest.importorskip("torchaudio")

DIM, HEADS, FFN, LAYERS, SEGMENT, LEFT = 16, 2, 32, 3, 4, 6
NAMES = {
    "attention_norm": "layer_norm_input",
    "attention.key_value": "attention.emb_to_key_value",
    "attention.query": "attention.emb_to_query",
    "attention.output": "attention.out_proj",
    "feed_forward": "pos_ff",
    "output_norm": "layer_norm_output",
}


def make_pair(right_frames, memory_size, tanh_on_memory):
    torch.manual_seed(0)
    reference = torchaudio.models.Emformer(
        DIM,
        HEADS,
        FFN,
        LAYERS,
        SEGMENT,
        activation="silu",
        left_context_length=LEFT,
        right_context_length=right_frames,
        max_memory_size=memory_size,
        tanh_on_mem=tanh_on_memory,
    ).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = EncoderConfig(
        dim=DIM,
        heads=HEADS,
        ffn_dim=FFN,
        layers=LAYERS,
        segment_frames=SEGMENT,
        left_context_frames=LEFT,
        right_context_frames=right_frames,
        memory_size=memory_size,
        tanh_on_memory=tanh_on_memory,
        rotary=False,
        conv_kernel=0,
    )
    ours = Emformer(config).eval()
    ours.load_state_dict({our_name(name): value for name, value in reference.state_dict().items()})
    return reference, ours


def our_name(name):
    name = name.removeprefix("emformer_")
    for ours, theirs in NAMES.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    return name


OPTIONS = [(0, 0, False), (0, 3, False), (0, 3, True), (2, 0, False), (2, 3, False), (5, 2, True)]


@pytest.mark.parametrize("right_frames, memory_size, tanh_on_memory", OPTIONS)
def test_forward_equals_torchaudio(right_frames, memory_size, tanh_on_memory):
    reference, ours = make_pair(right_frames, memory_size, tanh_on_memory)
    frames = 7 * SEGMENT
    x = torch.randn(2, frames + right_frames, DIM)
    with torch.no_grad():
        expected, _ = reference(x, torch.full((2,), frames))
        torch.testing.assert_close(ours(x)[:, :frames], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("right_frames, memory_size, tanh_on_memory", OPTIONS)
def test_step_equals_torchaudio_infer(right_frames, memory_size, tanh_on_memory):
    reference, ours = make_pair(right_frames, memory_size, tanh_on_memory)
    x = torch.randn(2, 7 * SEGMENT + right_frames, DIM)
    their_state, state = None, ours.initial_state(2)
    _, state = ours.step(x[:, :right_frames], state)
    with torch.no_grad():
        for start in range(0, 7 * SEGMENT, SEGMENT):
            end = start + SEGMENT + right_frames
            expected, _, their_state = reference.infer(x[:, start:end], torch.full((2,), end - start), their_state)
            out, state = ours.step(x[:, start + right_frames : end], state)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
