"""The vocoder on a stream of reduced units: what it emits, joined, is the vocoder run once on the whole sequence.

Two lookaheads decide when a sample is final: a unit's duration is known when the units that the duration predictor sees
to its right have come, and a sample when the frames that the generator's layers see to its right have. Every layer
keeps the inputs it needs again, so each sample is computed once.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder.codehifigan import CodeHiFiGAN
from echostream_plugin.vocoder.generator import GeneratorState, generator_of
from echostream_plugin.vocoder.vocos import CodeVocos, VocosState, VocosStream


@dataclass(frozen=True)
class VocoderState(StreamState):
    """units: [1, u] newest reduced units, of which the first `timed` have a final duration and are kept as context.
    generator: what the layers that make samples keep of the frames they got."""

    units: Tensor
    timed: int
    generator: GeneratorState | VocosState


def stream_of(model: CodeHiFiGAN | CodeVocos, dtype: torch.dtype = torch.float32):
    """What turns frames into samples: `step(frames, state)`, `finish(state)`, `initial_state(batch_size)`."""
    return VocosStream(model, dtype) if isinstance(model, CodeVocos) else generator_of(model, dtype)


class StreamingVocoder:
    """Pushes units through a vocoder of either kind as they come; the state is a value, the model is shared."""

    def __init__(self, model: CodeHiFiGAN | CodeVocos, speaker: int = 0, dtype: torch.dtype | None = None):
        """dtype: of the generator's layers, default the model's `stream_dtype`. torch.bfloat16 is measured to take two
        thirds of the time where the processor has it, and to leave an error 47 dB under the speech."""
        if model.spkr is not None and not 0 <= speaker < model.config.num_speakers:
            raise ValueError(
                f"speaker {speaker} is out of range: this vocoder has {model.config.num_speakers} speakers"
            )
        self.model, self.speaker = model.eval(), speaker
        dtype = dtype or model.stream_dtype
        self.generator = stream_of(model, dtype)
        self.right_frames = -(-self.generator.delay_samples // model.config.hop_samples)
        self.past_units, self.future_units = model.context_units

    def initial_state(self) -> VocoderState:
        """The state before the first unit."""
        empty = torch.zeros(1, 0, dtype=torch.long, device=self.model.dict.weight.device)
        return VocoderState(units=empty, timed=0, generator=self.generator.initial_state())

    def push(self, units: list[int], state: VocoderState) -> tuple[Tensor, VocoderState]:
        """units: the next reduced units (any number); returns the samples [n] that are now final, and the state."""
        frames, state = self.frames(units, state)
        samples, generator = self.generator.step(frames, state.generator, self.speaker)
        return samples[0].clone(), replace(state, generator=generator)

    def frames(self, units: list[int], state: VocoderState) -> tuple[Tensor, VocoderState]:
        """The first half of `push`: the frames [1, f, ...] of the units whose duration is now final, for the
        generator's step, and the state but for its `generator`."""
        frames, timed_units, timed = self._frames(units, state, last=False)
        return frames, VocoderState(timed_units, timed, state.generator)

    def finish(self, state: VocoderState) -> Tensor:
        """The samples [n] that `push` withheld; the state is a value and unchanged."""
        frames, _, _ = self._frames([], state, last=True)
        samples, generator = self.generator.step(frames, state.generator, self.speaker)
        return torch.cat([samples, self.generator.finish(generator, self.speaker)], dim=1)[0]

    @torch.inference_mode()
    def _frames(self, units: list[int], state: VocoderState, last: bool) -> tuple[Tensor, Tensor, int]:
        """The frames [1, f, ...] of the units whose duration is now final; the units to keep, how many of them are."""
        new = torch.tensor(list(units), dtype=torch.long, device=state.units.device).unsqueeze(0)
        self.model.check_units(new)  # before anything is kept: a bad unit leaves the state as it was
        known = torch.cat([state.units, new], dim=1)
        timed = max(state.timed, known.size(1) - (0 if last else self.future_units))
        frames = self.model.timed_frames(known, state.timed, timed)
        drop = max(0, timed - self.past_units)
        return frames, known[:, drop:].clone(), timed - drop
