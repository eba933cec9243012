"""Speech without transcripts beside a model's training: its encoder's features of human speech stay near Whisper's.

Trained on synthetic speech, an encoder forgets what Whisper knew of human voices. Recordings of people in any language,
with Whisper's own features as the target, prevent that: learning without forgetting (Li and Hoiem, arXiv 1606.09282),
on other recordings than the corpus's, which would not show what is forgotten.
"""

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.adaptation.speech import Batch, collate, load, read_list
from echostream_plugin.adaptation.teacher import WhisperTeacher, relative_distance
from echostream_plugin.adaptation.training import AdaptOptions, mask_features
from echostream_plugin.config import ConfigError
from echostream_plugin.encoders.base import StreamingEncoder
from echostream_plugin.encoders.whisper import WhisperEncoder

LONGEST_S = 12.0
SPEED = (0.8, 1.25)  # a few speakers have to stand for all
SEEDS = 2**31 - 1


class UnlabelledSpeech:
    """Recordings of a list, and how far an encoder's features of them are from the frozen Whisper's.

    Not a module: the teacher is in no optimizer and no checkpoint."""

    def __init__(self, path: str, seconds: float, weights: str, encoder: StreamingEncoder):
        """path: a list as `speech.read_list` takes it, texts in it are not read; seconds: of speech in an update;
        weights: Whisper's, as `WhisperTeacher` takes them; encoder: the student. Raises ConfigError for a list that
        cannot be read, an encoder that is not Whisper's and weights that do not fit it."""
        if not isinstance(encoder, WhisperEncoder):
            raise ConfigError("--unlabelled: only an encoder that was Whisper's can stay near it (echostream_whisper)")
        self.seconds, self.device = seconds, next(encoder.parameters()).device
        self.utterances = read_list(path, LONGEST_S)
        with torch.random.fork_rng(devices=[]):  # first values that are replaced take none of the seed's draws
            self.teacher = WhisperTeacher(encoder.config, weights, self.device)
        self.teacher.measure_share(self.utterances)

    def draw(self) -> Batch:
        """The recordings of an update, by torch's generator; each process of several draws its own."""
        seed = int(torch.randint(SEEDS, ()))
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        generator = np.random.default_rng((seed, rank))
        chosen, filled = [], 0.0
        while filled < self.seconds:
            chosen.append(self.utterances[generator.integers(len(self.utterances))])
            filled += chosen[-1].seconds
        return collate([load(one, generator, SPEED) for one in chosen], [None] * len(chosen))

    def distance(self, encoder: WhisperEncoder, segment_frames: int | None) -> Tensor:
        """`relative_distance` of the encoder's features, of what SpecAugment leaves, for recordings that are drawn now;
        segment_frames: as `WhisperEncoder.forward` takes them."""
        batch = self.draw()
        masked = mask_features(batch.features, batch.lengths, AdaptOptions()).to(self.device)
        lengths = batch.lengths.to(self.device)
        hidden, valid = encoder.hidden(masked, lengths, segment_frames)
        taught = self.teacher(batch.features.to(self.device), lengths)
        return relative_distance(hidden, taught, valid, encoder.coarse is not None)
