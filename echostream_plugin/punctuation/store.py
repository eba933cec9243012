"""A punctuator as a folder: punctuator.safetensors (half precision) and punctuator.json. Reading one runs no code."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from echostream_plugin.config import ConfigError
from echostream_plugin.files import write_json, write_tensors
from echostream_plugin.punctuation.model import Punctuator, PunctuatorConfig

WEIGHTS_FILE, CONFIG_FILE = "punctuator.safetensors", "punctuator.json"


def save_punctuator(model: Punctuator, folder, card: dict | None = None) -> Path:
    """Write a model; card: facts for people, such as the command that trained it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(folder / WEIGHTS_FILE, tensors)
    description = {"kind": "ct_transformer", "config": dataclasses.asdict(model.config), "card": card or {}}
    write_json(folder / CONFIG_FILE, description)
    return folder


def load_punctuator(folder) -> Punctuator:
    """The model that `save_punctuator` wrote, in float32, for inference. Raises ConfigError that names the file."""
    folder = Path(folder)
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["config"]
        known = {field.name for field in dataclasses.fields(PunctuatorConfig)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"{path}: unknown option {unknown[0]}")
        model = Punctuator(PunctuatorConfig(**values))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; scripts/train_punctuator.py makes a punctuator") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no punctuator's configuration ({error!r})") from error
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ConfigError(f"{weights}: no such file; the punctuator is incomplete")
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights}: not the weights of {path} ({str(error).splitlines()[0]})") from error
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise ConfigError(f"{weights}: a weight is not finite")
    return model.eval().requires_grad_(False)
