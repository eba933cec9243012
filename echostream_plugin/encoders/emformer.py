"""The EchoStream encoder: causal subsampling, then an Emformer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from echostream_plugin.config import EncoderConfig
from echostream_plugin.encoders.base import BASE_DECODERS, TINY_DECODERS, StreamingEncoder, register_encoder
from echostream_plugin.modules.emformer import Emformer, EmformerState
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.modules.subsampling import CausalSubsampling, SubsamplingState


@dataclass(frozen=True)
class EncoderState(StreamState):
    """One or several streams between two steps."""

    subsampling: SubsamplingState
    emformer: EmformerState


@register_encoder
class EmformerEncoder(StreamingEncoder):
    """Emformer encoder (arXiv 2010.10759) over log-mel features.

    Its frames depend on the audio up to the end of their own segment plus the right context, and on nothing later.
    The last layer ends in a norm, so none follows.
    """

    Config = EncoderConfig
    parameter = "emformer."
    architectures = {
        # StreamSpeech's recipe with an Emformer encoder: 16 layers of 256, 4-layer MT, 512-wide decoders
        "echostream": {},
        # All parts 256 wide, ST CTC with two causal layers, six unit decoder layers.
        # 25 unit frames a target subword, as in StreamSpeech, fit CVSS-C whatever its units are: its English has some
        # 17 characters a second and a subword of 6000 some 5, so that even 50 units a second, none dropped as repeats,
        # are 15 a subword, and in 98 of 100 sentences fewer than 1.3 times the mean (what the quickstart's shows).
        "echostream_base": {**BASE_DECODERS, "decoder_layers": 6, "st_ctc_layers": 2},
        # The quickstart's model: small enough to be trained on two CPU cores. Of its 10 unit frames a target subword
        # 4.8 are needed in the mean, 6.3 in 98 of 100 sentences and 6.7 at most (a corpus of 600 training utterances).
        "echostream_tiny": {
            "encoder_layers": 6,
            "encoder_embed_dim": 192,
            "encoder_ffn_embed_dim": 768,
            "subsampling_channels": 32,
            "memory_size": 4,
            "left_context_frames": 24,
            **TINY_DECODERS,
        },
    }

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.subsampling = CausalSubsampling(config.input_dim, config.subsampling_channels, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.emformer = Emformer(config)

    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int): ceil(lengths / 4)."""
        return self.subsampling.output_lengths(lengths)

    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F] of 10 ms; lengths: [B] valid feature frames; segment_frames: encoder
        frames of 40 ms per segment, None for the configuration's, 0 for the whole utterance.

        Returns [B, ceil(T / 4), C] and its valid lengths [B]; frames beyond them are meaningless but finite."""
        out_lengths = self.output_lengths(lengths)
        frames = self.subsampling(features)
        padding = torch.arange(frames.size(1), device=frames.device) >= out_lengths.unsqueeze(1)
        frames = self.dropout(frames.masked_fill(padding.unsqueeze(2), 0.0))
        return self.emformer(frames, out_lengths, segment_frames), out_lengths

    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> EncoderState:
        """The state before the first feature frame; segment_frames as in `forward`."""
        return EncoderState(
            self.subsampling.initial_state(batch_size), self.emformer.initial_state(batch_size, segment_frames)
        )

    def step(self, features: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """features: [B, t, F] of 10 ms, any t, the same for all streams; returns the encoder frames [B, s, C] of the
        segments that are now complete (s may be 0) and the next state. Streams may differ in age by whole segments."""
        frames, subsampling = self.subsampling.step(features, state.subsampling)
        out, emformer = self.emformer.step(self.dropout(frames), state.emformer)
        return out, EncoderState(subsampling, emformer)

    def compile_steps(self) -> bool:
        """From now on steps are taken by the compiled operator (`modules.native`); for inference on a CPU.

        Returns whether they are: False where it was not built."""
        return all([self.subsampling.compile_steps(), self.emformer.compile_steps()])

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """In training, keep only the inputs of each layer for the backward pass: less memory, more time."""
        self.emformer.checkpoint_activations(enabled)

    def record_steps(self) -> None:
        """From now on the layers' steps can be recorded, within `modules.recording.record_calls`; for inference."""
        self.emformer.record_steps()

    def finish(self, state: EncoderState) -> Tensor:
        """The encoder frames [B, r, C] still missing if the utterance ended here (r may be 0); state stays valid."""
        return self.emformer.finish(state.emformer)
