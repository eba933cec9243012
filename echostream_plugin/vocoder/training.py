"""Training of the unit vocoder: spectral losses first, then adversarial and feature matching too.

The generator's EMA weights are what validation hears and what is saved. `state.pt` (tensors and numbers only) resumes.
"""

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from echostream_plugin.config import ConfigError, option
from echostream_plugin.vocoder.codehifigan import CodeHiFiGAN, VocoderConfig, duration_params, save_vocoder
from echostream_plugin.vocoder.data import UnitCorpus
from echostream_plugin.vocoder.discriminators import (
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from echostream_plugin.vocoder.losses import SpectralLoss, mel_distance

STATE_FILE = "state.pt"


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
    duration_weight: float = option(1.0, "weight of the duration predictor's squared error of log(frames + 1)")
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


def preset(name: str, num_units: int) -> tuple[VocoderConfig, TrainingConfig]:
    """`full`: the published size, for a GPU; `small`: two million parameters, for an hour or two of one CPU core."""
    if name == "full":
        return VocoderConfig(num_embeddings=num_units), TrainingConfig()
    if name != "small":
        raise ConfigError(f"preset '{name}': use full or small")
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


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions (on a CPU without them bfloat16 is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it yet
    return device.type == "cpu" and bool(supported and supported())


class VocoderTrainer:
    """Owns generator, discriminators, optimisers and EMA; `fit` runs to the end or the limit."""

    def __init__(self, vocoder: VocoderConfig, training: TrainingConfig, folder, device: str = "cpu"):
        torch.manual_seed(training.seed)
        self.vocoder_config, self.config = vocoder, training
        self.folder, self.device = Path(folder), torch.device(device)
        self.generator = CodeHiFiGAN(vocoder).to(self.device)
        self.bf16 = training.precision == "bf16" or (training.precision == "auto" and fast_bf16(self.device))
        self.discriminators = Discriminators(
            training.periods, training.period_channels, training.stft_sizes, training.stft_channels
        ).to(self.device)
        self.spectral = SpectralLoss(vocoder.sampling_rate).to(self.device)
        betas = (0.8, 0.99)
        self.optimizer = torch.optim.AdamW(self.generator.parameters(), training.learning_rate, betas)
        self.d_optimizer = torch.optim.AdamW(
            self.discriminators.parameters(), training.discriminator_learning_rate, betas
        )
        self.ema = {name: value.detach().clone() for name, value in self.generator.state_dict().items()}
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """How much of training is done, from 0 to 1."""
        done = self.step / self.config.max_steps
        if self.config.max_minutes:
            done = max(done, self.seconds / 60 / self.config.max_minutes)
        return min(done, 1.0)

    def fit(self, train: UnitCorpus, dev: UnitCorpus | None, log=None):
        """Train until progress is 1; `log(values: dict, step)` gets losses, and validation results."""
        bar = tqdm(desc="vocoder", unit="step", initial=self.step, total=self.config.max_steps, mininterval=5)
        while self.progress < 1:
            started = time.monotonic()
            values = self.train_step(train)
            self.seconds += time.monotonic() - started
            bar.update()
            if self.step % 50 == 0:
                bar.set_postfix(mel=f"{values['mel']:.3f}", done=f"{self.progress:.0%}", refresh=False)
                if log:
                    log({**values, "learning_rate": self.optimizer.param_groups[0]["lr"]}, self.step)
            if self.step % self.config.validate_every == 0 or self.progress >= 1:
                self._checkpoint(dev, log)
        bar.close()

    def train_step(self, corpus: UnitCorpus) -> dict:
        """One step of generator and, once adversarial, discriminators; returns the losses as numbers."""
        config = self.config
        # a draw depends on seed and step only, so a resumed run sees what the uninterrupted one would have
        rng = np.random.default_rng([config.seed, self.step])
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        adversarial = self.progress >= config.adversarial_start
        self._set_learning_rates()
        self.generator.train()
        units, real = (x.to(self.device) for x in corpus.crops(rng, config.batch_size, config.crop_frames))
        with self._autocast():
            fake = self.generator.generate(units).float()
        losses, real_maps = {}, None
        if adversarial:
            losses["discriminator"], real_maps = self._discriminator_step(fake.detach(), real)
        mel, stft = self.spectral(fake, real)
        total = config.mel_weight * mel + config.stft_weight * stft
        losses.update(mel=mel, stft=stft)
        if adversarial:
            self.discriminators.requires_grad_(False)
            with self._autocast():
                judged = self.discriminators(fake)
            self.discriminators.requires_grad_(True)
            losses.update(adversarial=adversarial_loss(judged), features=feature_loss(real_maps, judged))
            total = total + config.adversarial_weight * losses["adversarial"]
            total = total + config.feature_weight * losses["features"]
        if self.generator.dur_predictor is not None:
            losses["duration"] = self._duration_loss(corpus, rng)
            total = total + config.duration_weight * losses["duration"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), 200.0)
        self.optimizer.step()
        self._update_ema()
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _discriminator_step(self, fake: Tensor, real: Tensor) -> tuple[Tensor, list]:
        with self._autocast():
            judged = self.discriminators(torch.cat([real, fake]))
        real_maps = [(scores.chunk(2)[0], [m.chunk(2)[0] for m in maps]) for scores, maps in judged]
        fake_maps = [(scores.chunk(2)[1], []) for scores, _ in judged]
        loss = discriminator_loss(real_maps, fake_maps)
        self.d_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.d_optimizer.step()
        # the generator's step compares with these maps too: computing the real ones anew would cost a third more
        return loss.detach(), [(scores.detach(), [m.detach() for m in maps]) for scores, maps in real_maps]

    def _duration_loss(self, corpus: UnitCorpus, rng) -> Tensor:
        units, durations, mask = (x.to(self.device) for x in corpus.durations(rng, self.config.duration_batch))
        error = (self.generator.log_durations(units, mask) - torch.log(durations + 1.0)) ** 2
        return error[~mask].mean()

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _set_learning_rates(self):
        config = self.config
        factor = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        factor *= 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * self.progress))
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * factor
        self.d_optimizer.param_groups[0]["lr"] = config.discriminator_learning_rate * factor

    @torch.no_grad()
    def _update_ema(self):
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        values = self.generator.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [values[name] for name in self.ema], 1 - decay)

    def averaged(self) -> CodeHiFiGAN:
        """A generator with the EMA weights, folded, in evaluation mode."""
        model = CodeHiFiGAN(self.vocoder_config).to(self.device)
        model.load_state_dict(self.ema)
        return model.remove_weight_norm().eval()

    @torch.no_grad()
    def validate(self, dev: UnitCorpus) -> dict:
        """Mel distance at the true durations, and the duration predictor's error, over the first dev utterances."""
        model, distances, errors, ratios = self.averaged(), [], [], []
        for utterance in dev.utterances[: self.config.dev_utterances]:
            units = torch.from_numpy(utterance.units).to(self.device).unsqueeze(0)
            real = torch.from_numpy(utterance.samples).to(self.device).float() / 32768
            distances.append(mel_distance(model.generate(units)[0], real, self.vocoder_config.sampling_rate))
            if model.dur_predictor is not None:
                predicted = model.durations(torch.from_numpy(utterance.reduced).to(self.device).unsqueeze(0))[0].cpu()
                true = torch.from_numpy(utterance.durations)
                errors.append(float(F.l1_loss(predicted.float(), true.float())))
                ratios.append(float(predicted.sum() / true.sum()))
        result = {"dev_mel": float(np.mean(distances))}
        if errors:
            result.update(dev_duration_error_frames=float(np.mean(errors)), dev_length_ratio=float(np.mean(ratios)))
        return result

    def _checkpoint(self, dev, log):
        result = self.validate(dev) if dev else {}
        self.save()
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line.update({name: round(value, 4) for name, value in result.items()})
        tqdm.write(json.dumps(line))
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if log and result:
            log(result, self.step)

    def save(self):
        """The usable vocoder, and the state to resume from."""
        save_vocoder(self.averaged(), self.folder)
        state = {
            "generator": self.generator.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
            "vocoder_config": json.dumps(self.vocoder_config.to_dict()),
            "training_config": json.dumps(dataclasses.asdict(self.config)),
        }
        partial = self.folder / (STATE_FILE + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / STATE_FILE)

    def resume(self) -> bool:
        """Continue from `state.pt` in the folder, if there is one; the model's sizes must be the same."""
        path = self.folder / STATE_FILE
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        saved = VocoderConfig.from_dict(json.loads(state["vocoder_config"]))
        if saved != self.vocoder_config:
            raise ConfigError(f"{path}: made with another vocoder config; give another --out, or delete the folder")
        for name in ("generator", "discriminators", "optimizer", "d_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.ema = {name: state["ema"][name] for name in self.ema}
        self.step, self.seconds = state["step"], state["seconds"]
        return True
