"""Is it speech that sounds? Silero's voice activity detector, with its state as values.

The network and its weights are those of the package silero-vad (MIT), evaluated here: its own classes keep one stream's
state on the model, and importing them sets the number of torch's threads. A window is computed by itself, so what comes
out is the same to the bit for any cutting of the audio, and in any company.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import HOP_SAMPLES, WINDOW_SAMPLES

PACKAGE, WEIGHTS = "silero_vad", "data/silero_vad.jit"
STEP_SAMPLES = 512  # 32 ms: what a window adds
CONTEXT_SAMPLES = 64  # of the window before, in front of it
HIDDEN = 128
STFT_WINDOW, STFT_HOP = 256, 128
BINS = STFT_WINDOW // 2 + 1
STRIDES = (1, 2, 2, 1)  # of the four convolutions
SPEECH = 0.5  # probability from which on a window is speech (Silero's default)
NO_SPEECH = 0.35  # and under which it is none; between the two it is what the window before was
CONFIRM_STEPS = 5  # windows of speech in a row, of which the last makes it speech: notes and hum reach up to four
RELEASE_STEPS = 4  # windows without speech in a row, of which the last ends it


class SpeechDetector:
    """Audio of one stream in, for every feature frame of 10 ms whether somebody speaks.

    A frame is classified by the windows that are complete when it is, so that it never waits."""

    SAVED = ("held", "state", "speaking", "run", "steps", "dropped", "frames")

    def __init__(self):
        """Raises ConfigError where the package is missing."""
        self._network = network()
        self.held = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)  # context, then samples of the unfinished window
        self.state = np.zeros((2, HIDDEN), dtype=np.float32)
        self.speaking = False
        self.run = 0  # windows in a row that speak for the other
        self.steps = []  # whether there was speech at the end of the newest windows
        self.dropped = 0  # windows before those
        self.frames = 0  # feature frames decided

    def push(self, samples: np.ndarray):
        """samples: [n] float32 in [-1, 1] at 16 kHz."""
        held, start = np.concatenate([self.held, samples]), 0
        while start + CONTEXT_SAMPLES + STEP_SAMPLES <= len(held):
            window = held[start : start + CONTEXT_SAMPLES + STEP_SAMPLES]
            probability, self.state = self._network.step(window, self.state)
            self.steps.append(self._decide(probability))
            start += STEP_SAMPLES
        self.held = held[start:].copy()

    def speech_frames(self, frames: int) -> np.ndarray:
        """Of the next `frames` feature frames, which end in speech: [frames] bool."""
        ends = (self.frames + np.arange(frames)) * HOP_SAMPLES + WINDOW_SAMPLES // 2  # these samples have come
        newest = (ends // STEP_SAMPLES - 1).tolist()  # the windows that are complete; none (-1) at the first frame
        speech = np.array([last >= 0 and self.steps[last - self.dropped] for last in newest], dtype=bool)
        self.frames += frames
        done = max(0, newest[-1] - self.dropped) if newest else 0
        del self.steps[:done]
        self.dropped += done
        return speech

    def _decide(self, probability: float) -> bool:
        other = probability < NO_SPEECH if self.speaking else probability >= SPEECH
        self.run = self.run + 1 if other else 0
        if self.run >= (RELEASE_STEPS if self.speaking else CONFIRM_STEPS):
            self.speaking, self.run = not self.speaking, 0
        return self.speaking


class Network:
    """The detector's network on one window at a time; the state is a value."""

    def __init__(self, weights: dict):
        """weights: arrays by the package's names."""
        self.basis = weights["stft.forward_basis_buffer"][:, 0]
        self.layers = []
        for i, stride in enumerate(STRIDES):
            weight, bias = (weights[f"encoder.{i}.reparam_conv.{kind}"] for kind in ("weight", "bias"))
            self.layers.append((weight.reshape(len(bias), -1), bias[:, None], stride))
        self.inputs, self.recurrent = weights["decoder.rnn.weight_ih"], weights["decoder.rnn.weight_hh"]
        self.bias = weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]
        self.output, self.output_bias = (
            weights["decoder.decoder.2.weight"][0, :, 0],
            weights["decoder.decoder.2.bias"][0],
        )

    def step(self, window: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
        """window: [576], 64 samples of the one before and 512 new ones; state: [2, 128]. Returns the probability of
        speech and the next state."""
        padded = np.concatenate([window, window[-2 : -2 - CONTEXT_SAMPLES : -1]])  # mirrored at its end
        frames = np.lib.stride_tricks.sliding_window_view(padded, STFT_WINDOW)[::STFT_HOP]
        spectrum = self.basis @ frames.T
        x = np.sqrt(spectrum[:BINS] ** 2 + spectrum[BINS:] ** 2)
        for weight, bias, stride in self.layers:
            x = np.pad(x, ((0, 0), (1, 1)))
            taps = np.lib.stride_tricks.sliding_window_view(x, 3, axis=1)[:, ::stride]
            x = np.maximum(weight @ taps.transpose(0, 2, 1).reshape(-1, taps.shape[1]) + bias, 0.0)
        gates = self.inputs @ x[:, 0] + self.recurrent @ state[0] + self.bias
        take, keep, new, give = gates.reshape(4, HIDDEN)
        cell = _sigmoid(keep) * state[1] + _sigmoid(take) * np.tanh(new)
        hidden = _sigmoid(give) * np.tanh(cell)
        speech = _sigmoid(self.output @ np.maximum(hidden, 0.0) + self.output_bias)
        return float(speech), np.stack([hidden, cell])


@lru_cache(maxsize=1)
def network() -> Network:
    """The package's network, read once. Raises ConfigError where it is not there."""
    found = find_spec(PACKAGE)  # does not import it
    path = Path(found.origin).parent / WEIGHTS if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError("vad needs the package silero-vad: pip install 'silero-vad>=6.2', or leave vad off")
    weights = torch.jit.load(path, map_location="cpu")._model.state_dict()  # the network for 16 kHz, beside one for 8
    return Network({name: tensor.numpy() for name, tensor in weights.items()})


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # no overflow
