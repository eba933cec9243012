"""What a bundle's encoder makes of its source language and of others: a linear probe of its frames, for the gate.

Encoders that were Whisper's keep the spoken language in their frames, and a linear classifier of a recording's mean
frame finds it (as probes of self-supervised encoders do, SUPERB, arXiv 2105.01051). It is part of a bundle's
gate (`inference.confidence.GateModel.language`); what weight it has there is fitted with everything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echostream_plugin.constants import FRAME_MS, SAMPLE_RATE
from echostream_plugin.data import DataError
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.tables import file_of_table, read_table
from echostream_plugin.evaluation.gate import TELEPHONE, changed, logistic
from echostream_plugin.inference.confidence import HALF_FRAMES, fade

AFTER_MS = (1500, 3000, 6000)  # and at the end: when a recording is asked about
GROUPS = ("engine", "language", "what")  # columns of tables: as many recordings of each of these
LONGEST_S = 15.0
REGULARISATION = 0.01
_worker = {}


@dataclass(frozen=True)
class Sample:
    """A recording: is it of the source language, and does it come over the telephone here? Every second does, so that
    no line sounds like a language."""

    wav: str
    wanted: bool
    telephone: bool = False


def samples_of(tables: list, wanted: bool, most: int, without: set = frozenset()) -> list[Sample]:
    """Recordings of tables with a column wav, whose files count from the table's folder or the one above; at most so
    many of each group (an engine, a language), spread over it; without: those that are left out. Raises DataError for
    tables without any."""
    chosen = []
    for table in map(Path, tables):
        groups = {}
        for row in read_table(table, ("wav",)):
            path = file_of_table(table, row["wav"])
            name = next((row[column] for column in GROUPS if column in row), "")
            if path.is_file() and str(path) not in without:
                groups.setdefault(name.split(",")[0], []).append(str(path))
        if not groups:
            raise DataError(f"{table}: no recordings for the language of the gate; column wav must name files")
        for group in groups.values():
            chosen += group[:: max(1, len(group) // most)][:most]
    return [Sample(wav, wanted, bool(number % 2)) for number, wav in enumerate(chosen)]


def fit_language(samples: list[Sample], bundle: Path, jobs: int = 1) -> tuple:
    """The weights [C] and the bias of a bundle's `GateModel.language`."""
    means = list(mean_frames(samples, bundle, jobs))
    values = np.concatenate(means)
    wanted = np.concatenate([np.full(len(of), sample.wanted) for of, sample in zip(means, samples, strict=True)])
    if len(set(wanted.tolist())) < 2:
        raise DataError("the gate's language needs recordings of the source language and of others")
    slopes, bias = logistic(values, wanted, REGULARISATION, class_weight="balanced")
    return (*slopes.tolist(), bias)


def mean_frames(samples: list[Sample], bundle: Path, jobs: int = 1) -> Iterator[np.ndarray]:
    """For each recording the fading means [moments, C] of its encoder frames, as `confidence.language_sums` takes them,
    at AFTER_MS and at its end."""
    yield from Workers(jobs).ordered(_means, samples, "language", _prepare, (str(bundle),))


def _prepare(folder: str):
    import torch

    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.options import bundle_options

    torch.set_num_threads(1)
    _worker["bundle"] = load_bundle(folder)
    _worker["segment"] = bundle_options(_worker["bundle"]).chunk_ms // FRAME_MS


def _means(sample: Sample) -> np.ndarray:
    import torch

    from echostream_plugin.inference.audio import read_mono
    from echostream_plugin.inference.features import features_of

    samples = read_mono(sample.wav)[: int(LONGEST_S * SAMPLE_RATE)]
    samples = changed(samples, SAMPLE_RATE, TELEPHONE) if sample.telephone else samples
    bundle = _worker["bundle"]
    features = features_of(samples, SAMPLE_RATE, bundle.cmvn_mean, bundle.cmvn_std, bundle.config.encoder.features)
    with torch.inference_mode():
        inputs = torch.from_numpy(features)[None], torch.tensor([len(features)])
        frames = bundle.model.encoder(*inputs, _worker["segment"])[0][0].double().numpy()
    ends = [ms // FRAME_MS for ms in AFTER_MS if ms // FRAME_MS < len(frames)] + [len(frames)]
    return np.stack([fading_mean(frames[:end]) for end in ends])


def fading_mean(frames: np.ndarray) -> np.ndarray:
    """The mean [C] of frames [s, C], of which those of `HALF_FRAMES` before the last count half."""
    weights = fade(HALF_FRAMES) ** np.arange(len(frames) - 1, -1, -1)
    return weights @ frames / weights.sum()
