"""The unit vocoder: discrete units of 20 ms in, a 16 kHz waveform out (whole or streamed)."""

from echostream_plugin.vocoder.codehifigan import CodeHiFiGAN, VocoderConfig, load_public_checkpoint
from echostream_plugin.vocoder.files import load_vocoder, save_vocoder
from echostream_plugin.vocoder.streaming import StreamingVocoder, VocoderState
from echostream_plugin.vocoder.vocos import CodeVocos, VocosConfig

__all__ = [
    "CodeHiFiGAN",
    "CodeVocos",
    "StreamingVocoder",
    "VocoderConfig",
    "VocoderState",
    "VocosConfig",
    "load_public_checkpoint",
    "load_vocoder",
    "save_vocoder",
]
