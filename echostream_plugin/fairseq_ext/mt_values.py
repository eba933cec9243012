"""First values of a training's MT decoder from one that has learnt to translate text: `--load-mt-decoder`."""

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.conditioned import ConditionedDecoder
from echostream_plugin.files import write_tensors
from echostream_plugin.inference.digest import value_digest
from echostream_plugin.modules.weights import misfits


def save_decoder(path: Path, decoder: ConditionedDecoder, dictionaries: tuple, **notes) -> None:
    """Write a decoder for `--load-mt-decoder`. dictionaries: the symbols of source and target; notes: plain values that
    say how it was made."""
    told = {"config": dataclasses.asdict(decoder.config), "dictionaries": _digests(dictionaries), "notes": notes}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in decoder.state_dict().items()}
    write_tensors(path, tensors, {"echostream": json.dumps(told)})


def load_decoder(decoder, path, dictionaries: tuple) -> str:
    """Copy a decoder of `save_decoder` into a model's; returns a line that says so. Raises ConfigError where options or
    dictionaries differ."""
    flag = f"--load-mt-decoder {path}"
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["echostream"])
            given = {name: file.get_tensor(name) for name in file.keys()}
        told["dictionaries"], kind = list(told["dictionaries"]), told["config"]["kind"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{flag}: not a decoder; scripts/pretrain_mt.py writes one ({error!r})") from error
    if kind != decoder.config.kind:
        raise ConfigError(f"{flag}: of kind {kind}. Fix: train with --mt-decoder {kind}")
    if told["dictionaries"] != _digests(dictionaries):
        raise ConfigError(f"{flag}: made with other dictionaries. Fix: make it from this data folder")
    if problems := misfits(decoder.state_dict(), given):
        raise ConfigError(f"{flag}: {'; '.join(problems[:3])}. Fix: make it for this --arch")
    decoder.load_state_dict(given)
    return f"MT decoder from {path}: {len(given)} tensors, {told['notes'].get('updates', '?')} updates on text"


def _digests(dictionaries: tuple) -> list:
    return [value_digest(list(symbols)) for symbols in dictionaries]
