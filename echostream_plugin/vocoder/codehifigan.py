"""CodeHiFiGAN: HiFi-GAN (arXiv 2010.05646) driven by discrete units, with a duration predictor (arXiv 2107.05604).

Parameter names and config keys are those of fairseq's ``CodeGenerator``, so public checkpoints load unchanged.
A *reduced* unit sequence has no repeats; the duration predictor says how many frames of 20 ms each unit lasts.
"""

import dataclasses
import json
import math
import pickle
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echostream_plugin.config import ConfigError, check_options, check_value, option
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.modules.weights import misfits
from echostream_plugin.vocoder.durations import whole_frames
from echostream_plugin.vocoder.packing import PackedCopies

LEAKY_SLOPE = 0.1


@dataclass(frozen=True)
class VocoderConfig:
    """fairseq's keys of a CodeHiFiGAN config. A public config.json has more (training options): they are ignored."""

    num_embeddings: int = option(1000, "K: units are 0..K-1")
    embedding_dim: int = option(128, "unit embedding")
    model_in_dim: int = option(128, "generator input: the unit embedding, plus the speaker embedding if multispkr")
    upsample_rates: tuple = option((5, 4, 4, 2, 2), "transposed convolutions; their product is the samples of a unit")
    upsample_kernel_sizes: tuple = option((11, 8, 8, 4, 4), "kernels of the transposed convolutions")
    upsample_initial_channel: int = option(512, "channels before the first upsampling, halved by each")
    resblock_kernel_sizes: tuple = option((3, 7, 11), "residual blocks of each stage, averaged")
    resblock_dilation_sizes: tuple = option(((1, 3, 5),) * 3, "dilations of each residual block's three layers")
    dur_predictor_params: dict | None = field(
        default_factory=lambda: duration_params(128),
        metadata={"help": "duration predictor; null: none", "minimum": None},
    )
    multispkr: str | bool | None = option(None, "a speaker embedding is concatenated to every frame")
    num_speakers: int = option(200, "speakers of a multi-speaker vocoder", maximum=100_000)
    sampling_rate: int = option(SAMPLE_RATE, "samples a second", minimum=1_000, maximum=384_000)

    def __post_init__(self):
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"):
            object.__setattr__(self, name, _tuple(getattr(self, name)))
        check_options(self)
        self._check_numbers()
        object.__setattr__(self, "multispkr", self.multispkr or None)
        self._check()

    def _check_numbers(self):
        """Those inside tuples and mappings."""
        for name in ("upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes"):
            for value in getattr(self, name):
                _require(isinstance(value, tuple) == (name == "resblock_dilation_sizes"), f"{name}: nested too deeply")
                for number in value if isinstance(value, tuple) else (value,):
                    check_value(name, number, int, {"maximum": 1_000})
        _require(len(self.upsample_rates) <= 16, f"upsample_rates: at most 16, got {len(self.upsample_rates)}")
        for name, value in (self.dur_predictor_params or {}).items():
            kind = float if name == "var_pred_dropout" else int
            check_value(f"dur_predictor_params.{name}", value, kind, {"maximum": 1.0 if kind is float else None})

    def _check(self):
        pairs = list(zip(self.upsample_rates, self.upsample_kernel_sizes, strict=False))
        _require(
            len(self.upsample_rates) == len(self.upsample_kernel_sizes) > 0,
            "upsample_rates and upsample_kernel_sizes must have the same length",
        )
        for rate, kernel in pairs:
            _require(
                kernel >= rate and (kernel - rate) % 2 == 0,
                f"upsample kernel {kernel} must exceed its rate {rate} by an even number, or units would drift in time",
            )
        _require(
            len(self.resblock_kernel_sizes) == len(self.resblock_dilation_sizes) > 0
            and all(len(dilations) == 3 for dilations in self.resblock_dilation_sizes),
            "resblock_dilation_sizes must hold three dilations for each of resblock_kernel_sizes",
        )
        _require(all(k % 2 == 1 for k in self.resblock_kernel_sizes), "resblock_kernel_sizes must be odd")
        _require(
            self.upsample_initial_channel >= 2 ** len(self.upsample_rates),
            f"upsample_initial_channel {self.upsample_initial_channel} is too small to be halved by every upsampling",
        )
        wanted = self.embedding_dim * (2 if self.multispkr else 1)
        _require(
            self.model_in_dim == wanted,
            f"model_in_dim must be {wanted} (embedding_dim{', twice for multispkr' if self.multispkr else ''}), "
            f"got {self.model_in_dim}",
        )
        if self.dur_predictor_params is not None:
            missing = sorted(set(duration_params(1)) - set(self.dur_predictor_params))
            _require(not missing, f"dur_predictor_params lacks {', '.join(missing)}")
            width = self.dur_predictor_params["encoder_embed_dim"]
            _require(
                width == self.embedding_dim, f"dur_predictor_params.encoder_embed_dim must be {self.embedding_dim}"
            )

    @property
    def hop_samples(self) -> int:
        """Samples of one unit frame."""
        return math.prod(self.upsample_rates)

    @property
    def frame_ms(self) -> float:
        """Duration of one unit frame in milliseconds."""
        return 1000 * self.hop_samples / self.sampling_rate

    @classmethod
    def from_dict(cls, values: dict, where: str = "vocoder config") -> "VocoderConfig":
        """From fairseq's config.json or our vocoder.json; unsupported keys that would change the output are named."""
        _require(isinstance(values, dict), f"{where}: expected a json object")
        for key in ("f0", "f0_quant_num_bin", "embedder_params"):
            _require(not values.get(key), f"{where}: {key} (pitch- or embedding-conditioned vocoders) is not supported")
        known = {f.name for f in dataclasses.fields(cls)}
        defaults = {"dur_predictor_params": None}  # fairseq builds no predictor where the key is missing
        missing = sorted({"num_embeddings", "embedding_dim", "upsample_rates", "resblock_kernel_sizes"} - set(values))
        _require(not missing, f"{where}: not a CodeHiFiGAN config, it lacks {', '.join(missing)}")
        try:
            return cls(**{**defaults, **{key: value for key, value in values.items() if key in known}})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from error

    def to_dict(self) -> dict:
        """As `from_dict` reads it."""
        return dataclasses.asdict(self)


def duration_params(embedding_dim: int, hidden_dim: int | None = None, dropout: float = 0.5) -> dict:
    """fairseq's names of the duration predictor's options."""
    return {
        "encoder_embed_dim": embedding_dim,
        "var_pred_hidden_dim": hidden_dim or embedding_dim,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": dropout,
    }


class ResBlock(nn.Module):
    """Three pairs of a dilated and a plain convolution, each pair with a residual. [B, C, T] -> [B, C, T]"""

    def __init__(self, channels: int, kernel: int, dilations: tuple):
        super().__init__()
        self.convs1 = nn.ModuleList([_conv(channels, channels, kernel, dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([_conv(channels, channels, kernel) for _ in dilations])

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE))
        return x


class DurationPredictor(nn.Module):
    """fairseq's VariancePredictor: unit embeddings [B, U, E] -> log(frames + 1) [B, U]."""

    def __init__(self, encoder_embed_dim, var_pred_hidden_dim, var_pred_kernel_size, var_pred_dropout):
        super().__init__()
        hidden, kernel = var_pred_hidden_dim, var_pred_kernel_size
        _require(kernel == 3, f"var_pred_kernel_size {kernel}: fairseq's second layer is padded for 3 only")
        self.conv1 = nn.Sequential(nn.Conv1d(encoder_embed_dim, hidden, kernel, padding=1), nn.ReLU())
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, hidden, kernel, padding=1), nn.ReLU())
        self.ln2 = nn.LayerNorm(hidden)
        self.proj = nn.Linear(hidden, 1)
        self.dropout = var_pred_dropout

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """mask: [B, U] True where padded; padding is kept at zero, as beyond the end of a single sequence."""
        for conv, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            if mask is not None:
                x = x.masked_fill(mask.unsqueeze(-1), 0.0)
            x = norm(conv(x.transpose(1, 2)).transpose(1, 2))
            x = F.dropout(x, self.dropout, self.training)
        return self.proj(x).squeeze(-1)

    @torch.no_grad()
    def lengthen(self, shift: float) -> None:
        """Add so much to log(frames + 1) of every unit."""
        self.proj.bias += shift


class CodeHiFiGAN(nn.Module):
    """Units to waveform. `remove_weight_norm()` folds the training parameterisation for use."""

    stream_dtype = torch.float32  # what `StreamingVocoder` computes in; bfloat16 for processors that have it

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config = config
        self.packed = PackedCopies()  # for streams
        channels = [config.upsample_initial_channel // 2**i for i in range(len(config.upsample_rates) + 1)]
        self.conv_pre = _weight_norm(nn.Conv1d(config.model_in_dim, channels[0], 7, padding=3))
        self.ups = nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
            up = nn.ConvTranspose1d(channels[i], channels[i + 1], kernel, rate, padding=(kernel - rate) // 2)
            self.ups.append(_weight_norm(up))
        blocks = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.blocks_per_stage = len(blocks)
        self.resblocks = nn.ModuleList([ResBlock(c, kernel, d) for c in channels[1:] for kernel, d in blocks])
        self.conv_post = _conv(channels[-1], 1, 7)
        self.dict = nn.Embedding(config.num_embeddings, config.embedding_dim)
        self.spkr = nn.Embedding(config.num_speakers, config.embedding_dim) if config.multispkr else None
        params = config.dur_predictor_params
        self.dur_predictor = DurationPredictor(**{k: params[k] for k in duration_params(1)}) if params else None

    def forward(self, units: Tensor, predict_durations: bool = True, speaker: int = 0) -> tuple[Tensor, Tensor]:
        """units: [B, U], reduced (predict_durations; B must be 1) or one for every 20 ms frame.

        Returns the waveform [B, frames * hop_samples] in [-1, 1] and the frames of each unit [B, U]."""
        if predict_durations:
            if units.size(0) != 1:
                raise ValueError(f"durations are predicted for one sequence at a time, got a batch of {units.size(0)}")
            durations = self.durations(units)
            return self.generate(torch.repeat_interleave(units, durations[0], dim=1), speaker), durations
        return self.generate(units, speaker), torch.ones_like(units)

    def generate(self, frames: Tensor, speaker: int = 0) -> Tensor:
        """frames: [B, T] one unit for each 20 ms; returns the waveform [B, T * hop_samples]."""
        if frames.size(1) == 0:
            return torch.zeros(frames.size(0), 0, device=frames.device)
        self.check_units(frames)
        x = self.dict(frames).transpose(1, 2)
        if self.spkr is not None:
            x = torch.cat([x, self._speaker(speaker).view(1, -1, 1).expand(x.size(0), -1, x.size(2))], dim=1)
        x = self.conv_pre(x)
        n = self.blocks_per_stage
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, LEAKY_SLOPE))
            outputs = [block(x) for block in self.resblocks[i * n : (i + 1) * n]]
            x = outputs[0] if n == 1 else sum(outputs[1:], outputs[0]) / n
        # the last slope is torch's default in the original HiFi-GAN, and published weights expect it
        return torch.tanh(self.conv_post(F.leaky_relu(x))).squeeze(1)

    def log_durations(self, units: Tensor, mask: Tensor | None = None) -> Tensor:
        """units: [B, U] reduced; mask: [B, U] True where padded; returns log(frames + 1) [B, U]."""
        if self.dur_predictor is None:
            raise ConfigError("this vocoder has no duration predictor; give it one unit for each 20 ms frame")
        self.check_units(units)
        return self.dur_predictor(self.dict(units), mask)

    def unit_losses(self, units: Tensor, durations: Tensor, pitch: Tensor | None, mask: Tensor) -> dict:
        """units, durations in frames: [B, U]; mask: [B, U] True where padded. The losses of what is said of units."""
        if self.dur_predictor is None:
            return {}
        error = (self.log_durations(units, mask) - torch.log(durations + 1.0)) ** 2
        return {"duration": error[~mask].mean()}

    @property
    def context_units(self) -> tuple[int, int]:
        """Reduced units before and after one that its frames depend on."""
        return (2, 2) if self.dur_predictor is not None else (0, 0)  # two convolutions of kernel 3

    def timed_frames(self, units: Tensor, start: int, stop: int) -> Tensor:
        """Frames [1, f] of the reduced units start..stop of [1, U]; without a predictor every unit is one frame."""
        if self.dur_predictor is None or stop == start:
            return units[:, start:stop]
        durations = self.durations(units)[0, start:stop]
        return torch.repeat_interleave(units[:, start:stop], durations, dim=1)

    def durations(self, units: Tensor) -> Tensor:
        """units: [B, U] reduced; returns whole frames of 20 ms [B, U], at least 1."""
        if units.size(1) == 0:
            return units
        return whole_frames(self.log_durations(units))

    def check_units(self, units: Tensor):
        """Raise ValueError that names the first unit outside 0..K-1."""
        check_units(units, self.config.num_embeddings)

    def _speaker(self, speaker: int) -> Tensor:
        if not 0 <= speaker < self.config.num_speakers:
            raise ValueError(f"speaker {speaker} is out of range: this vocoder has {self.config.num_speakers} speakers")
        return self.spkr.weight[speaker]

    def remove_weight_norm(self) -> "CodeHiFiGAN":
        """Fold weight_g and weight_v into weight, in place."""
        for module in self.modules():
            if hasattr(module, "weight_g"):
                nn.utils.remove_weight_norm(module)
        return self


def load_public_checkpoint(checkpoint, config_json) -> CodeHiFiGAN:
    """A published unit vocoder: a torch file with {"generator": state_dict} and fairseq's config.json."""
    checkpoint = Path(checkpoint)
    config = VocoderConfig.from_dict(read_json(Path(config_json)), str(config_json))
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: no such file; it is the vocoder checkpoint with the key 'generator'")
    try:
        values = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{checkpoint}: not a checkpoint that can be read without running code ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("generator"), dict):
        found = ", ".join(sorted(map(str, values))[:8]) if isinstance(values, dict) else type(values).__name__
        raise ConfigError(f"{checkpoint}: not a CodeHiFiGAN checkpoint: no 'generator' in it (found: {found})")
    model = CodeHiFiGAN(config)
    if "conv_pre.weight" in values["generator"]:
        model.remove_weight_norm()
    load_into(model, values["generator"], checkpoint)
    return model.remove_weight_norm().eval()


def load_into(model: nn.Module, tensors: dict, where: Path):
    """Load a state dict; raise ConfigError that names what does not fit the model."""
    problems = misfits(model.state_dict(), tensors, "the config says")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(f"{where}: weights and config do not belong together: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(tensors)


def read_json(path: Path) -> dict:
    """A vocoder's configuration file; ConfigError names what is wrong with it."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a vocoder needs its json config beside its weights")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path}: not a json file ({error})") from error


def check_units(units: Tensor, count: int):
    """Raise ValueError that names the first unit outside 0..count-1."""
    bad = units[(units < 0) | (units >= count)]
    if bad.numel():
        raise ValueError(
            f"unit {int(bad[0])} is out of range: this vocoder has K = {count} units "
            f"(0..{count - 1}); it was made for another set of units"
        )


def _weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # torch prefers parametrizations now, whose parameter names public checkpoints do not have
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


def _conv(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> nn.Module:
    conv = nn.Conv1d(channels_in, channels_out, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
    return _weight_norm(conv)


def _tuple(value):
    return tuple(_tuple(item) for item in value) if isinstance(value, list | tuple) else value


def _require(condition, message):
    if not condition:
        raise ConfigError(message)
