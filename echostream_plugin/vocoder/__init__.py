"""The unit vocoder: discrete units of 20 ms in, a 16 kHz waveform out (whole or streamed)."""

from echostream_plugin.vocoder.codehifigan import (
    CodeHiFiGAN,
    VocoderConfig,
    load_public_checkpoint,
    load_vocoder,
    save_vocoder,
)
from echostream_plugin.vocoder.streaming import StreamingVocoder, VocoderState

__all__ = [
    "CodeHiFiGAN",
    "StreamingVocoder",
    "VocoderConfig",
    "VocoderState",
    "load_public_checkpoint",
    "load_vocoder",
    "save_vocoder",
]
