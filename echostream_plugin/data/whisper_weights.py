"""First values of a Whisper encoder: from whisper-base itself, or from one that was adapted to streaming.

An adapted encoder is a safetensors file of its parameters; its metadata says with which options it was made.
"""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.data.ctranslate2 import read_variables
from echostream_plugin.data.whisper_base import whisper_folder
from echostream_plugin.files import write_tensors
from echostream_plugin.modules.weights import check_finite, there_and_here

# parameters that Whisper does not have, and that keep the values they were made with
_OURS = ("join.", "projection.", "output_norm.")
_AFTER_LAYERS = ("norm.", *_OURS)  # what the layers' features go through to the heads, which are trained to it


def load_whisper_encoder(encoder, path) -> str:
    """Copy weights into a `WhisperEncoder`; returns a line that says what was taken.

    path: 'auto' (whisper-base of the packages), a model.bin or its folder, or an adapted encoder (.safetensors). Raises
    ConfigError where they do not fit the encoder's options."""
    if str(path).endswith(".safetensors"):
        given, kept = _adapted(Path(path)), ()
    else:
        path = _model_bin(path)
        given, kept = whisper_parameters(path, encoder.config), _OURS
    path = Path(path)
    own = encoder.state_dict()
    if problems := there_and_here(own, given, kept):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(f"{path}: does not fit the encoder: {'; '.join(problems[:3])}{more}. {_fix(path)}")
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)
    initial = sorted({name.split(".")[0] for name in own if name not in given})
    return f"encoder from {path}: {len(given)} tensors; initial values kept: {', '.join(initial) or 'none'}"


def whisper_parameters(path, config) -> dict[str, Tensor]:
    """Parameters of a `WhisperEncoder` of these options by name, from a model.bin."""
    variables = read_variables(path, "encoder/")
    values = {name.removeprefix("encoder/"): torch.tensor(array) for name, array in variables.items()}
    count = _count_layers(values)
    if count < config.layers:
        raise ConfigError(f"{path}: a model of {count} layers; use --encoder-layers {count} or less")
    taken = {}
    for i in (1, 2):
        for name in ("weight", "bias"):
            taken[f"front.convolutions.{i - 1}.{name}"] = values[f"conv{i}/{name}"]
    for index in range(config.layers):
        fine = index < config.halve_after
        stack, place = ("fine", index) if fine else ("coarse", index - config.halve_after)
        layer = {name.split("/", 1)[1]: value for name, value in values.items() if name.startswith(f"layer_{index}/")}
        taken |= {f"{stack}.layers.{place}.{name}": value for name, value in _layer(layer).items()}
    taken["norm.weight"], taken["norm.bias"] = values["layer_norm/gamma"], values["layer_norm/beta"]
    return {name: value.float() for name, value in taken.items()}


def halfway_back(state: dict[str, Tensor], path) -> dict[str, Tensor]:
    """A model's parameters by name, those of its encoder's front end and layers the mean of what they are and of an
    adapted encoder's (.safetensors): what a training on few voices took from the encoder comes back by half, as in
    WiSE-FT (arXiv 2109.01903). Raises ConfigError where the two encoders do not fit together, or where
    the adapted one holds NaN."""
    adapted = {f"encoder.{name}": tensor for name, tensor in _adapted(Path(path)).items()}
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    if problems := there_and_here(encoder, adapted):
        raise ConfigError(f"{path}: not the encoder that the model began with: {problems[0]}")
    kept = tuple(f"encoder.{name}" for name in _AFTER_LAYERS)
    return state | {name: (tensor + adapted[name]) / 2 for name, tensor in encoder.items() if not name.startswith(kept)}


def whisper_layers(path) -> int:
    """How many layers the encoder of a model has; path: as for `load_whisper_encoder`, not adapted."""
    return _count_layers(name.removeprefix("encoder/") for name in read_variables(_model_bin(path), "encoder/"))


def save_adapted(path, encoder, **notes) -> Path:
    """Write an adapted encoder; notes: plain values that say how it was made."""
    description = {"encoder": dataclasses.asdict(encoder.config), "notes": notes}
    tensors = {name: tensor.detach().cpu().half().contiguous() for name, tensor in encoder.state_dict().items()}
    return write_tensors(path, tensors, {"echostream": json.dumps(description)})


def adapted_options(path) -> dict:
    """The options of an adapted encoder by name, as `WhisperConfig` has them."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["echostream"])["encoder"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not an adapted encoder; scripts/adapt_encoder.py writes one ({error!r})") from error


def _model_bin(path) -> Path:
    path = whisper_folder() if str(path) == "auto" else Path(path)
    return path / "model.bin" if path.is_dir() else path


def _count_layers(names) -> int:
    return len({name.split("/")[0] for name in names if name.startswith("layer_")} - {"layer_norm"})


def _adapted(path: Path) -> dict[str, Tensor]:
    adapted_options(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    for name, tensor in tensors.items():
        check_finite(name, tensor, path)
    return tensors


def _layer(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A layer's parameters under the Emformer's names. CTranslate2 has query, key and value in one matrix."""
    attention, feed_forward = "self_attention", "ffn"
    taken = {}
    for name, norm in (("weight", "gamma"), ("bias", "beta")):
        query_key_value = values[f"{attention}/linear_0/{name}"]
        dim = query_key_value.size(0) // 3
        taken |= {
            f"attention_norm.{name}": values[f"{attention}/layer_norm/{norm}"],
            f"attention.query.{name}": query_key_value[:dim],
            f"attention.key_value.{name}": query_key_value[dim:],
            f"attention.output.{name}": values[f"{attention}/linear_1/{name}"],
            f"feed_forward.0.{name}": values[f"{feed_forward}/layer_norm/{norm}"],
            f"feed_forward.1.{name}": values[f"{feed_forward}/linear_0/{name}"],
            f"feed_forward.4.{name}": values[f"{feed_forward}/linear_1/{name}"],
        }
    return taken


def _fix(path: Path) -> str:
    """Which flags give the encoder that a file holds."""
    if path.suffix != ".safetensors":
        return "whisper-base is 512 wide with 8 heads: --inner-dim 512 --encoder-attention-heads 8"
    names = {"layers": "encoder_layers", "dim": "encoder_embed_dim", "ffn_dim": "encoder_ffn_embed_dim"}
    shaping = ("layers", "halve_after", "dim", "inner_dim", "ffn_dim")
    flags = {names.get(name, name): value for name, value in adapted_options(path).items() if name in shaping}
    return "Its flags: " + " ".join(f"--{name.replace('_', '-')} {value}" for name, value in flags.items())
