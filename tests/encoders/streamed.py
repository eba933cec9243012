"""Encoders on random features, in the parallel form and in steps."""

import torch


def random_features(frames: int, bins: int, batch_size: int = 1, seed: int = 0):
    """[B, T, bins], the same for the same seed."""
    return torch.randn(batch_size, frames, bins, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def parallel(encoder, features, segment=None):
    """The parallel form's outputs where all of the features are valid."""
    return encoder(features, torch.full((features.size(0),), features.size(1)), segment)[0]


@torch.no_grad()
def stream(encoder, features, sizes, segment=None):
    """Outputs when the features come in steps of these sizes, used over and over."""
    state, outputs, start, turn = encoder.initial_state(features.size(0), segment), [], 0, 0
    while start < features.size(1):
        size = sizes[turn % len(sizes)]
        out, state = encoder.step(features[:, start : start + size], state)
        outputs.append(out)
        start, turn = start + size, turn + 1
    return torch.cat([*outputs, encoder.finish(state)], dim=1)
