"""First values of a Whisper encoder: from a model.bin, and from an adapted encoder."""

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data.ctranslate2 import read_variables
from echostream_plugin.data.whisper_weights import (
    adapted_options,
    load_whisper_encoder,
    save_adapted,
    whisper_layers,
)
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from tests.whisper_file import SMALL, variables, write_model_bin


@pytest.fixture
def model(tmp_path):
    return write_model_bin(tmp_path / "model.bin")


def encoder_of(**options) -> WhisperEncoder:
    return WhisperEncoder(WhisperConfig(**{**SMALL, **options}))


def test_a_file_is_read_back(model):
    wanted, given = variables(), read_variables(model, "encoder/")
    assert set(given) == {name for name in wanted if name.startswith("encoder/")}
    assert all((given[name] == wanted[name].astype("float16")).all() for name in given)
    assert len(read_variables(model)) == len(wanted) and whisper_layers(model) == whisper_layers(model.parent) == 3


def test_every_parameter_finds_its_place(model):
    encoder, before, values = encoder_of(), encoder_of().state_dict(), variables()
    line = load_whisper_encoder(encoder, model)
    assert "initial values kept: join, output_norm, projection" in line
    state = {name: tensor.double().numpy() for name, tensor in encoder.state_dict().items()}
    pairs = {
        "front.convolutions.1.weight": values["encoder/conv2/weight"],
        "fine.layers.1.attention.query.weight": values["encoder/layer_1/self_attention/linear_0/weight"][:16],
        "fine.layers.1.attention.key_value.bias": values["encoder/layer_1/self_attention/linear_0/bias"][16:],
        "coarse.layers.0.attention.output.weight": values["encoder/layer_2/self_attention/linear_1/weight"],
        "coarse.layers.0.feed_forward.0.bias": values["encoder/layer_2/ffn/layer_norm/beta"],
        "coarse.layers.0.feed_forward.4.weight": values["encoder/layer_2/ffn/linear_1/weight"],
        "norm.weight": values["encoder/layer_norm/gamma"],
    }
    for name, value in pairs.items():
        assert abs(state[name] - value).max() < 1e-3, name
    unchanged = {name for name, tensor in encoder.state_dict().items() if torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in unchanged} <= {"join", "projection", "output_norm"}


def test_an_adapted_encoder_is_taken_whole(model, tmp_path):
    encoder, other = encoder_of(), encoder_of(dropout=0.3)
    load_whisper_encoder(encoder, model)
    path = save_adapted(tmp_path / "adapted.safetensors", encoder, updates=3)
    assert adapted_options(path)["halve_after"] == 2
    assert "initial values kept: none" in load_whisper_encoder(other, path)
    for name, tensor in encoder.state_dict().items():
        assert (tensor - other.state_dict()[name]).abs().max() < 2e-3, name


def test_what_does_not_fit_is_named(model, tmp_path):
    with pytest.raises(ConfigError, match="a model of 3 layers; use --encoder-layers 3 or less"):
        load_whisper_encoder(encoder_of(layers=4), model)
    with pytest.raises(ConfigError, match="weight has shape .* there and .* here.*--inner-dim"):
        load_whisper_encoder(encoder_of(inner_dim=24), model)
    path = save_adapted(tmp_path / "adapted.safetensors", encoder_of())
    with pytest.raises(ConfigError, match="Its flags: --encoder-embed-dim 12 .*--encoder-layers 3 --halve-after 2"):
        load_whisper_encoder(encoder_of(halve_after=1), path)
    broken = encoder_of()
    broken.projection.bias.data[0] = float("inf")
    path = save_adapted(tmp_path / "broken.safetensors", broken)
    with pytest.raises(ConfigError, match="broken.safetensors: projection.bias holds numbers that are not finite"):
        load_whisper_encoder(encoder_of(), path)


def test_a_file_of_something_else_is_named(model, tmp_path):
    broken = tmp_path / "broken.bin"
    for content in (b"", b"RIFF" * 40, model.read_bytes()[:3000]):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match="broken.bin: not a model.bin of CTranslate2, or incomplete"):
            read_variables(broken)
    with pytest.raises(ConfigError, match="nothing.bin: no such file"):
        load_whisper_encoder(encoder_of(), tmp_path / "nothing.bin")
    (tmp_path / "other.safetensors").write_bytes(b"other")
    with pytest.raises(ConfigError, match="other.safetensors: not an adapted encoder"):
        load_whisper_encoder(encoder_of(), tmp_path / "other.safetensors")
