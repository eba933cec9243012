"""The vocoder on a stream of reduced units: what it emits, joined, is the vocoder run once on the whole sequence.

Two lookaheads decide when a sample is final: a unit's duration is known when the units that the duration predictor sees
to its right have come, and a frame's samples when the frames of the generator's receptive field have. Each push
computes one window: that many frames of context on both sides of the frames that became final.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder.codehifigan import CodeHiFiGAN, VocoderConfig


@dataclass(frozen=True)
class VocoderState(StreamState):
    """units: [1, u] reduced units, of which the first `timed` have a final duration and are kept as context.
    frames: [1, f] units at full rate, of which the first `spoken` have been emitted and are kept as context."""

    units: Tensor
    timed: int
    frames: Tensor
    spoken: int


def receptive_field_frames(config: VocoderConfig) -> tuple[int, int]:
    """How many unit frames to the left and to the right of a frame its samples depend on."""
    # needed input positions left of, and right of, the samples 0..hop-1 of one frame, from the output back
    first, last = 0, config.hop_samples - 1
    first, last = first - 3, last + 3  # conv_post, kernel 7
    reach = max(
        sum((kernel - 1) * dilation // 2 + (kernel - 1) // 2 for dilation in dilations)
        for kernel, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    )
    for rate, kernel in reversed(list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))):
        first, last = first - reach, last + reach
        # input i of a transposed convolution reaches outputs i * rate - padding ... i * rate - padding + kernel - 1
        padding = (kernel - rate) // 2
        first, last = math.ceil((first + padding - kernel + 1) / rate), math.floor((last + padding) / rate)
    return -(first - 3), last + 3  # conv_pre, kernel 7


class StreamingVocoder:
    """Pushes units through a `CodeHiFiGAN` as they come; the state is a value, the model is shared."""

    def __init__(self, model: CodeHiFiGAN, speaker: int = 0):
        self.model = model.eval()
        self.speaker = speaker
        self.left_frames, self.right_frames = receptive_field_frames(model.config)
        # two convolutions of kernel 3; without a predictor every pushed unit is one frame
        self.duration_context_units = 2 if model.dur_predictor is not None else 0

    @property
    def lookahead_units(self) -> int:
        """At most so many of the newest units are withheld (the most when each lasts a single frame)."""
        return self.duration_context_units + self.right_frames

    @property
    def lookahead_ms(self) -> float:
        """Speech withheld for the generator's right context, beside the units of unknown duration."""
        return self.right_frames * self.model.config.frame_ms

    def initial_state(self) -> VocoderState:
        empty = torch.zeros(1, 0, dtype=torch.long, device=self.model.dict.weight.device)
        return VocoderState(units=empty, timed=0, frames=empty, spoken=0)

    def push(self, units: list[int], state: VocoderState) -> tuple[Tensor, VocoderState]:
        """units: the next reduced units (any number); returns the samples [n] that are now final, and the state."""
        return self._advance(units, state, last=False)

    def finish(self, state: VocoderState) -> Tensor:
        """The samples [n] that `push` withheld; the state is a value and unchanged."""
        return self._advance([], state, last=True)[0]

    @torch.inference_mode()
    def _advance(self, units: list[int], state: VocoderState, last: bool) -> tuple[Tensor, VocoderState]:
        new = torch.tensor(list(units), dtype=torch.long, device=state.units.device).unsqueeze(0)
        self.model.check_units(new)  # before anything is kept: a bad unit leaves the state as it was
        known = torch.cat([state.units, new], dim=1)
        timed = max(state.timed, known.size(1) - (0 if last else self.duration_context_units))
        frames = torch.cat([state.frames, self._timed_frames(known, state.timed, timed)], dim=1)
        spoken = max(state.spoken, frames.size(1) - (0 if last else self.right_frames))
        samples = self._speak(frames, state.spoken, spoken)
        drop_units = max(0, timed - self.duration_context_units)
        drop_frames = max(0, spoken - self.left_frames)
        return samples, VocoderState(
            units=known[:, drop_units:].clone(),
            timed=timed - drop_units,
            frames=frames[:, drop_frames:].clone(),
            spoken=spoken - drop_frames,
        )

    def _timed_frames(self, units: Tensor, start: int, stop: int) -> Tensor:
        """Units start..stop at full rate [1, f]; their neighbours in `units` [1, u] are the predictor's context."""
        if self.model.dur_predictor is None or stop == start:
            return units[:, start:stop]
        durations = self.model.durations(units)[0, start:stop]
        return torch.repeat_interleave(units[:, start:stop], durations, dim=1)

    def _speak(self, frames: Tensor, start: int, stop: int) -> Tensor:
        """Samples of frames start..stop, computed with their context in `frames` [1, f]."""
        if stop == start:
            return torch.zeros(0, device=frames.device)
        left = max(0, start - self.left_frames)
        window = frames[:, left : stop + self.right_frames]
        hop = self.model.config.hop_samples
        wav = self.model.generate(window, self.speaker)[0]
        return wav[(start - left) * hop : (stop - left) * hop].float().clone()
