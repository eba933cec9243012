"""Packed copies of a model's weights, which belong to the model and go with it."""

import threading

from torch import nn


class PackedCopies:
    """What was made from a model's weights, for as long as they stay as they are. A copy of the model has none."""

    def __init__(self):
        self._made = {}  # key -> (version of the weights, what was made)
        self._making = threading.Lock()  # of the threads that want it first, one makes it

    def __deepcopy__(self, memo):
        return PackedCopies()

    def __reduce__(self):
        return PackedCopies, ()

    def get(self, owner: nn.Module, key, make):
        """make() where there is nothing under the key yet, or where a weight of the owner was replaced or changed."""
        version = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in owner.parameters())
        with self._making:
            if key not in self._made or self._made[key][0] != version:
                self._made[key] = (version, make())
            return self._made[key][1]
