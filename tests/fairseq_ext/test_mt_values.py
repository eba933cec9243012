"""A decoder that has learnt from text, written and read; and what is said of one that does not fit."""

import json

import pytest
import torch
from safetensors import safe_open

from echostream_plugin.config import ConfigError, TextDecoderConfig
from echostream_plugin.decoders.conditioned import ConditionedDecoder, ConditionedDecoderConfig
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.fairseq_ext.mt_values import load_decoder, save_decoder

VOCAB = 12
SIZE = {"vocab": VOCAB, "dim": 16, "encoder_dim": 16, "layers": 1, "heads": 2, "ffn_dim": 32}
SYMBOLS = (tuple(f"s{i}" for i in range(VOCAB)), tuple(f"t{i}" for i in range(VOCAB)))


def decoder(layers=1):
    torch.manual_seed(0)
    return ConditionedDecoder(ConditionedDecoderConfig(**SIZE | {"layers": layers}, source_vocab=VOCAB))


def test_a_decoder_is_written_and_read(tmp_path):
    made, other = decoder(), decoder()
    torch.nn.init.normal_(made.layer_norm.weight)
    save_decoder(tmp_path / "mt.safetensors", made, SYMBOLS, updates=7)
    assert "7 updates on text" in load_decoder(other, tmp_path / "mt.safetensors", SYMBOLS)
    assert torch.equal(other.layer_norm.weight, made.layer_norm.weight)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"dictionaries": (SYMBOLS[0], SYMBOLS[0])}, "made with other dictionaries"),
        ({"decoder": lambda: TextDecoder(TextDecoderConfig(**SIZE))}, "Fix: train with --mt-decoder ctc_conditioned"),
        ({"decoder": lambda: decoder(layers=2)}, "Fix: make it for this --arch"),
        ({"content": b"nothing"}, "scripts/pretrain_mt.py writes one"),
        ({"content": None}, "scripts/pretrain_mt.py writes one"),
    ],
    ids=["dictionaries", "kind", "size", "no decoder", "no file"],
)
def test_a_decoder_that_does_not_fit_is_refused(tmp_path, change, said):
    path = tmp_path / "mt.safetensors"
    save_decoder(path, decoder(), SYMBOLS)
    if "content" in change:
        path.unlink()
        if change["content"] is not None:
            path.write_bytes(change["content"])
    with pytest.raises(ConfigError, match="--load-mt-decoder .*mt.safetensors") as error:
        load_decoder(change.get("decoder", decoder)(), path, change.get("dictionaries", SYMBOLS))
    assert said in str(error.value)


def test_the_file_says_how_it_was_made(tmp_path):
    save_decoder(tmp_path / "mt.safetensors", decoder(), SYMBOLS, updates=7, pairs=9)
    with safe_open(tmp_path / "mt.safetensors", "pt") as file:
        told = json.loads(file.metadata()["echostream"])
    assert told["notes"] == {"updates": 7, "pairs": 9} and told["config"]["kind"] == "ctc_conditioned"
