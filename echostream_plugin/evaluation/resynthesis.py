"""Units to wavs with a unit vocoder, resumable; what is kept is known by the digests of units and vocoder."""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.digest import module_digest, value_digest
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, load_public_checkpoint, load_vocoder

MADE = "made.jsonl"


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
    """<folder>/<name>.wav of every sequence. A sequence without units gives None.

    Those that are there are kept if they are of these units and this vocoder, by the digests that `made.jsonl` notes;
    else they are made again. A wav that is not noted is somebody's own: ConfigError. sequences: name -> list of reduced
    units."""
    from tqdm import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    notes = _Notes(folder / MADE)
    speaker = module_digest(vocoder, vocoder.config.to_dict())
    keys = {name: value_digest([speaker, list(map(int, units))]) for name, units in sequences.items()}
    own = [name for name in sequences if name not in notes.keys and (folder / f"{name}.wav").exists()]
    if own:
        raise ConfigError(f"{folder / own[0]}.wav: not made from units here; move it away, or name another folder")
    wavs = {}
    for name, units in tqdm(sequences.items(), desc=progress, unit="wav", disable=progress is None):
        wav = folder / f"{name}.wav"
        wavs[name] = wav if units else None
        if not units:
            wav.unlink(missing_ok=True)  # of other units
        elif notes.keys.get(name) != keys[name] or not wav.is_file():
            notes.add(name, "")  # whatever happens from here on, the old sound is not these units'
            partial = folder / f"{name}.part"
            soundfile.write(partial, speak(vocoder, units), vocoder.config.sampling_rate, format="WAV")
            partial.replace(wav)
            notes.add(name, keys[name])
    return wavs


def read_back(bundle: Path, unit_lines: list[str], judge, folder: Path, cache) -> list[str]:
    """What the judge reads in the vocoder's speech of reference units: the most that a translation can be worth.

    bundle: with the vocoder; unit_lines: reduced units, a line an utterance; the wavs stay in `folder`."""
    torch.set_num_threads(1)
    sequences = {str(number): [int(unit) for unit in line.split()] for number, line in enumerate(unit_lines)}
    wavs = write_wavs(open_vocoder(bundle), sequences, folder, progress="reference units")
    return judge.transcribe_all(list(wavs.values()), cache=cache, progress="judge of reference units")


class _Notes:
    """Name of a wav -> digest of what it was made from, in a jsonl file that only grows; a name's last line counts."""

    def __init__(self, path: Path):
        self.path, self.keys = path, {}
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self.keys[entry["wav"]] = entry["digest"]
            except (ValueError, KeyError, TypeError):
                continue  # torn by an interruption
        self._torn = bool(text) and not text.endswith("\n")

    def add(self, name: str, key: str) -> None:
        self.keys[name] = key
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps({"wav": name, "digest": key}) + "\n")
        self._torn = False
