"""`code_vocos`: units to complex spectrum frames and an inverse STFT, with a source of pulses and noise.

Vocos (arXiv 2306.00814) predicts magnitude and phase of short-time spectra by ConvNeXt blocks at the frame rate, so no
layer runs at the rate of samples. Units say little of pitch, and a network of bounded reach cannot keep the phase of a
voice that goes on; so, as in neural source-filter models (arXiv 1904.12088, and with an inverse STFT arXiv 2309.09493),
what it predicts are filters of a train of pulses at the predicted pitch and of noise. Everything but the first layer
is causal; that layer sees `right_frames` units ahead.
"""

import dataclasses
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder.codehifigan import check_units
from echostream_plugin.vocoder.pitch import HIGHEST_HZ, LOWEST_HZ, class_hz, pitch_class
from echostream_plugin.vocoder.prosody import Prosody
from echostream_plugin.vocoder.synthesis import NOISE_FRAMES, Synthesis
from echostream_plugin.vocoder.vocos_config import VocosConfig

OUTSIDE = -1.0  # the unit of frames before the first and after the last
GLIDE_FRAMES = 3  # in which pitch goes from one unit's to the next one's
BLOCK_FRAMES = 64  # most frames computed at once


@dataclass(frozen=True)
class VocosState(StreamState):
    """frames: [B, left..left + right, 2] newest frames (unit, pitch in Hz), those that still wait among them.
    phase: [B] float64, cycles of the pulses before the frame before the next one.
    noise: [B] place in the table of noise. blocks: of each block the newest inputs [B, kernel - 1, dim].
    tail: [B, fft_size - step] sums of windows that are not complete.
    cut: of the next samples, how many lie before the first one.
    """

    frames: Tensor
    phase: Tensor
    noise: Tensor
    blocks: tuple
    tail: Tensor
    cut: int


class Block(nn.Module):
    """ConvNeXt: a causal depthwise convolution, then two linear maps at each frame, with a residual."""

    def __init__(self, dim: int, hidden: int, kernel: int, layers: int):
        super().__init__()
        self.kernel = kernel
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1.0 / layers))

    def forward(self, x: Tensor, caches: list, counts: list) -> tuple[Tensor, list]:
        """x: [B, T, dim], the next `counts` frames of each stream, one stream after the other; caches: of each the
        kernel - 1 inputs before them, [B, kernel - 1, dim]. Returns outputs and the next caches."""
        before = self.kernel - 1
        joined = _interleaved(caches, x.split(counts, 1))
        taps, frames = self.depthwise.weight.squeeze(1), joined.size(1) - before  # [dim, kernel]
        # a sum of shifted products: torch's depthwise convolution takes several times as long on a CPU
        y = self.depthwise.bias + joined[:, :frames] * taps[:, 0]
        for tap in range(1, self.kernel):
            y = torch.addcmul(y, joined[:, tap : tap + frames], taps[:, tap])
        y = self.narrow(F.gelu(self.wide(self.norm(_rows(y, counts, before)))))
        ends = _starts([count + before for count in counts])[1:]
        return torch.addcmul(x, y, self.scale), [joined[:, end - before : end].clone() for end in ends]


def _starts(lengths: list) -> list:
    """Where parts of these lengths begin, one after the other, and where the last one ends."""
    return [0, *accumulate(lengths)]


def _interleaved(firsts: list, seconds: list) -> Tensor:
    """The first and the second part of each stream, [B, t, C], one stream after the other."""
    return torch.cat([part for pair in zip(firsts, seconds, strict=True) for part in pair], dim=1)


def _rows(y: Tensor, counts: list, between: int) -> Tensor:
    """Of [B, t, C] the first `counts[0]` frames, then without so many between them the next, and so on."""
    if len(counts) == 1:
        return y
    starts = _starts([count + between for count in counts])
    return torch.cat([y[:, start : start + count] for start, count in zip(starts, counts, strict=False)], dim=1)


class CodeVocos(nn.Module):
    """Units to waveform. `step` is the one implementation: training and `generate` run it over everything at once."""

    stream_dtype = torch.float32  # what `StreamingVocoder` computes in
    spkr = None

    def __init__(self, config: VocosConfig):
        super().__init__()
        self.config, c = config, config
        self.dict = nn.Embedding(c.num_embeddings, c.embedding_dim)
        self.pitch = nn.Linear(2, c.embedding_dim)
        self.before = nn.Conv1d(c.embedding_dim, c.dim, c.left_frames + 1 + c.right_frames)
        layers = c.coarse_blocks + c.fine_blocks
        self.blocks = nn.ModuleList([Block(c.dim, c.hidden_dim, c.kernel_size, max(1, layers)) for _ in range(layers)])
        self.refine = nn.Linear(c.dim, c.steps_per_unit * c.dim)
        self.norm = nn.LayerNorm(c.dim)
        self.bins = c.fft_size // 2 + 1
        self.head = nn.Linear(c.dim, 3 * self.bins)
        self.prosody = Prosody(c.num_embeddings, c.prosody_dim, c.pitch_classes)
        self.synthesis = Synthesis(c)
        self._initialise()

    @torch.no_grad()
    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Linear) else 0.05)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.dict.weight, std=0.5)
        self.head.bias[: self.bins] = -4.0  # speech is far quieter than sources of power 1
        self.head.bias[2 * self.bins :] = -5.0

    # what every kind of vocoder has

    @property
    def dur_predictor(self) -> Prosody:
        """What says how long units last, by the name that `CodeHiFiGAN` has for it."""
        return self.prosody

    @property
    def context_units(self) -> tuple[int, int]:
        """Reduced units before and after one that its frames depend on."""
        return Prosody.LEFT + 1, Prosody.RIGHT  # pitch glides from the unit before

    @property
    def delay_samples(self) -> int:
        """`step` has put out frames * hop_samples - delay_samples, once that is positive."""
        return self.config.right_frames * self.config.hop_samples + self.config.lead_samples

    def forward(self, units: Tensor, predict_durations: bool = True, speaker: int = 0) -> tuple[Tensor, Tensor]:
        """units: [B, U], reduced (predict_durations; B must be 1) or one for every 20 ms frame.

        Returns the waveform [B, frames * hop_samples] and the frames of each unit [B, U]."""
        if not predict_durations:
            return self.generate(units), torch.ones_like(units)
        if units.size(0) != 1:
            raise ValueError(f"durations are predicted for one sequence at a time, got a batch of {units.size(0)}")
        durations = self.durations(units)
        return self.generate(self.timed_frames(units, 0, units.size(1))), durations

    def log_durations(self, units: Tensor) -> Tensor:
        """units: [B, U] reduced; returns log(frames + 1) [B, U]."""
        self.check_units(units)
        return self.prosody(units)[0]

    def durations(self, units: Tensor) -> Tensor:
        """units: [B, U] reduced; returns whole frames of 20 ms [B, U], at least 1."""
        if units.size(1) == 0:
            return units
        self.check_units(units)
        return self.prosody.durations(units)

    def timed_frames(self, units: Tensor, start: int, stop: int) -> Tensor:
        """Frames [1, f, 2] of the reduced units start..stop of [1, U]: the unit, and its pitch in Hz (0: none)."""
        if stop == start:
            return torch.zeros(1, 0, 2, device=units.device)
        durations, pitch = self.prosody.predict(units)
        durations, pitch = durations[0], class_hz(pitch[0], self.config.pitch_classes)
        before = F.pad(pitch, (1, 0))[start:stop]
        durations, now = durations[start:stop], pitch[start:stop]
        before = torch.where((before > 0) & (now > 0), before, now)
        rows = torch.repeat_interleave(torch.arange(stop - start, device=units.device), durations)
        within = torch.arange(len(rows), device=units.device) - (durations.cumsum(0) - durations)[rows]
        part = ((within + 1) / GLIDE_FRAMES).clamp(max=1)
        hz = before[rows] + (now - before)[rows] * part
        return torch.stack([units[0, start:stop][rows].float(), hz], dim=1).unsqueeze(0)

    def generate(self, frames: Tensor, speaker: int = 0) -> Tensor:
        """frames: [B, T, 2] unit and pitch in Hz, or [B, T] units whose pitch is predicted, one for each 20 ms.

        Returns the waveform [B, T * hop_samples]."""
        if frames.dim() == 2:
            frames = self.with_pitch(frames)
        self.check_units(frames[:, :, 0])
        draws = {}
        if self.training:  # a crop's pulses and noise begin anywhere
            size = (frames.size(0),)
            draws["phase"] = torch.rand(size, dtype=torch.float64, device=frames.device)
            draws["noise"] = torch.randint(0, NOISE_FRAMES, size, device=frames.device)
        return self.step(frames, self.initial_state(frames.size(0), **draws), last=True)[0]

    def with_pitch(self, units: Tensor) -> Tensor:
        """units: [B, T], one for each 20 ms; returns [B, T, 2] with the pitch predicted for their reduced sequence."""
        rows = []
        for row in units:
            reduced, counts = torch.unique_consecutive(row, return_counts=True)
            hz = reduced.float()
            if len(reduced):
                self.check_units(reduced)
                hz = class_hz(self.prosody.predict(reduced.unsqueeze(0))[1][0], self.config.pitch_classes)
            rows.append(torch.stack([row.float(), torch.repeat_interleave(hz, counts)], dim=1))
        return torch.stack(rows)

    def check_units(self, units: Tensor):
        """Raise ValueError that names the first unit outside 0..K-1."""
        check_units(units, self.config.num_embeddings)

    def remove_weight_norm(self) -> "CodeVocos":
        """There is none."""
        return self

    def unit_losses(self, units: Tensor, durations: Tensor, pitch: Tensor, mask: Tensor) -> dict:
        """units, durations in frames, pitch in Hz: [B, U]; mask: [B, U] True where padded."""
        duration, entropy = self.prosody.loss(units, durations, pitch_class(pitch, self.config.pitch_classes), mask)
        return {"duration": duration, "pitch": entropy}

    # the stream

    def initial_state(self, batch_size: int = 1, phase: Tensor | None = None, noise: Tensor | None = None):
        """phase: [B] float64 in cycles, noise: [B] below NOISE_FRAMES; training draws them."""
        c, weight = self.config, self.dict.weight
        frames = torch.zeros(batch_size, c.left_frames, 2, device=weight.device)
        frames[:, :, 0] = OUTSIDE
        if phase is None:
            phase = torch.zeros(batch_size, dtype=torch.float64, device=weight.device)
        if noise is None:
            noise = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        cache = torch.zeros(batch_size, c.kernel_size - 1, c.dim, device=weight.device)
        tail = torch.zeros(batch_size, c.fft_size - c.step_samples, device=weight.device)
        return VocosState(frames, phase, noise, (cache,) * len(self.blocks), tail, c.lead_samples)

    def step(self, frames: Tensor, state: VocosState, last: bool = False) -> tuple[Tensor, VocosState]:
        """frames: [B, f, 2] unit and pitch in Hz; returns the samples [B, n] that are now final, and the state.

        last: nothing comes after these frames, and everything is let out."""
        return self.step_together([(frames, state)], last)[0]

    def step_together(self, pairs: list, last: bool = False) -> list:
        """`step` of several streams at once. pairs: (frames [B, f, 2], state) of each, of any lengths."""
        joined = [self._joined(frames, state, last) for frames, state in pairs]
        counts = [each.size(1) - self.config.left_frames - self.config.right_frames for each in joined]
        found = [
            (frames.new_zeros(frames.size(0), 0), dataclasses.replace(state, frames=frames))
            for frames, (_, state) in zip(joined, pairs, strict=True)
        ]
        ready = [index for index, count in enumerate(counts) if count > 0]
        if ready:
            filters = self._filters([joined[i] for i in ready], [pairs[i][1].blocks for i in ready])
            for index, (own, caches) in zip(ready, filters, strict=True):
                found[index] = self._sound(joined[index], own, caches, pairs[index][1], last)
        return found

    def _joined(self, frames: Tensor, state: VocosState, last: bool) -> Tensor:
        """The frames that wait and the next ones; last: and those after the end."""
        joined = torch.cat([state.frames, frames], dim=1)
        if last:
            after = joined.new_tensor([OUTSIDE, 0.0]).expand(joined.size(0), self.config.right_frames, 2)
            joined = torch.cat([joined, after], dim=1)
        return joined

    def _sound(self, joined: Tensor, filters: Tensor, caches: tuple, state: VocosState, last: bool):
        """Samples [B, n] of one stream from its filters [B, f * steps, 3 * bins], and its state then."""
        c, first, count = self.config, self.config.left_frames, filters.size(1) // self.config.steps_per_unit
        pulse, phase = self.synthesis.pulses(joined[:, first - 2 : first + count + 2, 1], state.phase)
        noise, place = self.synthesis.noises(state.noise, filters.size(1))
        spectra = self.synthesis.filtered(filters, pulse, noise)
        samples, tail = self.synthesis.overlap_add(spectra, state.tail)
        if last:
            samples, tail = torch.cat([samples, tail[:, : c.lead_samples]], dim=1), tail[:, :0]
        cut = min(state.cut, samples.size(1))
        samples = samples[:, cut:]
        if not self.training:  # a clipped sample has no gradient
            samples = samples.clamp(-1, 1)
        joined, phase, tail = joined[:, count:].clone(), phase.clone(), tail.clone()  # no view of what is longer
        return samples, VocosState(joined, phase, place, caches, tail, state.cut - cut)

    def _filters(self, joined: list, caches: list) -> list:
        """joined: [B, left + f + right, 2] of each stream; caches: of each, of its blocks. Returns of each
        [B, f * steps, 3 * bins] and the next caches."""
        c, reach = self.config, self.config.left_frames + self.config.right_frames
        counts = [each.size(1) - reach for each in joined]
        x = self.before(self._embed(torch.cat(joined, dim=1)).transpose(1, 2)).transpose(1, 2)
        by_block = [list(of_streams) for of_streams in zip(*caches, strict=True)]
        x, first = _run(self.blocks[: c.coarse_blocks], _rows(x, counts, reach), by_block[: c.coarse_blocks], counts)
        x, counts = self.refine(x).view(x.size(0), -1, c.dim), [count * c.steps_per_unit for count in counts]
        x, second = _run(self.blocks[c.coarse_blocks :], x, by_block[c.coarse_blocks :], counts)
        after = zip(*first, *second, strict=True) if self.blocks else [()] * len(counts)
        return list(zip(self.head(self.norm(x)).split(counts, 1), after, strict=True))

    def _embed(self, frames: Tensor) -> Tensor:
        """frames: [B, T, 2]; returns [B, T, E], zero outside."""
        units, hz = frames.unbind(2)
        voiced = (hz > 0).float()
        middle = (LOWEST_HZ * HIGHEST_HZ) ** 0.5
        height = torch.log2(hz.clamp(min=LOWEST_HZ) / middle) * voiced
        x = self.dict(units.clamp(min=0).long()) + self.pitch(torch.stack([voiced, height], dim=2))
        return x * (units != OUTSIDE).unsqueeze(2)


def _run(blocks, x: Tensor, caches: list, counts: list) -> tuple[Tensor, list]:
    """Blocks over the streams' frames; caches: of each block those of all streams. Returns the next ones too."""
    after = []
    for block, of_streams in zip(blocks, caches, strict=True):
        x, of_streams = block(x, of_streams, counts)
        after.append(of_streams)
    return x, after


@dataclass(frozen=True)
class VocosStream:
    """A `CodeVocos` on a stream of frames, with the interface of `StreamingGenerator`; those of one model are equal.

    dtype: torch.bfloat16 computes the linear maps in it; spectra and pulses stay as they are."""

    model: CodeVocos
    dtype: torch.dtype = torch.float32

    @property
    def hop_samples(self) -> int:
        """Of a frame."""
        return self.model.config.hop_samples

    @property
    def delay_samples(self) -> int:
        """As of the model."""
        return self.model.delay_samples

    @torch.inference_mode()
    def initial_state(self, batch_size: int = 1) -> VocosState:
        """The state before the first frame."""
        return self.model.initial_state(batch_size)

    def step(self, frames: Tensor, state: VocosState, speaker: int = 0) -> tuple[Tensor, VocosState]:
        """frames: [B, f, 2] unit and pitch in Hz; returns the samples [B, n] that are now final, and the state."""
        pieces = []
        for block in frames.split(BLOCK_FRAMES, dim=1):
            samples, state = self._run(block, state, last=False)
            pieces.append(samples)
        return torch.cat(pieces, dim=1), state

    @torch.inference_mode()
    def step_together(self, pairs: list) -> list:
        """`step` of several streams at once. pairs: (frames [1, f, 2], state) of each, of any lengths."""
        with self._precision(pairs[0][0]):
            return self.model.step_together(pairs)

    def finish(self, state: VocosState, speaker: int = 0) -> Tensor:
        """The samples [B, n] that `step` withheld."""
        return self._run(state.frames[:, :0], state, last=True)[0]

    @torch.inference_mode()
    def _run(self, frames: Tensor, state: VocosState, last: bool) -> tuple[Tensor, VocosState]:
        with self._precision(frames):
            return self.model.step(frames, state, last)

    def _precision(self, frames: Tensor):
        return torch.autocast(frames.device.type, self.dtype, enabled=self.dtype != torch.float32)
