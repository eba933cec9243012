"""Data for the vocoder: waveforms with one unit for every 20 ms frame.

A unit list has lines ``name|u u u ...``; the waveform is ``name.wav`` (or ``.flac``, or ``name`` itself) in a folder.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import Tensor
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.units import run_lengths, unit_lines
from echostream_plugin.vocoder.pitch import measure_pitch


def read_unit_list(path) -> list[tuple[str, list[int]]]:
    """All sequences of a unit list in their order, names and units; raises ConfigError where there are none."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; a unit list has lines 'name|u u u ...'")
    try:
        sequences = list(unit_lines(path))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not sequences:
        raise ConfigError(f"{path}: the file is empty; a unit list has lines 'name|u u u ...'")
    return sequences


def find_wav(folder, name: str) -> Path:
    """The audio file of a unit list's name."""
    for candidate in (name, f"{name}.wav", f"{name}.flac"):
        path = Path(folder) / candidate
        if path.is_file():
            return path
    raise ConfigError(f"{folder}: no audio file for '{name}' of the unit list (looked for {name}.wav and {name}.flac)")


@dataclass(frozen=True)
class Utterance:
    """units: [T] int64 at full rate; samples: [T * hop_samples] int16; reduced units and their durations [U];
    pitch: [T] in Hz, 0 unvoiced, where the corpus measures it."""

    name: str
    units: np.ndarray
    samples: np.ndarray
    reduced: np.ndarray
    durations: np.ndarray
    pitch: np.ndarray | None = None

    def frames(self) -> Tensor:
        """What the generator gets: [T] units, or [T, 2] units and pitch."""
        units = torch.from_numpy(self.units)
        return units if self.pitch is None else torch.stack([units.float(), torch.from_numpy(self.pitch)], dim=1)

    def unit_pitch(self) -> np.ndarray:
        """Mean pitch of each reduced unit [U] in Hz, 0 where most of it is unvoiced."""
        starts = np.cumsum(self.durations) - self.durations
        voiced = np.add.reduceat((self.pitch > 0).astype(np.float32), starts)
        mean = np.add.reduceat(self.pitch, starts) / np.maximum(voiced, 1)
        return np.where(2 * voiced >= self.durations, mean, 0).astype(np.float32)


class UnitCorpus:
    """Utterances in memory (16-bit samples: 115 MB an hour), and random crops of them."""

    def __init__(
        self,
        unit_list,
        wav_folder,
        hop_samples: int,
        sample_rate: int,
        num_units: int,
        limit: int = 0,
        pitch: bool = False,
    ):
        """pitch: measure the fundamental frequency too (3 ms for a second of speech)."""
        entries = read_unit_list(unit_list)[: limit or None]
        self.hop_samples, self.has_pitch = hop_samples, pitch
        self.utterances = []
        for name, units in tqdm(entries, desc=f"reading {Path(unit_list).name}", unit="wav", leave=False):
            self.utterances.append(self._read(find_wav(wav_folder, name), name, units, sample_rate))
        highest = max(int(u.units.max()) for u in self.utterances)
        if highest >= num_units:
            raise ConfigError(f"{unit_list}: unit {highest} is out of range: the vocoder has K = {num_units} units")
        self.weights = np.array([len(u.units) for u in self.utterances], dtype=np.float64)
        self.weights /= self.weights.sum()

    def _read(self, path: Path, name: str, units: list, sample_rate: int) -> Utterance:
        samples, rate = sf.read(path, dtype="int16", always_2d=True)
        if rate != sample_rate:
            raise ConfigError(f"{path}: {rate} Hz; the vocoder is trained on {sample_rate} Hz, resample the file first")
        samples = samples[:, 0]
        frames = min(len(units), len(samples) // self.hop_samples)
        if frames == 0 or abs(len(units) - len(samples) / self.hop_samples) > 3:
            raise ConfigError(
                f"{path}: {len(samples)} samples do not fit {len(units)} units of {self.hop_samples} samples; "
                "the unit list must be at full rate (with repeats) and made from this file"
            )
        units = np.asarray(units[:frames], dtype=np.int64)
        reduced, durations = run_lengths(units)
        samples = samples[: frames * self.hop_samples]
        pitch = measure_pitch(samples / 32768.0, self.hop_samples, rate) if self.has_pitch else None
        return Utterance(name, units, samples, np.asarray(reduced), np.asarray(durations), pitch)

    def crops(self, rng: np.random.Generator, batch: int, frames: int) -> tuple[Tensor, Tensor]:
        """Random crops: units [B, frames], with pitch [B, frames, 2], and samples [B, frames * hop]; a short utterance
        is repeated."""
        units, samples = [], []
        for index in rng.choice(len(self.utterances), size=batch, p=self.weights):
            utterance = self.utterances[index]
            repeats = -(-frames // len(utterance.units))
            start = int(rng.integers(0, len(utterance.units) * repeats - frames + 1))
            hop = self.hop_samples
            given = utterance.frames()
            units.append(torch.cat([given] * repeats)[start : start + frames])
            samples.append(np.tile(utterance.samples, repeats)[start * hop : (start + frames) * hop])
        return torch.stack(units), torch.from_numpy(np.stack(samples)).float() / 32768

    def sequences(self, rng: np.random.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Random utterances, reduced: units, durations in frames, pitch in Hz (None where it was not measured), and
        mask (True where padded), [B, U] each."""
        chosen = [self.utterances[i] for i in rng.integers(0, len(self.utterances), size=batch)]
        longest = max(len(u.reduced) for u in chosen)
        units = torch.zeros(batch, longest, dtype=torch.long)
        durations = torch.ones(batch, longest, dtype=torch.long)
        pitch = torch.zeros(batch, longest) if self.has_pitch else None
        mask = torch.ones(batch, longest, dtype=torch.bool)
        for row, utterance in enumerate(chosen):
            n = len(utterance.reduced)
            units[row, :n] = torch.from_numpy(utterance.reduced)
            durations[row, :n] = torch.from_numpy(utterance.durations)
            if pitch is not None:
                pitch[row, :n] = torch.from_numpy(utterance.unit_pitch())
            mask[row, :n] = False
        return units, durations, pitch, mask
