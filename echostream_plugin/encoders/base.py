"""What every streaming encoder offers: a parallel form and the three verbs of a state."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..modules.streaming import StreamState


class StreamingEncoder(nn.Module, ABC):
    """Features of 10 ms to encoder frames of 40 ms.

    For any cutting of an utterance into steps, the outputs of `step` followed by that of `finish` are those of
    `forward` with the same segment length. The module holds parameters, the state holds the utterance.
    """

    @property
    def segment_frames(self) -> int:
        """The segment length in encoder frames where none is given; 0 is the whole utterance."""
        return self.config.segment_frames

    def check_training_segment(self, segment_frames: int) -> None:
        """Raise ConfigError where this encoder cannot be trained with a segment of so many encoder frames."""

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor, segment_frames: int | None = None) -> tuple[Tensor, Tensor]:
        """Parallel form. features: [B, T, F]; lengths: [B] valid feature frames; segment_frames: segment length in
        encoder frames, None for the configuration's, 0 for the whole utterance. Returns [B, S, C] and [B]."""

    @abstractmethod
    def output_lengths(self, lengths):
        """Encoder frames of so many feature frames (Tensor or int)."""

    @abstractmethod
    def initial_state(self, batch_size: int = 1, segment_frames: int | None = None) -> StreamState:
        """The state before the first feature frame."""

    @abstractmethod
    def step(self, features: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """features: [B, t, F], any t; returns the encoder frames [B, s, C] of complete segments and the next state."""

    @abstractmethod
    def finish(self, state: StreamState) -> Tensor:
        """The remaining encoder frames [B, r, C] if the utterance ended here. The state stays valid: taking this before
        the end is a provisional look at an unfinished segment."""
