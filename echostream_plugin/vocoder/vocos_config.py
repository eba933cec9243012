"""Sizes of a `CodeVocos`, and what must hold between them."""

import dataclasses
from dataclasses import dataclass

from echostream_plugin.config import ConfigError, check_options, option
from echostream_plugin.constants import SAMPLE_RATE


@dataclass(frozen=True)
class VocosConfig:
    """Sizes of a `CodeVocos`."""

    num_embeddings: int = option(1000, "K: units are 0..K-1")
    embedding_dim: int = option(128, "unit embedding", maximum=65_536)
    dim: int = option(256, "width of the ConvNeXt blocks", maximum=65_536)
    hidden_dim: int = option(768, "inner width of a block", maximum=65_536)
    coarse_blocks: int = option(4, "blocks at one frame a unit", minimum=0, maximum=1_000)
    fine_blocks: int = option(4, "blocks at `steps_per_unit` frames a unit", minimum=0, maximum=1_000)
    kernel_size: int = option(7, "taps of a block's causal convolution", maximum=1_000)
    left_frames: int = option(6, "unit frames before its own that the first layer sees", minimum=2, maximum=1_000)
    right_frames: int = option(
        4, "unit frames after its own that the first layer sees: how far speech runs behind", minimum=2, maximum=1_000
    )
    steps_per_unit: int = option(2, "spectra a unit", maximum=1_000)
    hop_samples: int = option(320, "samples of a unit", maximum=65_536)
    fft_size: int = option(640, "window of a spectrum in samples", maximum=65_536)
    prosody_dim: int = option(128, "width of the predictor of durations and pitch", maximum=65_536)
    pitch_classes: int = option(48, "pitches that the predictor tells apart, beside unvoiced", maximum=1_000)
    sampling_rate: int = option(SAMPLE_RATE, "samples a second", minimum=1_000, maximum=384_000)

    def __post_init__(self):
        check_options(self)
        if self.hop_samples % self.steps_per_unit:
            raise ConfigError(
                f"hop_samples {self.hop_samples} must be a multiple of steps_per_unit {self.steps_per_unit}"
            )
        if self.fft_size % (2 * self.step_samples) or self.overlap < 4:
            step = self.step_samples
            raise ConfigError(f"fft_size {self.fft_size} must be an even multiple, at least 4, of a step ({step})")
        if self.lead_samples > self.hop_samples:
            raise ConfigError(f"fft_size {self.fft_size}: windows may reach one unit back, not {self.lead_samples}")

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
        """Build from a dict; ConfigError names an option that is unknown or missing, with `where`."""
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
        """As `from_dict` reads it, with the kind."""
        return dataclasses.asdict(self)
