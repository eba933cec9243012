"""Units to wavs with a unit vocoder, resumable."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, load_public_checkpoint, load_vocoder


def open_vocoder(path, config=None) -> CodeHiFiGAN | CodeVocos:
    """A vocoder folder, a bundle that holds one, or a public checkpoint (a pickle) with its config.json."""
    path = Path(path)
    if config is not None:
        return load_public_checkpoint(path, config).eval()
    if path.is_file():
        raise ConfigError(f"{path}: a checkpoint file needs its config.json")
    return load_vocoder(path / "vocoder" if (path / "vocoder").is_dir() else path).eval()


@torch.inference_mode()
def speak(vocoder: CodeHiFiGAN | CodeVocos, units: list[int]) -> np.ndarray:
    """Samples [n] float32 of reduced units, durations predicted; no units, no samples."""
    if not units:
        return np.zeros(0, dtype=np.float32)
    return vocoder(torch.tensor([units], dtype=torch.long), predict_durations=True)[0][0].numpy()


def write_wavs(vocoder: CodeHiFiGAN | CodeVocos, sequences: dict, folder, progress="vocoder") -> dict[str, Path | None]:
    """<folder>/<name>.wav of every sequence; those that are there are kept. A sequence without units gives None.

    sequences: name -> list of reduced units.
    """
    from tqdm import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wavs = {}
    for name, units in tqdm(sequences.items(), desc=progress, unit="wav", disable=progress is None):
        wavs[name] = folder / f"{name}.wav" if units else None
        if units and not wavs[name].is_file():
            partial = folder / f"{name}.part"
            soundfile.write(partial, speak(vocoder, units), vocoder.config.sampling_rate, format="WAV")
            partial.replace(wavs[name])
    return wavs
