"""Options of vocoder training, and the sizes for a GPU and for a CPU."""

from dataclasses import dataclass

from echostream_plugin.config import ConfigError, option
from echostream_plugin.vocoder.codehifigan import VocoderConfig, duration_params
from echostream_plugin.vocoder.files import KINDS
from echostream_plugin.vocoder.vocos import VocosConfig


@dataclass(frozen=True)
class TrainingConfig:
    """Options of vocoder training; `scripts/train_vocoder.py` has a flag for each."""

    batch_size: int = option(16, "crops in a batch")
    crop_frames: int = option(32, "length of a crop in unit frames of 20 ms")
    learning_rate: float = option(2e-4, "peak learning rate of the generator, with cosine decay to a twentieth")
    discriminator_learning_rate: float = option(2e-4, "peak learning rate of the discriminators")
    warmup_steps: int = option(100, "steps over which the learning rate rises")
    max_steps: int = option(400000, "end of training in steps")
    max_minutes: float = option(0.0, "end of training in minutes of work, over all resumptions; 0: no limit")
    adversarial_start: float = option(0.1, "part of training (0..1) after which the discriminators join")
    mel_weight: float = option(45.0, "weight of the log-mel loss")
    stft_weight: float = option(5.0, "weight of the STFT loss")
    adversarial_weight: float = option(1.0, "weight of the adversarial loss")
    feature_weight: float = option(10.0, "weight of the (normalised) feature matching loss")
    duration_weight: float = option(1.0, "weight of the squared error of log(frames + 1), and of pitch")
    duration_batch: int = option(16, "whole utterances in a step of the duration predictor")
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones saved")
    precision: str = option("fp32", "fp32, bf16 for the convolutions, or auto: bf16 where the device is faster at it")
    periods: tuple = option((2, 3, 5, 7, 11), "periods of the multi-period discriminator")
    period_channels: tuple = option((32, 128, 512, 1024), "channels of a period discriminator's layers")
    stft_sizes: tuple = option((512, 1024, 2048), "windows of the STFT discriminators in samples")
    stft_channels: int = option(32, "channels of an STFT discriminator")
    validate_every: int = option(2000, "steps between validations, each of which saves a checkpoint")
    dev_utterances: int = option(16, "dev utterances whose mel distance is measured")
    seed: int = option(1, "seed of initialisation and of all draws")

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16", "auto"):
            raise ConfigError(f"precision '{self.precision}': use fp32, bf16 or auto")
        if not 0 <= self.adversarial_start <= 1:
            raise ConfigError(f"adversarial_start {self.adversarial_start}: a part of training, from 0 to 1")


def preset(name: str, num_units: int, kind: str = "code_hifigan") -> tuple:
    """Vocoder and training configuration, for `full`: the published size, for a GPU; for `small`: two million
    parameters, for an hour or two of one CPU core."""
    if name not in ("full", "small") or kind not in KINDS:
        raise ConfigError(f"preset '{name}' of '{kind}': use full or small, and one of {', '.join(KINDS)}")
    if kind == "code_vocos":
        return VocosConfig(num_embeddings=num_units), vocos_training(name)
    if name == "full":
        return VocoderConfig(num_embeddings=num_units), TrainingConfig()
    vocoder = VocoderConfig(
        num_embeddings=num_units,
        embedding_dim=96,
        model_in_dim=96,
        # the last stage, at 16 kHz, costs a CPU the same with 8 channels as with 16, which one stage less leaves it
        upsample_rates=(5, 4, 4, 4),
        upsample_kernel_sizes=(11, 8, 8, 8),
        upsample_initial_channel=256,
        resblock_kernel_sizes=(3, 7),
        resblock_dilation_sizes=((1, 3, 5),) * 2,
        dur_predictor_params=duration_params(96, 128, 0.2),
    )
    training = TrainingConfig(
        batch_size=4,
        duration_batch=6,
        precision="auto",
        learning_rate=1e-3,
        discriminator_learning_rate=5e-4,
        max_minutes=64.0,
        adversarial_start=0.3,
        adversarial_weight=4.0,
        feature_weight=20.0,
        period_channels=(16, 32, 64, 96),
        periods=(2, 5, 11),
        stft_sizes=(512,),
        stft_channels=12,
        validate_every=500,
        ema_decay=0.998,
    )
    return vocoder, training


def vocos_training(name: str) -> TrainingConfig:
    """`code_vocos` has one size; what differs is how long and against how many discriminators it is trained."""
    if name == "full":
        return TrainingConfig(crop_frames=64, learning_rate=5e-4)
    return TrainingConfig(
        batch_size=8,
        crop_frames=48,
        duration_batch=8,
        precision="auto",
        learning_rate=1e-3,
        discriminator_learning_rate=5e-4,
        max_minutes=75.0,
        adversarial_start=0.4,
        adversarial_weight=2.0,
        feature_weight=10.0,
        period_channels=(16, 32, 64, 96),
        periods=(2, 5, 11),
        stft_sizes=(512,),
        stft_channels=12,
        validate_every=1000,
        ema_decay=0.998,
    )
