"""From a checked table of parallel speech to a folder that trains: what `echostream prepare` does, step by step.

Every step leaves files that the next run finds, so the same command resumes where it was stopped; a folder belongs to
the table and the settings that it was begun with.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from echostream_plugin.constants import SAMPLE_RATE, UNIT_SAMPLES
from echostream_plugin.data import DataError
from echostream_plugin.data.check import Prepared, check_cmvn, check_units, check_zip, print_table, require
from echostream_plugin.data.hubert import TransformersHubert
from echostream_plugin.data.layout import SPLITS
from echostream_plugin.data.manifests import build_manifests, build_text, recorded_source
from echostream_plugin.data.own_table import OwnCorpus, check_table
from echostream_plugin.data.parallel import Shard, Workers
from echostream_plugin.data.source_features import build_features, write_moments
from echostream_plugin.data.subwords import DECODER
from echostream_plugin.data.tables import read_table
from echostream_plugin.data.target_units import build_units
from echostream_plugin.data.unit_models import UNIT_SETS, ProjectedFeatures, UnitModel, fit_units, make_features
from echostream_plugin.data.units import load_centres, note_units, read_units
from echostream_plugin.data.waveforms import write_cmvn
from echostream_plugin.files import whole_file, write_json, write_text
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.words import normalise
from echostream_plugin.units import reduce_units

FEATURE_KINDS = (*UNIT_SETS, "hubert")
SOURCES = ("features", "waveforms")
MOST_SUBWORDS = 6000  # StreamSpeech's
DECODERS = {  # widths of the MT decoder in the multitask yaml
    "full": DECODER,
    "small": {"decoder_embed_dim": 256, "decoder_ffn_embed_dim": 512, "decoder_attention_heads": 4},
}


@dataclass(frozen=True)
class Settings:
    """What a prepared folder is made with; another value of any of them is another folder."""

    language: str = "src"
    unit_features: str = "whisper"
    clusters: int = 500
    kmeans: str = ""
    hubert: str = ""
    layer: int = 11
    fit_utterances: int = 600
    subwords: int = 0
    decoder: str = "full"
    source: str = "features"
    dev_percent: float = 5.0
    test_percent: float = 5.0
    most_seconds: float = 60.0
    seed: int = 1

    def __post_init__(self):
        if self.unit_features not in FEATURE_KINDS:
            raise DataError(f"unit features '{self.unit_features}': use one of {', '.join(FEATURE_KINDS)}")
        if self.unit_features == "hubert" and not self.hubert:
            raise DataError("units of HuBERT need --hubert FOLDER, a model folder of the transformers library")
        if self.clusters < 2 or self.fit_utterances < 1:
            raise DataError(f"--clusters {self.clusters}, --fit-utterances {self.fit_utterances}: at least 2, and 1")
        if self.source not in SOURCES:
            raise DataError(f"--source {self.source}: use one of {', '.join(SOURCES)}")
        if self.decoder not in DECODERS:
            raise DataError(f"--decoder {self.decoder}: use one of {', '.join(DECODERS)}")
        for name in ("dev_percent", "test_percent"):
            if not 0 < getattr(self, name) < 50:
                raise DataError(f"--{name.replace('_', '-')} {getattr(self, name)}: use more than 0 and less than 50")


def prepare(table, output, settings: Settings, workers: Workers, max_missing: float = 1.0) -> tuple[int, int]:
    """Make the folder `output` of a table; returns how many checks of the result found a problem, and how many units
    there are.

    max_missing: percent of rows that may be unusable. Raises DataError or ConfigError."""
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    keep_settings(output / "settings.json", table, settings)
    corpus = OwnCorpus(output, settings.language)
    percents = settings.dev_percent, settings.test_percent
    check_table(table, corpus, workers, *percents, settings.most_seconds, max_missing)
    copy_targets(corpus, workers)
    if settings.source == "features":
        build_features(corpus, workers, Shard(), max_missing)
        require(check_zip(corpus.feature_zip))
        write_moments(corpus)
    else:
        write_cmvn(output / "gcmvn.npz", [row["src_wav"] for row in corpus.utterances("train")], workers)
    require(check_cmvn(output / "gcmvn.npz"))
    make, centres = unit_model(corpus, settings)
    build_units(corpus, make, centres, workers, Shard(), max_missing)
    for split in SPLITS:
        require(check_units(corpus.units_path(split), len(centres)))
    build_manifests(corpus, None if settings.source == "features" else recorded_source)
    build_text(corpus, subwords(corpus, settings.subwords), 1, decoder=DECODERS[settings.decoder])
    bad = print_table(Prepared(output, len(centres)).checks())
    write_text(output / "summary.txt", summarise(corpus, len(centres)))
    return bad, len(centres)


def keep_settings(path: Path, table, settings: Settings) -> None:
    """Write the settings and the table's digest, or refuse a folder that was begun with others."""
    table = Path(table)
    if not table.is_file():
        raise DataError(f"{table}: no such table")
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    now = {"table": digest, **asdict(settings)}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else now
    changed = sorted(key for key in now if before.get(key) != now[key])
    if changed:
        raise DataError(f"{path}: this folder was begun with another {', '.join(changed)}; use another --out")
    write_json(path, now)


def copy_target(job: tuple[str, str]) -> None:
    """One target recording at 16 kHz, of whole units: what units are made of, and what a vocoder is trained on."""
    original, copy = job
    wave = read_mono(original)
    wave = np.pad(wave, (0, -len(wave) % UNIT_SAMPLES))
    with whole_file(copy) as partial_copy:
        soundfile.write(partial_copy, np.clip(wave, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")


def copy_targets(corpus: OwnCorpus, workers: Workers) -> None:
    """tgt_wav/<id>.wav of every utterance that has none yet."""
    folder = corpus.output / "tgt_wav"
    folder.mkdir(exist_ok=True)
    there = {entry.name for entry in os.scandir(folder)}
    rows = [row for row in corpus.all_utterances() if f"{row['id']}.wav" not in there]
    for _ in workers.ordered(copy_target, [(row["original"], row["tgt_wav"]) for row in rows], "target speech"):
        pass


def unit_model(corpus: OwnCorpus, settings: Settings) -> tuple[Callable, np.ndarray]:
    """What makes unit features in each process, and the centres [K, D]; k-means is fitted where none is given."""
    if settings.unit_features == "hubert":
        maker = partial(TransformersHubert, settings.hubert, settings.layer)
    else:
        maker = partial(make_features, settings.unit_features)
    given = Path(settings.kmeans) if settings.kmeans else corpus.output / "units" / "kmeans.npz"
    if settings.kmeans and given.suffix != ".npz":
        centres = load_centres(given)
        note_units(corpus.output / "units", centres)
        return maker, centres
    if not given.is_file():
        if settings.kmeans:
            raise DataError(f"{given}: no such k-means model")
        recordings = [row["tgt_wav"] for row in corpus.utterances("train")]
        fit_kmeans(given, recordings, maker, settings.clusters, settings.fit_utterances, settings.seed)
    return units_of_model(maker, given, corpus.output / "units")


def units_of_model(maker: Callable, path: Path, folder: Path) -> tuple[Callable, np.ndarray]:
    """As `unit_model`, of a fitted model; what its units are is noted in the folder of the units."""
    model = UnitModel.load(path)
    note_units(folder, model.offset, model.projection, model.centroids)
    return partial(ProjectedFeatures, maker, path), model.centroids


def fit_kmeans(path: Path, recordings: list, maker: Callable, clusters: int, fit_utterances: int, seed: int) -> None:
    """k-means over `fit_utterances` of the recordings, spread over them, into an npz file."""
    picked = recordings[:: max(1, len(recordings) // fit_utterances)][:fit_utterances]
    path.parent.mkdir(parents=True, exist_ok=True)

    def bar(items):
        return tqdm(items, desc="k-means features", unit="wav", mininterval=1.0)

    fit_units(maker(), [read_mono(wav) for wav in picked], clusters, seed, progress=bar).save(path)


def subwords(corpus: OwnCorpus, asked: int) -> int:
    """The size of the SentencePiece models: as asked, else one subword for each different word of the side that has
    fewer, 100 to 6000."""
    if asked:
        return asked
    rows = corpus.utterances("train")
    words = [{word for row in rows for word in normalise(row[column]).split()} for column in ("src_text", "tgt_text")]
    return min(MOST_SUBWORDS, max(100, min(map(len, words))))


def summarise(corpus: OwnCorpus, clusters: int) -> str:
    """Sizes, and units per target subword, which the unit decoder's upsampling must cover."""
    lines = []
    folders = sorted(corpus.output.glob("tgt_unigram*"))
    for split in SPLITS:
        manifest = read_table(corpus.data_folder / f"{split}.tsv")
        subwords = {row["id"]: len(row["tgt_text"].split()) for row in read_table(folders[0] / f"{split}.tsv")}
        rates = [len(reduce_units(units)) / (subwords[name] + 1)
                 for name, units in read_units(corpus.units_path(split)).items() if name in subwords]  # fmt: skip
        hours = sum(int(row["src_n_frames"]) for row in manifest) / 360000
        lines.append(
            f"{split:5s} {len(manifest):6d} utterances, {hours:6.2f} h of source; units per (target subword + 1): "
            f"mean {np.mean(rates):.1f}, 99th percentile {np.percentile(rates, 99):.1f}"
        )
    lines.append(f"{clusters} units")
    return "\n".join(lines) + "\n"
