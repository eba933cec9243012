"""StreamSpeech-format data sets on fairseq's: features from zips, npy files, or audio of any rate and format."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from fairseq.data.audio import speech_to_speech_dataset as s2s
from fairseq.data.audio.audio_utils import get_features_or_waveform, parse_path
from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator, TextTargetMultitaskData
from fairseq.data.data_utils import numpy_seed

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.features import raw_features
from echostream_plugin.inference.frontends import FRONTENDS


class SpeechToUnitDataset(s2s.SpeechToSpeechMultitaskDataset):
    """Source features to units, with text targets of the other tasks.

    SpecAugment draws from (seed, epoch, utterance), so that a resumed training sees what an uninterrupted one sees."""

    def __init__(self, *, seed: int, features: str = "kaldi-fbank", **keywords):
        """features: a key of `FRONTENDS`; the transform `global_cmvn` is left out where they come normalised."""
        super().__init__(**keywords)
        self._seed = seed
        self._epoch = 1
        self._features = features
        if FRONTENDS[features].NORMALISED and self.feature_transforms is not None:
            transforms = self.feature_transforms.transforms
            self.feature_transforms.transforms = [one for one in transforms if not isinstance(one, GlobalCMVN)]

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self._epoch = epoch

    def batch_by_size(self, indices, **limits):
        """fairseq's batches, and what its batcher leaves out: a last batch that its size multiple does not fill."""
        batches = super().batch_by_size(indices, **limits)
        batched = sum(len(batch) for batch in batches)
        return batches if batched == len(indices) else [*batches, indices[batched:]]

    def _get_source_audio(self, index):
        path = self.audio_paths[index]
        features = load_features(path, self._features)
        if len(features) == 0:
            raise ConfigError(f"{path}: shorter than one feature window (25 ms); remove it from the manifest")
        if self.feature_transforms is not None:
            with numpy_seed(self._seed, self._epoch, index):
                features = self.feature_transforms(features)
        return torch.from_numpy(np.asarray(features)).float()


def load_features(path: str, kind: str = "kaldi-fbank") -> np.ndarray:
    """[T, 80] mel frames of 10 ms, without CMVN, from `zip:offset:size`, `.npy` or an audio file; kind: a key of
    `FRONTENDS`. Only Kaldi's are stored."""
    try:
        file_path, window = parse_path(path)
        if not window and Path(file_path).suffix != ".npy":
            samples, rate = soundfile.read(file_path, dtype="float32", always_2d=True)
            return raw_features(samples, rate, kind)
        if kind != "kaldi-fbank":
            raise ConfigError(
                f"{path}: stored features are Kaldi's, and the encoder reads {kind}, made as it is loaded: "
                "name wav or flac files in the src_audio column of the manifest"
            )
        return get_features_or_waveform(path)
    except (FileNotFoundError, soundfile.LibsndfileError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); check the src_audio column of the manifest") from error


def load_split(
    root: str,
    split: str,
    data_cfg,
    target_dictionary,
    multitask: dict,
    seed: int,
    features: str = "kaldi-fbank",
    text_task: str | None = None,
) -> SpeechToUnitDataset:
    """The data set of `<root>/<split>.tsv`, with features of a kind in `FRONTENDS`; raises ConfigError that names the
    manifest and the missing column. text_task: one of `multitask`, whose text is the target in place of units."""
    manifest = Path(root) / f"{split}.tsv"
    if not manifest.is_file():
        raise ConfigError(f"{manifest}: no such manifest")
    rows = SpeechToTextDatasetCreator._load_samples_from_tsv(root, split)
    tables = multitask.items()
    texts = {name: TextTargetMultitaskData(task.args, split, task.target_dictionary) for name, task in tables}
    if text_task is not None:
        rows = _with_text(manifest, rows, texts[text_task].data)
    for column in ("id", "src_audio", "src_n_frames", "tgt_audio", "tgt_n_frames"):
        if rows[0].get(column) is None:
            raise ConfigError(f"{manifest}: no column '{column}'")
    if text_task is None:
        _require_known_units(manifest, rows, target_dictionary)
    audio_root = Path(data_cfg.audio_root or root)
    dataset = SpeechToUnitDataset(
        split=split,
        is_train_split=split.startswith("train"),
        data_cfg=data_cfg,
        src_audio_paths=[(audio_root / row["src_audio"]).as_posix() for row in rows],
        src_n_frames=[int(row["src_n_frames"]) for row in rows],
        tgt_audio_paths=[row["tgt_audio"] for row in rows],
        tgt_n_frames=[int(row["tgt_n_frames"]) for row in rows],
        src_langs=[row.get("src_lang", "") for row in rows],
        tgt_langs=[row.get("tgt_lang", "") for row in rows],
        ids=[row["id"] for row in rows],
        target_is_code=True,
        tgt_dict=target_dictionary,
        seed=seed,
        features=features,
    )
    for name, table in texts.items():
        dataset.add_multitask_dataset(name, table)
    return dataset


def _with_text(manifest: Path, rows: list[dict], texts: dict[str, str]) -> list[dict]:
    """The rows of a manifest with the subwords of a text, by id, where the units stood."""
    missing = [row["id"] for row in rows if row["id"] not in texts]
    if missing:
        raise ConfigError(f"{manifest}: {missing[0]} has no text in its table; {len(missing)} of {len(rows)} have none")
    return [row | {"tgt_audio": texts[row["id"]], "tgt_n_frames": len(texts[row["id"]].split()) + 1} for row in rows]


def _require_known_units(manifest: Path, rows: list[dict], dictionary) -> None:
    """fairseq would take <unk> for a unit that the dictionary does not have, and train on it."""
    known = dictionary.indices
    unknown = {unit for row in rows for unit in set(row["tgt_audio"].split()) if unit not in known}
    words = sorted(unit for unit in unknown if not unit.isdigit())
    if words:
        raise ConfigError(f"{manifest}: tgt_audio: '{words[0][:40]}' is no unit; it holds numbers separated by spaces")
    if unknown:
        largest, size = max(map(int, unknown)), sum(symbol.isdigit() for symbol in dictionary.symbols)
        raise ConfigError(
            f"{manifest}: tgt_audio: unit {largest}, but --target-code-size {size} has the units 0 to {size - 1}; "
            f"it must be at least {largest + 1}"
        )
