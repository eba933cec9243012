"""The frozen, unlimited Whisper as a teacher: its features without the share of their place in the 30 s."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from echostream_plugin.adaptation.speech import load
from echostream_plugin.data.whisper_weights import load_whisper_encoder, whisper_layers
from echostream_plugin.encoders.whisper import PAIR, WhisperConfig, WhisperEncoder
from echostream_plugin.files import write_tensors
from echostream_plugin.modules.whisper_front import POSITIONS

STREAMS = 12  # of 30 s, over which the share of the position is averaged
SMOOTH = 51  # frames of 20 ms: what changes faster along the mean is left-over speech


class WhisperTeacher:
    """Whisper's encoder on whole recordings. Not a module: whoever holds one does not have its parameters."""

    def __init__(self, config: WhisperConfig, weights="auto", device="cpu"):
        """config: the student's, for width and heads; weights: a model.bin, its folder or 'auto'."""
        layers = whisper_layers(weights)
        encoder = WhisperEncoder(replace(config, layers=layers, halve_after=layers, memory_size=0, position="cyclic"))
        load_whisper_encoder(encoder, weights)
        self.encoder = encoder.eval().requires_grad_(False).to(device)
        self.share = torch.zeros(POSITIONS, config.inner_dim, device=device)

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor) -> Tensor:
        """features: [B, T, 80] of at most 30 s; lengths: [B]; returns [B, ceil(T / 2), D] in frames of 20 ms."""
        taught = self.encoder.whole(features, lengths)[0].float()
        return taught - self.share[: taught.size(1)]

    @torch.no_grad()
    def measure_share(self, utterances: list, path: Path | None = None, bf16: bool = False) -> None:
        """Learn what place alone adds to the features, from recordings laid end to end, where no place has a sound of
        its own; the mean becomes that which the cyclic positions give, so that a student has it from the beginning.
        path: of a file that it is kept in, so that a run that goes on has the same of other recordings too."""
        device = self.share.device
        if path is None or not path.is_file():
            whole, cyclic = [], []
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                for features in _streams(utterances):
                    features, length = features.to(device), torch.tensor([features.size(1)], device=device)
                    whole.append(self.encoder.whole(features, length)[0][0].float())
                    cyclic.append(self.encoder.hidden(features, length, 0)[0][0].float().mean(0))
            if whole:
                self.share = _smooth(torch.stack(whole).mean(0)) - torch.stack(cyclic).mean(0)
            if path is not None:
                write_tensors(path, {"share": self.share.cpu().contiguous()})
        else:
            self.share = load_file(path)["share"].to(device)


def _streams(utterances: list) -> Iterator[Tensor]:
    """Features [1, T, 80] of 30 s of recordings end to end, at most STREAMS of them."""
    frames, stream, given = PAIR * POSITIONS, [], 0
    for one in utterances:
        stream.append(load(one))
        if sum(map(len, stream)) >= frames:
            yield torch.from_numpy(np.concatenate(stream)[:frames]).unsqueeze(0)
            stream, given = [], given + 1
            if given == STREAMS:
                return


def _smooth(mean: Tensor) -> Tensor:
    """The mean of streams [P, D] without what is left of their speech."""
    padded = F.pad(mean.T.unsqueeze(1), (SMOOTH // 2, SMOOTH // 2), mode="replicate")
    return F.avg_pool1d(padded, SMOOTH, 1).squeeze(1).T


def target_of(taught: Tensor, coarse: bool) -> Tensor:
    """What the student's frames from number 1 on should be, of the teacher's [B, S, D] in frames of 20 ms.

    The student's frames are one later: its convolutions wait for the sound. coarse: its frames are of 40 ms."""
    if not coarse:
        return taught[:, :-1]
    pairs = F.pad(taught, (0, 0, 0, taught.size(1) % PAIR)).unflatten(1, (-1, PAIR))
    return pairs.mean(2)


def relative_distance(hidden: Tensor, taught: Tensor, frames: Tensor, coarse: bool) -> Tensor:
    """Squared distance of student and teacher relative to the teacher's square, over valid frames.

    hidden: [B, S', D] of the student, coarse or not; taught: [B, S, D]; frames: [B] valid frames of the student."""
    target = target_of(taught, coarse).float()
    count = min(hidden.size(1) - 1, target.size(1))
    target, given = target[:, :count], hidden[:, 1 : 1 + count].float()
    valid = (torch.arange(count, device=hidden.device) < (frames - 1).unsqueeze(1)).unsqueeze(2)
    return ((given - target).square() * valid).sum() / (target.square() * valid).sum().clamp(min=1e-6)
