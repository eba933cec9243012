"""`--optimizer scaled_adam` and `--lr-scheduler eden`, with which icefall trains its Zipformers."""

from collections.abc import Collection
from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from echostream_plugin.modules.zipformer.scaled_adam import ScaledAdam, eden_factor


@dataclass
class ScaledAdamConfig(FairseqDataclass):
    """Flags of `--optimizer scaled_adam`."""

    scaled_adam_betas: str = field(default="0.9,0.98", metadata={"help": "of momentum and of squared gradients"})
    scaled_adam_clipping: float = field(
        default=2.0, metadata={"help": "gradients are clipped to so many times their median norm; 0: never"}
    )
    lr: list[float] = II("optimization.lr")


@register_optimizer("scaled_adam", dataclass=ScaledAdamConfig)
class FairseqScaledAdam(FairseqOptimizer):
    """Rates are relative changes of a tensor: `--lr 0.045`, with `--lr-scheduler eden` and without `--clip-norm`."""

    def __init__(self, cfg: ScaledAdamConfig, params):
        super().__init__(cfg)
        self._optimizer = ScaledAdam(params, **self.optimizer_config)

    @property
    def optimizer_config(self):
        """What takes the place of what a checkpoint says."""
        cfg = self.cfg
        return {
            "lr": cfg.lr[0] if isinstance(cfg.lr, Collection) else cfg.lr,
            "betas": tuple(map(float, cfg.scaled_adam_betas.split(","))),
            "clipping_scale": cfg.scaled_adam_clipping or None,
        }

    @property
    def supports_flat_params(self):
        """False: a tensor's size counts. With `--fp16` fairseq asks for `--fp16-no-flatten-grads`."""
        return False


@dataclass
class EdenConfig(FairseqDataclass):
    """Flags of `--lr-scheduler eden`."""

    eden_updates: float = field(default=7500, metadata={"help": "updates from which on the rate falls with their root"})
    eden_epochs: float = field(default=3.5, metadata={"help": "epochs from which on the rate falls with their root"})
    eden_start: float = field(default=0.5, metadata={"help": "the first update's rate over --lr"})
    warmup_updates: int = field(default=500, metadata={"help": "updates in which the rate rises"})
    lr: list[float] = II("optimization.lr")


@register_lr_scheduler("eden", dataclass=EdenConfig)
class Eden(FairseqLRScheduler):
    """icefall's rates; epochs are counted from 0, and whole."""

    def __init__(self, cfg: EdenConfig, optimizer):
        super().__init__(cfg, optimizer)
        self.base = cfg.lr[0] if isinstance(cfg.lr, Collection) else cfg.lr
        self.epochs = self.updates = 0
        self.step_update(0)

    def step_begin_epoch(self, epoch):
        """Called with epochs from 1 on."""
        self.epochs = epoch - 1
        return self.step_update(self.updates)

    def step(self, epoch, val_loss=None):
        super().step(epoch, val_loss)
        return self.optimizer.get_lr()

    def step_update(self, num_updates):
        cfg, self.updates = self.cfg, num_updates
        factor = eden_factor(
            num_updates, self.epochs, cfg.eden_updates, cfg.eden_epochs, cfg.warmup_updates, cfg.eden_start
        )
        self.optimizer.set_lr(self.base * factor)
        return self.optimizer.get_lr()
