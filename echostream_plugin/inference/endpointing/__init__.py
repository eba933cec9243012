"""The end-pointers; importing this package registers each of them."""

from echostream_plugin.inference.endpointing import quiet, text  # noqa: F401
from echostream_plugin.inference.endpointing.base import ENDPOINTERS, EndPointer, sentence_ends

__all__ = ["ENDPOINTERS", "EndPointer", "sentence_ends"]
