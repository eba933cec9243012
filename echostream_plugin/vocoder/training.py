"""Training of the unit vocoder: spectral losses first, then adversarial and feature matching too.

The generator's EMA weights are what validation hears and what is saved. `state.pt` (tensors and numbers only) resumes.
"""

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.modules.seeded_training import seed_update
from echostream_plugin.vocoder.data import UnitCorpus
from echostream_plugin.vocoder.discriminators import (
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from echostream_plugin.vocoder.durations import length_shift
from echostream_plugin.vocoder.files import config_from_dict, config_to_dict, make_vocoder, save_vocoder
from echostream_plugin.vocoder.losses import SpectralLoss, mel_distance
from echostream_plugin.vocoder.recipes import TrainingConfig, preset

__all__ = ["TrainingConfig", "VocoderTrainer", "fast_bf16", "preset"]
STATE_FILE = "state.pt"


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions (on a CPU without them bfloat16 is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it yet
    return device.type == "cpu" and bool(supported and supported())


class VocoderTrainer:
    """Owns generator, discriminators, optimisers and EMA; `fit` runs to the end or the limit."""

    def __init__(self, vocoder, training: TrainingConfig, folder, device: str = "cpu"):
        """vocoder: a VocoderConfig or a VocosConfig."""
        torch.manual_seed(training.seed)
        self.vocoder_config, self.config = vocoder, training
        self.folder, self.device = Path(folder), torch.device(device)
        self.generator = make_vocoder(vocoder).to(self.device)
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
        seed_update(config.seed, self.step)
        adversarial = self.progress >= config.adversarial_start
        self._set_learning_rates()
        self.generator.train()
        frames, real = (x.to(self.device) for x in corpus.crops(rng, config.batch_size, config.crop_frames))
        with self._autocast():
            fake = self.generator.generate(frames).float()
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
        batch = corpus.sequences(rng, config.duration_batch)
        of_units = self.generator.unit_losses(*(None if x is None else x.to(self.device) for x in batch))
        losses.update(of_units)
        total = total + config.duration_weight * sum(of_units.values())
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

    def averaged(self) -> torch.nn.Module:
        """A generator with the EMA weights, folded, in evaluation mode."""
        model = make_vocoder(self.vocoder_config).to(self.device)
        model.load_state_dict(self.ema)
        return model.remove_weight_norm().eval()

    def usable(self, dev: UnitCorpus | None) -> torch.nn.Module:
        """`averaged`, its durations as long together as those of the first dev utterances; what is saved for use."""
        model = self.averaged()
        if dev is not None and model.dur_predictor is not None:
            utterances = dev.utterances[: self.config.dev_utterances]
            model.dur_predictor.lengthen(length_shift(model, utterances, self.device))
        return model

    @torch.no_grad()
    def validate(self, dev: UnitCorpus) -> dict:
        """Mel distance at the true durations and pitch, and the predictor's errors, over the first dev utterances."""
        model, distances, errors, ratios = self.usable(dev), [], [], []
        for utterance in dev.utterances[: self.config.dev_utterances]:
            frames = utterance.frames().to(self.device).unsqueeze(0)
            real = torch.from_numpy(utterance.samples).to(self.device).float() / 32768
            distances.append(mel_distance(model.generate(frames)[0], real, self.vocoder_config.sampling_rate))
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
        self.save(dev)
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        line.update({name: round(value, 4) for name, value in result.items()})
        tqdm.write(json.dumps(line))
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if log and result:
            log(result, self.step)

    def save(self, dev: UnitCorpus | None = None):
        """The usable vocoder, and the state to resume from."""
        save_vocoder(self.usable(dev), self.folder)
        state = {
            "generator": self.generator.state_dict(),
            "discriminators": self.discriminators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "seconds": self.seconds,
            "vocoder_config": json.dumps(config_to_dict(self.vocoder_config)),
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
        saved = config_from_dict(json.loads(state["vocoder_config"]))
        if saved != self.vocoder_config:
            raise ConfigError(f"{path}: made with another vocoder config; give another --out, or delete the folder")
        for name in ("generator", "discriminators", "optimizer", "d_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.ema = {name: state["ema"][name] for name in self.ema}
        self.step, self.seconds = state["step"], state["seconds"]
        return True
