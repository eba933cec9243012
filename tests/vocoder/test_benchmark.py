"""The vocoder's benchmark counts operations as the layers have them, and measures every way of running it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from echostream_plugin.benchmark.measure import Machine
from echostream_plugin.benchmark.report import vocoder_table
from echostream_plugin.benchmark.vocoder import speech_operations, time_vocoder
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, VocoderConfig, VocosConfig

TINY = VocoderConfig(
    num_embeddings=10,
    embedding_dim=8,
    model_in_dim=8,
    upsample_rates=(5, 64),
    upsample_kernel_sizes=(11, 64),
    upsample_initial_channel=16,
    resblock_kernel_sizes=(3, 5),
    resblock_dilation_sizes=((1, 3, 5), (1, 2, 3)),
    dur_predictor_params=None,
)


def test_operations_are_those_of_the_layers():
    model = CodeHiFiGAN(TINY).remove_weight_norm().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generate(torch.zeros(1, 50, dtype=torch.long))
    assert counter.get_total_flops() == speech_operations(TINY)


def test_operations_of_vocos_are_those_of_its_layers():
    config = VocosConfig(num_embeddings=10, dim=24, hidden_dim=40, coarse_blocks=2, fine_blocks=3)
    model = CodeVocos(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.generate(torch.ones(1, 50, 2))
    context = 2 * 2 * config.embedding_dim * (config.left_frames + config.right_frames)  # the edges' pitch
    assert counter.get_total_flops() - context == speech_operations(config)


@pytest.mark.parametrize("config", [TINY, VocosConfig(num_embeddings=10, dim=16, hidden_dim=16)])
def test_rows_and_table(config):
    rows = time_vocoder(config, Machine(1e10, 1e11), runs=2, seconds=0.2, pushes=(3, 10))
    assert [row["push_frames"] for row in rows] == [0, 3, 10, 3, 10]
    assert all(row["ms_per_second"].median > 0 for row in rows) and rows[1]["state_bytes"] >= rows[3]["state_bytes"] > 0
    text = vocoder_table(rows)
    assert "streamed, bfloat16" in text and "60 ms" in text and len(text.splitlines()) == 7
