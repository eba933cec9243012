"""CTC heads, the MT decoders, text-to-unit; importing this package registers each of the MT decoders."""

from echostream_plugin.decoders import conditioned, text  # noqa: F401
from echostream_plugin.decoders.base import DECODERS, StreamingDecoder

__all__ = ["DECODERS", "StreamingDecoder"]
