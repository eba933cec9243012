"""Memory of a long stream: oneDNN keeps a kernel for every shape that a convolution has had, so there are few."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.translators.recompute import speak_last
from echostream_plugin.modules.subsampling import CausalSubsampling
from echostream_plugin.modules.whisper_front import WhisperFront
from tests.tiny_bundle import UNITS, speechlike, tiny_bundle, tiny_vocoder

MOST_SHAPES = 30  # of one convolution


class Shapes(TorchDispatchMode):
    """Notes the input shapes that each convolution is called with, by its weight."""

    def __init__(self):
        super().__init__()
        self.seen = defaultdict(set)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "conv" in function.name() and "reorder" not in function.name():
            self.seen[id(args[1])].add(tuple(args[0].shape))
        return function(*args, **(kwargs or {}))

    @property
    def most(self) -> int:
        return max(map(len, self.seen.values()))


def test_a_session_of_any_pushes_has_few_shapes():
    bundle, rng = tiny_bundle(), np.random.default_rng(0)
    options = SessionOptions(pause_ms=400, longest_sentence_ms=1600, max_tokens=4)
    session, samples = TranslationSession(bundle, options), speechlike(40.0, seed=1)
    with Shapes() as shapes:
        start = 0
        while start < len(samples):
            size = int(rng.integers(160, 32000))
            session.push(samples[start : start + size], 16000)
            start += size
        session.finish()
    assert len(shapes.seen) > 10 and shapes.most <= MOST_SHAPES


@pytest.mark.parametrize("length", (1, 17, 60, 400))
def test_the_last_units_sound_as_in_the_whole(length):
    vocoder, units = tiny_vocoder(), torch.arange(length).remainder(UNITS).tolist()
    with torch.inference_mode():
        wave, durations = vocoder(torch.tensor([units]))
        for new in {1, length // 2 or 1, length}:
            count = int(durations[0, -new:].sum()) * vocoder.config.hop_samples
            wanted = wave[0, wave.size(1) - count :].numpy()
            np.testing.assert_allclose(speak_last(vocoder, units, new), wanted, atol=1e-5)


def test_sequences_of_any_length_are_spoken_with_few_shapes():
    vocoder, units = tiny_vocoder(), torch.arange(100).remainder(UNITS).tolist()
    with torch.inference_mode(), Shapes() as shapes:
        for length in range(10, 90, 2):
            speak_last(vocoder, units[:length], 1)
    for weight in vocoder.dur_predictor.parameters():
        shapes.seen.pop(id(weight), None)  # so small that oneDNN is not asked
    assert len(shapes.seen) > 10 and shapes.most <= MOST_SHAPES


FRONTS = {"subsampling": lambda: CausalSubsampling(10, 3, 8), "whisper": lambda: WhisperFront(10, 8, cyclic=True)}


@pytest.mark.parametrize("kind", FRONTS)
def test_spare_outputs_change_nothing(kind):
    torch.manual_seed(0)
    front, shapes = FRONTS[kind]().eval(), Shapes()
    for length in range(1, 300):
        x = torch.randn(2, length, 10)
        wanted = front(x)  # with gradients: no spare outputs
        assert wanted.requires_grad
        with torch.inference_mode(), shapes:
            torch.testing.assert_close(front(x), wanted, atol=1e-5, rtol=0)
    assert len(shapes.seen) == 2 and shapes.most <= MOST_SHAPES
