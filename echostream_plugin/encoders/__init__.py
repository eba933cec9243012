"""The encoders; importing this package registers each of them."""

from echostream_plugin.encoders import chunk_conformer, emformer, whisper, zipformer  # noqa: F401
from echostream_plugin.encoders.base import ENCODERS, StreamingEncoder, encoder_of

__all__ = ["ENCODERS", "StreamingEncoder", "encoder_of"]
