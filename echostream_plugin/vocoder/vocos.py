"""`code_vocos`: units to complex spectrum frames and an inverse STFT, with a source of pulses and noise.

Vocos (arXiv 2306.00814) predicts magnitude and phase of short-time spectra by ConvNeXt blocks at the frame rate, so no
layer runs at the rate of samples. Units say little of pitch, and a network of bounded reach cannot keep the phase of a
voice that goes on; so, as in neural source-filter models (arXiv 1904.12088, and with an inverse STFT arXiv 2309.09493),
what it predicts are filters of a train of pulses at the predicted pitch and of noise. Everything but the first layer
is causal; that layer sees `right_frames` units ahead.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.config import ConfigError, option
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder.pitch import HIGHEST_HZ, LOWEST_HZ, pulses
from echostream_plugin.vocoder.prosody import Prosody

NOISE_FRAMES = 512  # spectra of noise before it repeats: 5 s
OUTSIDE = -1.0  # the unit of frames before the first and after the last
GLIDE_FRAMES = 3  # in which pitch goes from one unit's to the next one's
LOUDEST = 4.0  # bound of a filter's log magnitude
BLOCK_FRAMES = 64  # most frames computed at once


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a `CodeVocos`."""

    num_embeddings: int = option(1000, "K: units are 0..K-1")
    embedding_dim: int = option(128, "unit embedding")
    dim: int = option(256, "width of the ConvNeXt blocks")
    hidden_dim: int = option(768, "inner width of a block")
    coarse_blocks: int = option(4, "blocks at one frame a unit")
    fine_blocks: int = option(4, "blocks at `steps_per_unit` frames a unit")
    kernel_size: int = option(7, "taps of a block's causal convolution")
    left_frames: int = option(6, "unit frames before its own that the first layer sees")
    right_frames: int = option(4, "unit frames after its own that the first layer sees: how far speech runs behind")
    steps_per_unit: int = option(2, "spectra a unit")
    hop_samples: int = option(320, "samples of a unit")
    fft_size: int = option(640, "window of a spectrum in samples")
    prosody_dim: int = option(128, "width of the predictor of durations and pitch")
    pitch_classes: int = option(48, "pitches that the predictor tells apart, beside unvoiced")
    sampling_rate: int = option(16000, "samples a second")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            least = 0 if f.name in ("coarse_blocks", "fine_blocks", "left_frames", "right_frames") else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{f.name} must be a whole number of at least {least}, got {value!r}")
        if self.hop_samples % self.steps_per_unit:
            raise ConfigError(
                f"hop_samples {self.hop_samples} must be a multiple of steps_per_unit {self.steps_per_unit}"
            )
        if self.fft_size % (2 * self.step_samples) or self.overlap < 4:
            step = self.step_samples
            raise ConfigError(f"fft_size {self.fft_size} must be an even multiple, at least 4, of a step ({step})")
        if self.lead_samples > self.hop_samples:
            raise ConfigError(f"fft_size {self.fft_size}: windows may reach one unit back, not {self.lead_samples}")
        if self.left_frames < 2 or self.right_frames < 2:
            raise ConfigError("left_frames and right_frames must be at least 2: windows reach so far")

    @property
    def step_samples(self) -> int:
        """Samples between two spectra."""
        return self.hop_samples // self.steps_per_unit

    @property
    def overlap(self) -> int:
        """Spectra that a sample is part of."""
        return self.fft_size // self.step_samples

    @property
    def lead_samples(self) -> int:
        """How far the window of a spectrum begins before the spectrum's own samples."""
        return (self.fft_size - self.step_samples) // 2

    @property
    def frame_ms(self) -> float:
        """Duration of one unit frame in milliseconds."""
        return 1000 * self.hop_samples / self.sampling_rate

    @classmethod
    def from_dict(cls, values: dict, where: str = "vocoder config") -> "VocosConfig":
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(values, dict) or "num_embeddings" not in values:
            raise ConfigError(f"{where}: not a code_vocos config, it lacks num_embeddings")
        unknown = sorted(set(values) - known - {"kind"})
        if unknown:
            raise ConfigError(f"{where}: unknown option {', '.join(unknown)}")
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


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

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, T, dim]; cache: [B, kernel - 1, dim] inputs before it; returns outputs and the next cache."""
        joined = torch.cat([cache, x], dim=1)
        taps, frames = self.depthwise.weight.squeeze(1), x.size(1)  # [dim, kernel]
        # a sum of shifted products: torch's depthwise convolution takes several times as long on a CPU
        y = self.depthwise.bias + joined[:, :frames] * taps[:, 0]
        for tap in range(1, self.kernel):
            y = torch.addcmul(y, joined[:, tap : tap + frames], taps[:, tap])
        y = self.narrow(F.gelu(self.wide(self.norm(y))))
        return torch.addcmul(x, y, self.scale), joined[:, frames:].clone()


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
        self.register_buffer("window", torch.hann_window(c.fft_size), persistent=False)
        self.register_buffer("noise", noise_spectra(c), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self):
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.trunc_normal_(module.weight, std=0.02 if isinstance(module, nn.Linear) else 0.05)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.dict.weight, std=0.5)
        self.head.bias[: self.bins] = -4.0  # speech is far quieter than sources of power 1
        self.head.bias[2 * self.bins :] = -5.0

    # what every kind of vocoder has

    @property
    def dur_predictor(self) -> Prosody:
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
        durations, pitch = durations[0], class_hz(pitch[0], self.config)
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
                hz = class_hz(self.prosody.predict(reduced.unsqueeze(0))[1][0], self.config)
            rows.append(torch.stack([row.float(), torch.repeat_interleave(hz, counts)], dim=1))
        return torch.stack(rows)

    def check_units(self, units: Tensor):
        """Raise ValueError that names the first unit outside 0..K-1."""
        bad = units[(units < 0) | (units >= self.config.num_embeddings)]
        if bad.numel():
            raise ValueError(
                f"unit {int(bad[0])} is out of range: this vocoder has K = {self.config.num_embeddings} units "
                f"(0..{self.config.num_embeddings - 1}); it was made for another set of units"
            )

    def remove_weight_norm(self) -> "CodeVocos":
        """There is none."""
        return self

    def unit_losses(self, units: Tensor, durations: Tensor, pitch: Tensor, mask: Tensor) -> dict:
        """units, durations in frames, pitch in Hz: [B, U]; mask: [B, U] True where padded."""
        duration, entropy = self.prosody.loss(units, durations, pitch_class(pitch, self.config), mask)
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
        c = self.config
        joined = torch.cat([state.frames, frames], dim=1)
        if last:
            after = joined.new_tensor([OUTSIDE, 0.0]).expand(joined.size(0), c.right_frames, 2)
            joined = torch.cat([joined, after], dim=1)
        count = joined.size(1) - c.left_frames - c.right_frames
        if count <= 0:
            return joined.new_zeros(joined.size(0), 0), dataclasses.replace(state, frames=joined)
        x = self.before(self._embed(joined).transpose(1, 2)).transpose(1, 2)
        caches = []
        for i, (block, cache) in enumerate(zip(self.blocks, state.blocks, strict=True)):
            if i == c.coarse_blocks:
                x = self._refine(x)
            x, cache = block(x, cache)
            caches.append(cache)
        if c.fine_blocks == 0:
            x = self._refine(x)
        source, phase = self._source(joined, count, state.phase)
        places = (state.noise.unsqueeze(1) + torch.arange(x.size(1), device=x.device)) % NOISE_FRAMES
        spectrum = self._filter(self.head(self.norm(x)), source, self.noise[places])
        samples, tail = self._overlap_add(spectrum, state.tail)
        if last:
            samples, tail = torch.cat([samples, tail[:, : c.lead_samples]], dim=1), tail[:, :0]
        noise = (state.noise + x.size(1)) % NOISE_FRAMES
        cut = min(state.cut, samples.size(1))
        state = VocosState(joined[:, count:].clone(), phase, noise, tuple(caches), tail.clone(), state.cut - cut)
        return samples[:, cut:], state

    def _refine(self, x: Tensor) -> Tensor:
        return self.refine(x).view(x.size(0), -1, self.config.dim)

    def _embed(self, frames: Tensor) -> Tensor:
        """frames: [B, T, 2]; returns [B, T, E], zero outside."""
        units, hz = frames.unbind(2)
        voiced = (hz > 0).float()
        middle = (LOWEST_HZ * HIGHEST_HZ) ** 0.5
        height = torch.log2(hz.clamp(min=LOWEST_HZ) / middle) * voiced
        x = self.dict(units.clamp(min=0).long()) + self.pitch(torch.stack([voiced, height], dim=2))
        return x * (units != OUTSIDE).unsqueeze(2)

    def _source(self, joined: Tensor, count: int, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra of the pulses, complex [B, count * steps, bins], of frames left..left + count of `joined`; the phase
        for the next call. The pulses of the frame before, and of two after, are made too: windows reach into them."""
        c, first = self.config, self.config.left_frames
        pitch = joined[:, first - 2 : first + count + 2, 1]
        wave, phases = pulses(pitch, phase, c.hop_samples, c.sampling_rate)
        start = c.hop_samples - c.lead_samples
        windows = wave[:, start:].unfold(1, c.fft_size, c.step_samples)[:, : count * c.steps_per_unit]
        return torch.fft.rfft(windows * self.window), phases[:, count - 1].clone()

    def _filter(self, x: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        """x: [B, T, 3 * bins] log magnitude and phase of the pulses' filter, log magnitude of the noise's."""
        loud, angle, rough = x.float().chunk(3, dim=2)
        pulse_filter = torch.polar(torch.exp(loud.clamp(max=LOUDEST)), angle)
        return source * pulse_filter + noise * torch.exp(rough.clamp(max=LOUDEST))

    def _overlap_add(self, spectrum: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """spectrum: [B, T, bins]; tail: sums of earlier windows; returns samples [B, T * step] and the next tail."""
        c = self.config
        pieces = torch.fft.irfft(spectrum, c.fft_size) * (self.window / (0.375 * c.overlap))
        pieces = pieces.unflatten(2, (c.overlap, c.step_samples))
        count = pieces.size(1)
        out = F.pad(tail, (0, count * c.step_samples)).unflatten(1, (-1, c.step_samples))
        out = out + sum(F.pad(pieces[:, :, i], (0, 0, i, c.overlap - 1 - i)) for i in range(c.overlap))
        out = out.flatten(1)
        return out[:, : count * c.step_samples], out[:, count * c.step_samples :]


class VocosStream:
    """A `CodeVocos` on a stream of frames, with the interface of `StreamingGenerator`."""

    def __init__(self, model: CodeVocos, dtype: torch.dtype = torch.float32):
        """dtype: torch.bfloat16 computes the linear maps in it; spectra and pulses stay as they are."""
        self.model, self.dtype = model, dtype
        self.hop_samples, self.delay_samples = model.config.hop_samples, model.delay_samples

    @torch.inference_mode()
    def initial_state(self, batch_size: int = 1) -> VocosState:
        return self.model.initial_state(batch_size)

    def step(self, frames: Tensor, state: VocosState, speaker: int = 0) -> tuple[Tensor, VocosState]:
        """frames: [B, f, 2] unit and pitch in Hz; returns the samples [B, n] that are now final, and the state."""
        pieces = []
        for block in frames.split(BLOCK_FRAMES, dim=1):
            samples, state = self._run(block, state, last=False)
            pieces.append(samples)
        return torch.cat(pieces, dim=1), state

    def finish(self, state: VocosState, speaker: int = 0) -> Tensor:
        """The samples [B, n] that `step` withheld."""
        return self._run(state.frames[:, :0], state, last=True)[0]

    @torch.inference_mode()
    def _run(self, frames: Tensor, state: VocosState, last: bool) -> tuple[Tensor, VocosState]:
        with torch.autocast(frames.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.model.step(frames, state, last)


def noise_spectra(config: VocosConfig) -> Tensor:
    """Spectra of white noise of power 1, one a step, complex [NOISE_FRAMES, bins]; the noise repeats without a seam."""
    step = config.step_samples
    wave = np.random.default_rng(0).standard_normal(NOISE_FRAMES * step).astype(np.float32)
    wave = torch.from_numpy(np.concatenate([wave, wave[: config.fft_size - step]]))
    return torch.fft.rfft(wave.unfold(0, config.fft_size, step) * torch.hann_window(config.fft_size, device="cpu"))


def pitch_class(hz: Tensor, config: VocosConfig) -> Tensor:
    """Hz -> classes: 0 unvoiced, then 1.. at equal steps of log frequency."""
    part = torch.log(hz.clamp(LOWEST_HZ, HIGHEST_HZ) / LOWEST_HZ) / np.log(HIGHEST_HZ / LOWEST_HZ)
    return torch.where(hz > 0, 1 + torch.round(part * (config.pitch_classes - 1)).long(), 0)


def class_hz(classes: Tensor, config: VocosConfig) -> Tensor:
    """Classes -> Hz, 0 for unvoiced; the inverse of `pitch_class`."""
    part = (classes.double() - 1) / max(1, config.pitch_classes - 1)
    return torch.where(classes > 0, LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** part, 0).float()
