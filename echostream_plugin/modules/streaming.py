"""Streaming state is a value: a frozen dataclass of tensors that a step takes and hands back.

Modules hold parameters, states hold an utterance. Nothing here knows what a state is for.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StreamState:
    """Base of all streaming states.

    Fields are tensors whose first axis is the batch (streams), nested states, tuples of either, None, or plain
    values (int, float, str, bool) that all streams of a batch must share. What makes a state copies slices of longer
    tensors that it keeps: a slice keeps the whole alive.
    """

    @property
    def batch_size(self) -> int:
        """Number of streams, read off the first tensor."""
        for tensor in _tensors(self):
            return tensor.size(0)
        raise ValueError(f"{type(self).__name__} holds no tensor, so it has no batch size")

    @property
    def nbytes(self) -> int:
        """Bytes of the memory that all tensors keep alive; what several share counts once."""
        storages = [tensor.untyped_storage() for tensor in _tensors(self)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def clone(self):
        """A copy that shares no storage."""
        return _map(self, lambda tensor: tensor.clone())

    def to(self, *args, **kwargs):
        """Tensors moved as by `Tensor.to`."""
        return _map(self, lambda tensor: tensor.to(*args, **kwargs))

    def rows(self, places: Tensor):
        """The streams at these places, int64 [n], each with memory of its own; one may come several times."""
        return _map(self, lambda tensor: tensor[places])

    @classmethod
    def stack(cls, states: list):
        """Join the streams of several states along the batch axis.

        Raises ValueError where the states do not fit (other shapes beyond the batch axis, other plain values)."""
        if not states:
            raise ValueError("cannot stack an empty list of states")
        return _stack(states, cls.__name__)

    def unstack(self) -> list:
        """One state of batch size 1 per stream, each with memory of its own."""
        return [_map(self, lambda tensor, i=i: tensor[i : i + 1].clone()) for i in range(self.batch_size)]


def shapes(value) -> tuple:
    """What must agree for states to be stacked: types, shapes beyond the batch axis and plain values, hashable."""
    if isinstance(value, Tensor):
        return (*value.shape[1:], value.dtype)
    if isinstance(value, StreamState):
        return (type(value), *(shapes(getattr(value, f.name)) for f in dataclasses.fields(value)))
    if isinstance(value, tuple):
        return tuple(shapes(item) for item in value)
    return (value,)


def _tensors(value):
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, StreamState):
        for f in dataclasses.fields(value):
            yield from _tensors(getattr(value, f.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)


def _map(value, function):
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, StreamState):
        return dataclasses.replace(
            value, **{f.name: _map(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        )
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)
    return value


def _stack(values: list, where: str):
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise ValueError(f"{where}: states of different kinds cannot be stacked")
    if isinstance(first, Tensor):
        if any(value.shape[1:] != first.shape[1:] for value in values):
            shapes = sorted({tuple(value.shape) for value in values})
            raise ValueError(f"{where}: states of different shapes cannot be stacked: {shapes}")
        return torch.cat(values, dim=0)
    if isinstance(first, StreamState):
        joined = {
            f.name: _stack([getattr(value, f.name) for value in values], f"{where}.{f.name}")
            for f in dataclasses.fields(first)
        }
        return dataclasses.replace(first, **joined)
    if isinstance(first, tuple):
        if any(len(value) != len(first) for value in values):
            raise ValueError(f"{where}: tuples of different lengths cannot be stacked")
        return tuple(_stack(list(items), f"{where}[{i}]") for i, items in enumerate(zip(*values, strict=True)))
    if any(value != first for value in values):
        raise ValueError(f"{where}: streams of one batch must share this value, got {values}")
    return first
