"""MT decoders by kind: flags, configurations, and what is said of an unknown one."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace

import pytest

from echostream_plugin import config as configuration
from echostream_plugin.config import ConfigError, ModelConfig, TextDecoderConfig, check_options, decoder_config, option
from echostream_plugin.decoders.base import DECODERS, register_decoder
from echostream_plugin.decoders.text import TextDecoder
from echostream_plugin.fairseq_ext.flags import add_model_flags, config_from_args, fill_defaults, flags_of_config
from echostream_plugin.model import S2STModel
from tests.tiny_bundle import tiny_config


@pytest.fixture
def toy():
    """The Transformer with an option more and without two of its own."""

    @decoder_config
    @dataclass(frozen=True)
    class ToyConfig:
        kind: str = option("toy", "which MT decoder this is")
        vocab: int = option(6000, "target dictionary size")
        dim: int = option(512, "decoder dimension")
        encoder_dim: int = option(256, "dimension of the encoder output")
        layers: int = option(7, "decoder layers of the toy")
        turns: tuple = option((1, 2), "of the toy")

        def __post_init__(self):
            check_options(self)

    @register_decoder
    class ToyDecoder(TextDecoder):
        Config = ToyConfig

        def __init__(self, config):
            same = {name: getattr(config, name) for name in ("vocab", "dim", "encoder_dim", "layers")}
            super().__init__(TextDecoderConfig(**same))

    yield ToyConfig
    del DECODERS["toy"], configuration.DECODERS["toy"]


def read(words: str) -> Namespace:
    parser = ArgumentParser()
    add_model_flags(parser)
    args = parser.parse_args(words.split())
    fill_defaults(args)
    return args


def test_options_that_only_it_has_are_flags_of_its_own(toy):
    config = config_from_args(read("--mt-decoder toy --mt-turns 3,4 --decoder-embed-dim 64"), 10, 11, 12, 99)
    assert config.mt == toy(vocab=11, dim=64, encoder_dim=256, turns=(3, 4)) and config.unit.dim == 64
    flags = flags_of_config(config)
    assert (flags["mt_decoder"], flags["mt_turns"], flags["translation_decoder_layers"]) == ("toy", (3, 4), 7)
    assert "translation_window_tokens" not in flags  # the toy has no window
    assert ModelConfig.from_dict({"mt": {"kind": "toy", "turns": [5, 6]}}).mt.turns == (5, 6)


def test_where_none_is_named_it_is_the_transformer(toy):
    args = read("")
    assert args.mt_decoder == "transformer" and not hasattr(args, "mt_turns")
    config = config_from_args(args, 10, 11, 12, 99)
    assert config.mt == TextDecoderConfig(vocab=11, ffn_dim=99)
    assert ModelConfig.from_dict({"mt": {"layers": 3}}).mt == TextDecoderConfig(layers=3)


def test_a_model_is_built_with_it(toy):
    tiny = tiny_config()
    model = S2STModel(replace(tiny, mt=toy(vocab=tiny.mt.vocab, dim=16, encoder_dim=16, layers=1)))
    assert type(model.target_unigram_decoder).__name__ == "ToyDecoder"


def test_an_unknown_one_is_refused():
    with pytest.raises(ConfigError, match="--mt-decoder nothing: use one of transformer"):
        read("--mt-decoder nothing")
    with pytest.raises(ConfigError, match="mt.kind: unknown MT decoder 'nothing'; known: transformer"):
        ModelConfig.from_dict({"mt": {"kind": "nothing"}})
    with pytest.raises(ConfigError, match="a Transformer's configuration cannot be of kind 'toy'"):
        TextDecoderConfig(kind="toy")
