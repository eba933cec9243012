"""What a module is made of, to see later whether a part was replaced."""

import operator
from itertools import chain

from torch import Tensor, nn


class Parts:
    """The parameters, buffers, modules and packed weights below a module as they are now.

    For what knows them by address, or has them fixed in a recording. Values that are changed in place are no change."""

    def __init__(self, owner: nn.Module):
        modules = list(owner.modules())
        self._spaces = [space for m in modules for space in (m._parameters, m._buffers, m._modules) if space]
        self._packed = [vars(m) for m in modules if "_packed" in vars(m)]
        self._things = self._now()
        self._tensors = [thing for thing in self._things if isinstance(thing, Tensor)]
        self._addresses = list(map(Tensor.data_ptr, self._tensors))

    def _now(self) -> list:
        packed = map(operator.itemgetter("_packed"), self._packed)
        return list(chain(chain.from_iterable(map(dict.values, self._spaces)), packed))

    @property
    def unchanged(self) -> bool:
        """Are all of them the same objects?"""
        now = self._now()
        return len(now) == len(self._things) and all(map(operator.is_, now, self._things))

    @property
    def unmoved(self) -> bool:
        """Are parameters and buffers where they were in memory?"""
        return list(map(Tensor.data_ptr, self._tensors)) == self._addresses
