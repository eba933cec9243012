"""The decoders compute what StreamSpeech's compute with the same weights.

The data hold the decoders of a small StreamSpeech with random weights, its encoder outputs at three chunk sizes for
two utterances (43 and 34 frames, padded), and its logits without a wait and with two settings of (k1, n1, k2, n2).
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from echostream_plugin.config import CTCHeadConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.decoders.ctc import CTCHead
from echostream_plugin.decoders.masks import build_streaming_mask
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.decoders.unit import T2UEncoder, UnitDecoder

DATA = Path(__file__).parents[1] / "data" / "streamspeech_parity"
CHUNKS = ("8", "16", "99999")
WAITS = {"offline": None, "k0n1": (0, 1, 0, 2), "k1n2": (1, 2, 1, 1)}
PAD = 1


@pytest.fixture(scope="module")
def io():
    return load_file(DATA / "decoders_io.safetensors")


@pytest.fixture(scope="module")
def decoders():
    size = {"dim": 32, "heads": 4, "ffn_dim": 64}
    unit = UnitDecoderConfig(
        vocab=55, encoder_layers=1, layers=2, upsample=5, time_positions=False, offset_embedding=False, **size
    )
    modules = {
        "source_unigram_decoder": CTCHead(CTCHeadConfig(vocab=41, dim=32)),
        "ctc_target_unigram_decoder": CTCHead(CTCHeadConfig(vocab=47, dim=32)),
        "target_unigram_decoder": TextDecoder(TextDecoderConfig(vocab=47, encoder_dim=32, layers=2, **size)),
        "synthesizer_encoder": T2UEncoder(unit),
        "decoder": UnitDecoder(unit),
    }
    weights = load_file(DATA / "decoders.safetensors")
    for name, module in modules.items():
        prefix = name + "."
        module.load_state_dict({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})
        module.eval()
    return modules


@pytest.mark.parametrize("chunk", CHUNKS)
def test_ctc_logits_agree(io, decoders, chunk):
    encoded = io[f"encoder_out.chunk{chunk}"].transpose(0, 1)
    for head, key in (("source_unigram_decoder", "asr_logits"), ("ctc_target_unigram_decoder", "st_logits")):
        expected = io[f"{key}.chunk{chunk}"].transpose(0, 1)
        torch.testing.assert_close(decoders[head](encoded), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_mt_and_unit_logits_agree(io, decoders, chunk, wait):
    encoded = io[f"encoder_out.chunk{chunk}"].transpose(0, 1)
    source_padding = io[f"encoder_padding_mask.chunk{chunk}"]
    tokens = io["prev_output_tokens_mt"]
    source_mask, k2, n2 = None, 0, None
    if WAITS[wait]:
        k1, n1, k2, n2 = WAITS[wait]
        asr, st = (decoders[name](encoded) for name in ("source_unigram_decoder", "ctc_target_unigram_decoder"))
        # StreamSpeech counts padded frames in, hence lengths None
        source_mask = build_streaming_mask(asr, st, None, tokens.size(1), k1, n1, int(chunk))
    mt, t2u, units = (decoders[name] for name in ("target_unigram_decoder", "synthesizer_encoder", "decoder"))

    hidden = mt(tokens, encoded, source_padding, source_mask)
    padding = tokens.eq(PAD)
    expected = io[f"mt_logits.chunk{chunk}.{wait}"]
    torch.testing.assert_close(mt.logits(hidden)[~padding], expected[~padding], atol=1e-4, rtol=0)

    states = t2u(hidden, padding)
    frames = ~padding.repeat_interleave(units.config.upsample, dim=1)
    expected = io[f"unit_logits.chunk{chunk}.{wait}"]
    for sample in range(tokens.size(0)):
        units.constant_position = sample  # StreamSpeech's positions run over the batch
        logits = units(states, padding, k2, n2)
        units.constant_position = 0
        torch.testing.assert_close(logits[sample, frames[sample]], expected[sample, frames[sample]], atol=1e-4, rtol=0)
