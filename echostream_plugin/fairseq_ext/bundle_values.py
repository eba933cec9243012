"""First values of a training from a bundle: `--load-bundle-encoder`."""

import dataclasses
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.flags import flags_of_config
from echostream_plugin.inference.arguments import words
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.modules.weights import misfits

# parameters of a head -> the side of the bundle's dictionary that it spells with
_HEADS = {"source_unigram": "source", "ctc_target_unigram": "target"}


def load_bundle_encoder(model, folder, dictionaries: dict) -> list[str]:
    """Copy the encoder of a bundle into a model, and the CTC heads where the dictionaries (fairseq's, by task) are the
    bundle's; returns lines that say what was taken. Raises ConfigError where the encoders differ."""
    try:
        bundle = load_bundle(Path(folder))
    except BundleError as error:
        raise ConfigError(f"--load-bundle-encoder {error}") from error
    given, own = bundle.model.state_dict(), model.state_dict()
    problems = misfits(_part(own, "encoder."), _part(given, "encoder."), "the options give")
    if problems or bundle.config.encoder.kind != model.config.encoder.kind:
        fix = _flags(bundle.config, model.config)
        raise ConfigError(f"--load-bundle-encoder {folder}: another encoder. Fix: {fix}")
    parts, fresh = ["encoder"], []
    for task, side in _HEADS.items():
        same = tuple(dictionaries[task].symbols) == tuple(getattr(bundle, f"{side}_dictionary").symbols)
        name = f"{task}_decoder."
        fits = same and not misfits(_part(own, name), _part(given, name))
        (parts if fits else fresh).append(f"{task}_decoder")
    with torch.no_grad():
        for part in parts:
            for name, tensor in _part(own, f"{part}.").items():
                tensor.copy_(given[name])
    lines = [f"first values from {folder}: {', '.join(parts)}"]
    if fresh:
        lines.append(f"of another dictionary or size there, so trained from the beginning: {', '.join(fresh)}")
    return lines


def _part(state: dict, prefix: str) -> dict:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _flags(theirs, ours) -> str:
    """The flags with which the encoders would be equal."""
    if theirs.encoder.kind != ours.encoder.kind:
        return f"use the --arch whose encoder is of kind {theirs.encoder.kind}"
    own = {field.name for field in dataclasses.fields(theirs.encoder) if "dropout" not in field.name}
    differing = {name for name in own if getattr(theirs.encoder, name) != getattr(ours.encoder, name)}
    wanted, given = flags_of_config(theirs), flags_of_config(ours)
    changed = {flag: value for flag, value in wanted.items() if flag in given and given[flag] != value}
    changed = {flag: value for flag, value in changed.items() if "dropout" not in flag and not flag.startswith("llm")}
    said = " ".join(words(changed))
    return f"train with {said}" if said else f"the options {', '.join(sorted(differing)) or 'of the encoder'} differ"
