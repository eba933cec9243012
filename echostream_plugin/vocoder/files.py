"""Vocoder folders: vocoder.safetensors and vocoder.json, which names the kind of vocoder. Nothing in them runs code."""

from pathlib import Path

from torch import nn

from echostream_plugin.config import ConfigError
from echostream_plugin.files import write_json, write_tensors
from echostream_plugin.modules.weights import build
from echostream_plugin.vocoder.codehifigan import CodeHiFiGAN, VocoderConfig, read_json
from echostream_plugin.vocoder.vocos import CodeVocos
from echostream_plugin.vocoder.vocos_config import VocosConfig

WEIGHTS_FILE = "vocoder.safetensors"
CONFIG_FILE = "vocoder.json"
KINDS = {"code_hifigan": (VocoderConfig, CodeHiFiGAN), "code_vocos": (VocosConfig, CodeVocos)}


def kind_of(config) -> str:
    """The name of a configuration's kind of vocoder."""
    return next(kind for kind, (config_class, _) in KINDS.items() if type(config) is config_class)


def make_vocoder(config) -> nn.Module:
    """An untrained vocoder of a configuration's kind."""
    return KINDS[kind_of(config)][1](config)


def config_to_dict(config) -> dict:
    """What vocoder.json holds."""
    return {"kind": kind_of(config), **config.to_dict()}


def config_from_dict(values: dict, where: str = "vocoder config"):
    """The configuration that vocoder.json holds; without a kind it is a CodeHiFiGAN's (fairseq's config.json too)."""
    kind = values.get("kind", "code_hifigan") if isinstance(values, dict) else "code_hifigan"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{where}: kind '{kind}' is no vocoder of this program; there are {', '.join(KINDS)}")
    return KINDS[kind][0].from_dict(values, where)


def save_vocoder(model: nn.Module, folder) -> Path:
    """Write vocoder.safetensors (half precision, weight norm folded) and vocoder.json; the model is unchanged."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folded = make_vocoder(model.config)
    if not any(name.endswith("weight_g") for name in model.state_dict()):
        folded.remove_weight_norm()
    folded.load_state_dict(model.state_dict())
    folded.remove_weight_norm()
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in folded.state_dict().items()}
    write_tensors(folder / WEIGHTS_FILE, tensors)
    write_json(folder / CONFIG_FILE, config_to_dict(model.config))
    return folder


def load_vocoder(folder) -> nn.Module:
    """The vocoder that `save_vocoder` wrote, in float32 and evaluation mode."""
    folder = Path(folder)
    config = config_from_dict(read_json(folder / CONFIG_FILE), str(folder / CONFIG_FILE))
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ConfigError(f"{weights}: no such file; make a vocoder with scripts/train_vocoder.py")
    return build(lambda: make_vocoder(config).remove_weight_norm(), weights).eval()
