"""Whole frames of 20 ms out of predicted log(frames + 1)."""

import torch
from torch import Tensor

MOST_SHIFT = 0.5
HALVINGS = 12


def whole_frames(log_durations: Tensor) -> Tensor:
    """Frames, at least 1, of log(frames + 1), any shape."""
    return torch.round(torch.exp(log_durations) - 1).long().clamp(min=1)


@torch.no_grad()
def length_shift(model, utterances: list, device: str = "cpu") -> float:
    """What log(frames + 1) of every unit lacks for these utterances to last as long as they do, 0.5 at most.

    A predictor trained by least squares of logarithms says geometric means: its speech is too short by some 6 %.
    model: a vocoder with durations; utterances: `data.Utterance`."""
    true = sum(int(utterance.durations.sum()) for utterance in utterances)
    units = (torch.from_numpy(utterance.reduced).to(device).unsqueeze(0) for utterance in utterances)
    logs, low, high = torch.cat([model.log_durations(row)[0] for row in units]), -MOST_SHIFT, MOST_SHIFT
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if int(whole_frames(logs + middle).sum()) < true:
            low = middle
        else:
            high = middle
    return (low + high) / 2
