"""Units to wavs with a unit vocoder, resumable; what is kept is known by the digests of units and vocoder."""

import json
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data.tables import stream_table, write_lines
from echostream_plugin.evaluation.scores import wer
from echostream_plugin.files import json_lines, whole_file
from echostream_plugin.inference.digest import module_digest, value_digest
from echostream_plugin.units import reduce_units, units_of
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, StreamingVocoder, load_public_checkpoint, load_vocoder
from echostream_plugin.vocoder.data import find_wav
from echostream_plugin.vocoder.losses import mel_distance

MADE = "made.jsonl"


def open_vocoder(path, config=None) -> CodeHiFiGAN | CodeVocos:
    """A vocoder folder, a bundle that holds one, or a public checkpoint (a pickle) with its config.json."""
    path = Path(path)
    if config is not None:
        return load_public_checkpoint(path, config).eval()
    if path.is_file():
        raise ConfigError(f"{path}: a checkpoint file needs its config.json: give --vocoder-config")
    return load_vocoder(path / "vocoder" if (path / "vocoder").is_dir() else path).eval()


@torch.inference_mode()
def speak(vocoder: CodeHiFiGAN | CodeVocos, units: list[int]) -> np.ndarray:
    """Samples [n] float32 of reduced units, durations predicted; no units, no samples."""
    if not units:
        return np.zeros(0, dtype=np.float32)
    return vocoder(torch.tensor([units], dtype=torch.long), predict_durations=True)[0][0].numpy()


@torch.inference_mode()
def speak_units(
    vocoder: CodeHiFiGAN | CodeVocos, units: list[int], full_rate: bool = False, streaming_units: int = 0
) -> np.ndarray:
    """Samples [n] float32 of one sequence of units, with repeats or without.

    full_rate: a unit for each 20 ms frame, repeats kept; streaming_units: push so many at a time (0: all at once)."""
    if full_rate:
        return vocoder.generate(torch.tensor([units], dtype=torch.long))[0].numpy()
    units = reduce_units(units)
    streaming, size = StreamingVocoder(vocoder), streaming_units or max(1, len(units))
    state, pieces = streaming.initial_state(), []
    for start in range(0, len(units), size):
        samples, state = streaming.push(units[start : start + size], state)
        pieces.append(samples)
    return torch.cat([*pieces, streaming.finish(state)]).numpy()


def resynthesize(
    vocoder: CodeHiFiGAN | CodeVocos,
    sequences: list,
    out,
    full_rate: bool = False,
    streaming_units: int = 0,
    originals=None,
) -> tuple[list[Path], dict]:
    """<out>/<name>.wav of every (name, units), as `speak_units`; returns the paths, and how many they are, their
    seconds, the real-time factor, and with `full_rate` the mel distance from the true wavs of the folder `originals`.
    """
    from tqdm import tqdm

    out, rate = Path(out), vocoder.config.sampling_rate
    out.mkdir(parents=True, exist_ok=True)
    wavs, distances, seconds, started = [], [], 0.0, time.process_time()
    for name, units in tqdm(sequences, desc="vocoder", unit="wav"):
        wav = speak_units(vocoder, units, full_rate, streaming_units)
        wavs.append(out / f"{Path(name).stem}.wav")
        soundfile.write(wavs[-1], wav, rate, subtype="PCM_16")
        seconds += len(wav) / rate
        if originals and full_rate:
            original, _ = soundfile.read(find_wav(originals, name), dtype="float32")
            distances.append(mel_distance(torch.from_numpy(wav), torch.from_numpy(original), rate))
    facts = {"utterances": len(wavs), "seconds": round(seconds, 1)}
    facts["real_time_factor"] = round((time.process_time() - started) / max(seconds, 1e-9), 4)
    return wavs, facts | ({"mel_distance": round(float(np.mean(distances)), 4)} if distances else {})


def error_rates(asr, names: list[str], wavs: list[Path], references: list[str], out, originals=None) -> dict:
    """WER of wavs, and of the true ones by name in the folder `originals`, the upper bound; <out>/transcripts.tsv has
    what the scoring ASR wrote."""
    transcripts = asr.transcribe_all(wavs)
    rows = zip(names, references, transcripts, strict=True)
    write_lines(Path(out, "transcripts.tsv"), map("\t".join, rows))
    rates = {"wer": round(wer(transcripts, references), 2)}
    if originals:
        spoken = asr.transcribe_all([find_wav(originals, name) for name in names])
        rates["wer_originals"] = round(wer(spoken, references), 2)
    return rates


def read_references(path, names: list[str]) -> list[str]:
    """The sentence of each name."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; references are one sentence a line")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and {"id", "target"} <= set(lines[0].split("\t")):
        lines = [f"{row['id']}\t{row['target'] or ''}" for row in stream_table(path)]
    separator = next((s for s in ("\t", "|") if all(s in line for line in lines)), None)
    if separator is None:
        if len(lines) < len(names):
            raise ConfigError(f"{path}: {len(lines)} sentences for {len(names)} unit sequences")
        return [line.strip() for line in lines[: len(names)]]
    named = dict(line.split(separator, 1) for line in lines)
    missing = [name for name in names if name not in named]
    if missing:
        raise ConfigError(f"{path}: no sentence for '{missing[0]}' of the unit list")
    return [named[name].strip() for name in names]


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
            with whole_file(wav) as partial:
                soundfile.write(partial, speak(vocoder, units), vocoder.config.sampling_rate, format="WAV")
            notes.add(name, keys[name])
    return wavs


def read_back(bundle: Path, unit_lines: list[str], asr, folder: Path, cache) -> list[str]:
    """What the scoring ASR writes of the vocoder's speech of reference units: the most that a translation can be worth.

    bundle: with the vocoder; unit_lines: reduced units, a line an utterance; the wavs stay in `folder`."""
    torch.set_num_threads(1)
    sequences = {str(number): units_of(line) for number, line in enumerate(unit_lines)}
    wavs = write_wavs(open_vocoder(bundle), sequences, folder, progress="reference units")
    return asr.transcribe_all(list(wavs.values()), cache=cache, progress="scoring ASR, reference units")


class _Notes:
    """Name of a wav -> digest of what it was made from, in a jsonl file that only grows; a name's last line counts."""

    def __init__(self, path: Path):
        self.path, entries = path, json_lines(path, mend=True)
        self.keys = {entry["wav"]: entry["digest"] for entry in entries if {"wav", "digest"} <= entry.keys()}

    def add(self, name: str, key: str) -> None:
        self.keys[name] = key
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"wav": name, "digest": key}) + "\n")
