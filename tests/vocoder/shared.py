"""What the tests of both kinds of vocoder share: a stream of units, and a training that was interrupted."""

import dataclasses

import torch

from echostream_plugin.vocoder import StreamingVocoder
from echostream_plugin.vocoder.training import VocoderTrainer


def stream(model, pieces):
    """The samples of units that come in pieces."""
    vocoder = StreamingVocoder(model)
    state, out = vocoder.initial_state(), []
    for piece in pieces:
        samples, state = vocoder.push(piece, state)
        out.append(samples)
    return torch.cat([*out, vocoder.finish(state)])


def ends_where_the_uninterrupted_ends(vocoder, training, corpus, folder):
    """Eight steps at once, and eight with a break after five, give the same weights."""
    config = dataclasses.replace(training, max_steps=8, adversarial_start=0.4, validate_every=100)
    whole = VocoderTrainer(vocoder, config, folder)
    for _ in range(8):
        whole.train_step(corpus)
    first = VocoderTrainer(vocoder, config, folder)
    for _ in range(5):
        first.train_step(corpus)
    first.save()
    second = VocoderTrainer(vocoder, config, folder)
    assert second.resume() and second.step == 5
    for _ in range(3):
        second.train_step(corpus)
    for name, value in whole.ema.items():
        torch.testing.assert_close(second.ema[name], value, atol=1e-6, rtol=0, msg=name)
    return config
