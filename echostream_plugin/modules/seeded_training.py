"""Small trainings whose every update draws from a seed of its own: one that goes on from a checkpoint gives, bit for
bit, what one without a break gives."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.files import whole_file


def seed_update(seed: int, update: int) -> None:
    """Seed torch's draws of one update, so that a resumed training has those of one without a break."""
    torch.manual_seed(seed * 1_000_003 + update)


class SeededTraining:
    """The updates of a network, one after the other; a kind of training says in `update` what one is.

    updates: how many there are; made_by: text that is equal where checkpoints may be exchanged; clip_norm: gradients
    are cut to this norm."""

    def __init__(self, network: nn.Module, optimizer, updates: int, seed: int, made_by: str, clip_norm: float):
        self.network, self.optimizer, self.updates = network, optimizer, updates
        self.seed, self.made_by, self.clip_norm = seed, made_by, clip_norm
        self.done, self.loss = 0, None  # updates, and the loss, smoothed

    def update(self) -> float:
        """One update in place; returns the loss before it."""
        raise NotImplementedError

    def run(self, checkpoint: Path, save_every: int, tell=lambda: "") -> None:
        """All updates that are left, from `checkpoint` on where it exists, with a line and a new checkpoint after every
        `save_every`; tell() gives what the line says beside the loss. Raises ConfigError as `resume` does."""
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.exists():
            self.resume(checkpoint)
            print(f"{checkpoint}: goes on after update {self.done}")
        with tqdm(total=self.updates, initial=self.done, unit="update", disable=None, mininterval=1.0) as bar:
            while self.done < self.updates:
                self.update()
                bar.update()
                bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
                if self.done % save_every == 0 or self.done == self.updates:
                    tqdm.write(f"update {self.done}: loss {self.loss:.4f}{tell()}")
                    self.save(checkpoint)

    def _draw(self) -> np.random.Generator:
        """The random numbers of the next update; dropout and other draws of torch are seeded by them."""
        self.done += 1
        rng = np.random.default_rng([self.seed, self.done])
        torch.manual_seed(int(rng.integers(1 << 62)))
        return rng

    def _learn(self, loss: Tensor, shown: Tensor) -> float:
        """One step down the gradient of `loss`; `shown` is the loss that is smoothed and told."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        value = float(shown.detach())
        self.loss = value if self.loss is None else 0.98 * self.loss + 0.02 * value
        return value

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {"made_by": self.made_by, "done": self.done, "loss": self.loss, "network": self.network.state_dict()}
        with whole_file(path, alone=True) as partial:
            torch.save({**state, "optimizer": self.optimizer.state_dict()}, partial)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises ConfigError where it is none, or of another recipe, network or texts."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            made_by, done, loss, network, optimizer = (
                state[name] for name in ("made_by", "done", "loss", "network", "optimizer")
            )
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise ConfigError(f"{path}: not a checkpoint of this training; delete it to train anew") from error
        if made_by != self.made_by:
            raise ConfigError(f"{path}: of another recipe, network or texts; delete it to train anew")
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)
        self.done, self.loss = done, loss
