"""Recordings for the adaptation of an encoder: lists, batches in a repeatable order, features."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.data.tables import file_of_table, stream_table
from echostream_plugin.inference.audio import at_rate, read_audio
from echostream_plugin.inference.features import raw_features, to_mono

AUDIO_COLUMNS = ("audio", "wav", "src_audio")
TEXT_COLUMNS = ("text", "source", "src_text")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
SPEED = (0.9, 1.1)
GAIN_DB = (-12.0, 6.0)
POOL = 50  # batches among which utterances of one length are looked for


@dataclass(frozen=True)
class Utterance:
    """A recording of the source; text: what it says, None where that is not known."""

    path: str
    seconds: float
    text: str | None = None


@dataclass(frozen=True)
class Batch:
    """features: [B, T, 80] padded with zeros; lengths: [B]; texts: [B], None for recordings without one."""

    features: Tensor
    lengths: Tensor
    texts: list


def read_list(path, longest_s: float = 20.0) -> list[Utterance]:
    """Recordings of at most `longest_s` seconds.

    path: a tsv with a column of AUDIO_COLUMNS and perhaps one of TEXT_COLUMNS, its paths absolute or relative to its
    folder or the folder above, or a folder of audio files. What a corpus in the making lists and does not have yet is
    left out, with a line that says so. Raises ConfigError for what is neither list nor folder, or is empty."""
    path = Path(path)
    if path.is_dir():
        rows = [(file, None) for file in sorted(path.rglob("*")) if file.suffix in AUDIO_SUFFIXES]
    elif path.is_file():
        rows = list(_rows(path))
    else:
        raise ConfigError(f"{path}: no such list of recordings or folder")
    there = [(file, text) for file, text in rows if file.is_file()]
    if len(there) < len(rows):
        print(f"{path}: {len(rows) - len(there)} of {len(rows)} recordings are not there", file=sys.stderr)
    try:
        heard = [Utterance(str(file), soundfile.info(str(file)).duration, text) for file, text in there]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    heard = [one for one in heard if 0.1 <= one.seconds <= longest_s]
    if not heard:
        raise ConfigError(f"{path}: no recording of at most {longest_s:g} s in it")
    return heard


def _rows(path: Path) -> Iterator[tuple[Path, str | None]]:
    for row in stream_table(path):
        audio, text = (next((name for name in known if name in row), None) for known in (AUDIO_COLUMNS, TEXT_COLUMNS))
        if audio is None:
            raise ConfigError(f"{path}: no column {' or '.join(AUDIO_COLUMNS)}")
        yield file_of_table(path, row[audio]), row[text] if text else None


def load(utterance: Utterance, generator: np.random.Generator | None = None, speed: tuple = SPEED) -> np.ndarray:
    """Whisper's features [T, 80] of a recording; generator: draw speed (and pitch with it) and loudness, for training;
    speed: its least and its most."""
    samples, rate = read_audio(utterance.path)
    samples = to_mono(samples, rate)
    if generator is not None:
        samples = samples * np.float32(10 ** (generator.uniform(*GAIN_DB) / 20))
        samples = np.clip(at_rate(samples, rate * generator.uniform(*speed)), -1, 1)
        rate = SAMPLE_RATE
    return raw_features(samples.astype(np.float32), rate, "whisper-log-mel")


def collate(features: list[np.ndarray], texts: list) -> Batch:
    """One batch of features [T_i, 80]."""
    lengths = torch.tensor([len(one) for one in features])
    padded = torch.zeros(len(features), int(lengths.max()), features[0].shape[1])
    for row, one in zip(padded, features, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    return Batch(padded, lengths, texts)


def in_batches(utterances: list, batch_s: float) -> list[list]:
    """Neighbours together, as many as fill `batch_s` seconds, padding included."""
    batches, batch = [], []
    for one in utterances:
        longest = max([one.seconds, *(other.seconds for other in batch)])
        if batch and longest * (len(batch) + 1) > batch_s:
            batches.append(batch)
            batch = []
        batch.append(one)
    return [*batches, batch] if batch else batches


class Batches:
    """Endless training batches: transcribed recordings, each once in an epoch, and others beside them.

    Every draw depends on the seed and the place in the order alone, so that a run goes on as if it had not stopped."""

    def __init__(self, labelled: list, others: list, batch_s: float, others_s: float, seed: int, workers: int = 0):
        """batch_s: seconds of transcribed speech in a batch, padding included; others_s: of other speech; workers:
        threads that load the next batch ahead."""
        self.labelled, self.others = labelled, others
        self.batch_s, self.others_s, self.seed = batch_s, others_s if others else 0.0, seed
        self._pool = ThreadPoolExecutor(workers) if workers else None

    def shuffled(self) -> list[Utterance]:
        """All recordings in an order of the seed."""
        together = [*self.labelled, *self.others]
        return [together[i] for i in np.random.default_rng(self.seed).permutation(len(together))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on."""
        plan = self._plan(epoch)[start:]
        if self._pool is None:
            for number, batch in enumerate(plan, start):
                yield collate(*self._loaded(epoch, number, batch))
            return
        ahead = None
        for number, batch in enumerate([*plan, None], start):
            following = batch and self._pool.submit(self._loaded, epoch, number, batch)
            if ahead is not None:
                yield collate(*ahead.result())
            ahead = following

    def _plan(self, epoch: int) -> list[list]:
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(len(self.labelled))
        pool = max(1, round(POOL * self.batch_s / np.mean([one.seconds for one in self.labelled])))
        batches = []
        for first in range(0, len(order), pool):
            chosen = sorted((self.labelled[i] for i in order[first : first + pool]), key=lambda one: one.seconds)
            batches += in_batches(chosen, self.batch_s)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _loaded(self, epoch: int, number: int, batch: list) -> tuple[list, list]:
        generator = np.random.default_rng((self.seed, epoch, number))
        batch = list(batch)
        longest, seconds = max(one.seconds for one in batch), 0.0
        for i in generator.permutation(len(self.others)):
            if seconds >= self.others_s:
                break
            if self.others[i].seconds <= 1.5 * longest:  # no more padding than that
                batch.append(self.others[i])
                seconds += self.others[i].seconds
        seeds = generator.integers(2**32, size=len(batch))
        features = [load(one, np.random.default_rng(int(seed))) for one, seed in zip(batch, seeds, strict=True)]
        return features, [one.text for one in batch]
