"""A streaming object as json and tensors, and back: what a run needs to go on after it was killed.

A class says in `SAVED` which of its attributes make up a stream; the rest are parameters and options, which whoever
restores it has again. Nothing here runs code from a file: states are rebuilt from the `StreamState` classes that are
loaded, by name.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from echostream_plugin.files import whole_file
from echostream_plugin.inference.errors import OutputError, ResumeError
from echostream_plugin.modules.streaming import StreamState

VERSION = 6  # of what a session's snapshot holds; to be raised whenever a `SAVED` changes


def check_version(saved: dict):
    """Raise ResumeError for a session's snapshot that holds other things than this version's."""
    version = saved.get("version", 1)
    if version != VERSION:
        raise ResumeError(
            f"a snapshot of version {version}, where this version of EchoStream reads {VERSION}: begin anew"
        )


def take(thing) -> dict:
    """The attributes named in `thing.SAVED` by name; objects that have a `SAVED` themselves become such dicts."""
    return {name: _taken(getattr(thing, name)) for name in thing.SAVED}


def give(thing, saved: dict):
    """Put back what `take` took, into an object made with the same parameters and options."""
    for name in thing.SAVED:
        present = getattr(thing, name)
        if hasattr(present, "SAVED"):
            give(present, saved[name])
        else:
            setattr(thing, name, _taken(saved[name]))


def _taken(value):
    if hasattr(value, "SAVED"):
        return take(value)
    return list(value) if isinstance(value, list) else value


def save(path: Path, value: dict):
    """Write nested dicts of what json knows, tensors, arrays, states, lists and tuples; a kill leaves the old file or
    the new one. Raises OutputError."""
    tensors = {}
    tree = json.dumps(_pack(value, tensors))
    try:
        with whole_file(path, alone=True, synced=True) as unfinished:
            save_file(tensors, unfinished, metadata={"tree": tree})
    except (SafetensorError, OSError) as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error


def load(path: Path, device="cpu") -> dict:
    """What `save` wrote; tensors that were not on the CPU go to `device`. Raises ValueError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return _unpack(json.loads(file.metadata()["tree"]), tensors, device)
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a snapshot ({error!r})") from error


def _pack(value, tensors: dict):
    """The value as json; everything that json does not know is a dict with a `kind`."""
    if isinstance(value, Tensor):
        return _pack_tensor(value, tensors)
    if isinstance(value, np.ndarray):
        return {"kind": "array", "of": _pack_tensor(torch.from_numpy(value), tensors)}
    if isinstance(value, StreamState):
        fields = {f.name: _pack(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        return {"kind": "state", "name": _name(type(value)), "fields": fields}
    if isinstance(value, tuple):
        return {"kind": "tuple", "items": [_pack(item, tensors) for item in value]}
    if isinstance(value, dict):
        return {"kind": "dict", "items": {name: _pack(item, tensors) for name, item in value.items()}}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    return value


def _pack_tensor(tensor: Tensor, tensors: dict) -> dict:
    """A tensor is kept in the order of its strides: kernels may round otherwise where the layout is another."""
    order = sorted(range(tensor.dim()), key=lambda axis: -tensor.stride(axis))
    name = str(len(tensors))
    tensors[name] = tensor.detach().permute(order).cpu().contiguous().clone()
    return {"kind": "tensor", "name": name, "order": order, "on_cpu": tensor.device.type == "cpu"}


def _unpack(node, tensors: dict, device):
    if isinstance(node, list):
        return [_unpack(item, tensors, device) for item in node]
    if not isinstance(node, dict):
        return node
    kind = node["kind"]
    if kind == "tensor":
        inverse = sorted(range(len(node["order"])), key=node["order"].__getitem__)
        tensor = tensors[node["name"]].permute(inverse)
        return tensor if node["on_cpu"] else tensor.to(device)
    if kind == "array":
        return _unpack(node["of"], tensors, device).numpy()
    if kind == "state":
        fields = {name: _unpack(item, tensors, device) for name, item in node["fields"].items()}
        return _state_classes()[node["name"]](**fields)
    if kind == "tuple":
        return tuple(_unpack(item, tensors, device) for item in node["items"])
    return {name: _unpack(item, tensors, device) for name, item in node["items"].items()}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _state_classes() -> dict:
    """Every StreamState class that is loaded, by name."""
    classes, todo = {}, [StreamState]
    while todo:
        found = todo.pop().__subclasses__()
        classes.update({_name(one): one for one in found})
        todo += found
    return classes
