"""A bundle's gate from recordings: what it is asked about them, the regression, and the threshold.

Speech of the model's domain should be written, everything else should not. The regression is fitted on every question
that sessions ask their gate; the threshold on whole recordings, by models that were fitted without them.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echostream_plugin.data.parallel import Workers
from echostream_plugin.evaluation.intervals import Interval, share
from echostream_plugin.files import write_json
from echostream_plugin.inference.audio import at_rate
from echostream_plugin.inference.confidence import FEATURES, GateModel

SPEECH, ALL_SPEECH, OTHERS = "speech", "all speech", "everything else"
FOLDS = 5
EDGE_PERCENT = 0.5  # of all values of a feature lie beyond each end of what the gate tells apart
CHOICES_PERCENT = (0.5, 1.0, 2.0, 3.0, 5.0)  # of the speech refused, for the table of thresholds
LOST_PERCENT = 0.5  # of the recordings of speech that may be broken off
MOST_KEPT = 0.25  # of the threshold: a sentence that was begun ends only where little is left of the confidence
GARBLED_MS = (80, 240)
TELEPHONE, TELEPHONE_HZ = "telephone", 8000
ALMOST = 1e-9  # a threshold that everything, or nothing, reaches
_worker = {}


class CalibrationError(ValueError):
    """Recordings that no gate can be fitted on; the message says what is missing."""


@dataclass(frozen=True)
class Asked:
    """A recording's questions: values [n, FEATURES] while nothing was written, and once everything was; kind: what it
    is, "speech" or "speech: ..." for what should be translated."""

    kind: str
    closed: np.ndarray
    opened: np.ndarray

    @property
    def wanted(self) -> bool:
        """Is it speech that should be translated?"""
        return self.kind.split(":")[0] == SPEECH


class _Recorder:
    """In place of a `GateModel`: notes what it is asked, and always says the same."""

    keep = 1.0

    def __init__(self, answer: float, language: tuple):
        self.answer, self.language, self.values = answer, language, []

    def __call__(self, values) -> float:
        self.values.append(list(values))
        return self.answer


# ----------------------------------------------------------------------------------------------------------- questions


def ask(recordings: list, bundle: Path, push_ms: int = 320, jobs: int = 1, language: tuple = ()) -> list:
    """`Asked` for each of recordings (kind, wav, how it is `changed` or ""), as a session of the bundle asks its gate;
    language: of `language.fit_language`."""
    return list(Workers(jobs).ordered(_ask, recordings, "asking", _prepare, (str(bundle), push_ms, language)))


def _prepare(folder: str, push_ms: int, language: tuple):
    import torch

    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.optimize import optimize
    from echostream_plugin.inference.options import bundle_options

    torch.set_num_threads(1)
    bundle = load_bundle(folder)
    options = bundle_options(bundle, gate=0.5, speech=False)
    optimize(bundle, options=options, push_ms=push_ms)
    _worker.update(bundle=bundle, options=options, push_ms=push_ms, language=language)


def _ask(recording: tuple) -> Asked:
    from echostream_plugin.inference.pushes import push_all
    from echostream_plugin.inference.session import TranslationSession

    kind, wav, change = recording
    samples, rate = _read(wav)
    samples = changed(samples, rate, change) if change else samples
    values = []
    for answer in (0.0, 1.0):
        bundle = _worker["bundle"]
        bundle.gate = _Recorder(answer, _worker["language"])
        session = TranslationSession(bundle, _worker["options"])
        push_all(session, samples, rate, rate * _worker["push_ms"] // 1000)
        values.append(np.array(bundle.gate.values).reshape(-1, len(FEATURES)))
    return Asked(kind, *values)


def _read(wav) -> tuple[np.ndarray, int]:
    from echostream_plugin.inference.audio import read_audio
    from echostream_plugin.inference.features import to_mono

    samples, rate = read_audio(wav)
    return to_mono(samples, rate), rate


def changed(samples: np.ndarray, rate: int, how: str) -> np.ndarray:
    """Speech [n] over a telephone line ("telephone"), which still says what it says; or speech that says nothing any
    more: "reversed", or "shuffled" in pieces of `GARBLED_MS`."""
    if how == TELEPHONE:
        return at_rate(at_rate(samples, rate, TELEPHONE_HZ), TELEPHONE_HZ, rate)
    if how == "reversed":
        return samples[::-1].copy()
    generator = np.random.default_rng(len(samples))
    least, most = (rate * ms // 1000 for ms in GARBLED_MS)
    ends = np.cumsum(generator.integers(least, most, size=len(samples) // least + 1))
    pieces = np.split(samples, ends[ends < len(samples)])
    generator.shuffle(pieces)
    return np.concatenate(pieces)


# ---------------------------------------------------------------------------------------------------------- regression


def fit(asked: list[Asked], keep: float = 0.5, language: tuple = ()) -> GateModel:
    """The logistic regression of all questions while nothing was written. A recording weighs as much as any other of
    its side, and both sides as much. language: that the questions were asked with. Raises CalibrationError where one
    of the sides was never asked about."""
    asked = [item for item in asked if len(item.closed)]
    if len({item.wanted for item in asked}) < 2:
        raise CalibrationError("a gate needs both sides, --speech and --not-speech, with tokens in each")
    values = np.concatenate([item.closed for item in asked])
    wanted = np.concatenate([np.full(len(item.closed), item.wanted) for item in asked])
    weight = np.concatenate([np.full(len(item.closed), 1 / len(item.closed)) for item in asked])
    for side in (True, False):
        weight[wanted == side] /= weight[wanted == side].sum()
    least, most = np.percentile(values, [EDGE_PERCENT, 100 - EDGE_PERCENT], axis=0)
    slopes, bias = logistic(np.clip(values, least, most), wanted, 0.5, weight * len(asked))
    weights = zip(FEATURES, zip(slopes.tolist(), least.tolist(), most.tolist(), strict=True), strict=True)
    return GateModel(dict(weights), bias, keep, language)


def logistic(values: np.ndarray, wanted: np.ndarray, c: float, weight=None, **options) -> tuple[np.ndarray, float]:
    """Slopes [F] and bias for values [n, F] as they are, of a logistic regression of standardised ones; c: its inverse
    regularisation; weight: [n] of the rows; options: further ones of scikit-learn's LogisticRegression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values)
    regression = LogisticRegression(C=c, max_iter=5000, **options)
    regression.fit(scaler.transform(values), wanted, sample_weight=weight)
    slopes = regression.coef_[0] / scaler.scale_
    return slopes, float(regression.intercept_[0] - slopes @ scaler.mean_)


def best(model: GateModel, item: Asked) -> float:
    """The largest confidence while nothing was written: a threshold up to it lets the recording through. Where nothing
    was asked there was nothing to write."""
    return max((model(values) for values in item.closed), default=0.0)


def left_out(asked: list[Asked]) -> np.ndarray:
    """`best` of each recording, by a model that was fitted without it (every fifth left out in turn)."""
    places = np.arange(len(asked)) % FOLDS
    found = np.zeros(len(asked))
    for fold in range(FOLDS):
        model = fit([item for item, place in zip(asked, places, strict=True) if place != fold])
        for number in np.flatnonzero(places == fold):
            found[number] = best(model, asked[number])
    return found


@dataclass(frozen=True)
class Calibration:
    """model and threshold; table: rows of percent that are refused of speech, and that lead to words of the rest;
    choices: the same two numbers for other thresholds."""

    model: GateModel
    threshold: float
    table: list
    choices: list


def calibrate(asked: list[Asked], refuse_percent: float, language: tuple = ()) -> Calibration:
    """The gate that refuses at most so many percent of the speech, as counted on recordings that it was not fitted
    on. language: that the questions were asked with."""
    confidences = left_out(asked)
    threshold = threshold_for(asked, confidences, refuse_percent)
    model = fit(asked)
    model = GateModel(model.weights, model.bias, keep_share(model, threshold, asked), language)
    others = [threshold_for(asked, confidences, percent) for percent in CHOICES_PERCENT]
    choices = [{"threshold": f"{other:.3f}", **_both(asked, confidences, other)} for other in others]
    return Calibration(model, threshold, table(asked, confidences, threshold), choices)


def threshold_for(asked: list[Asked], confidences: np.ndarray, refuse_percent: float) -> float:
    """The threshold that refuses so many percent of the speech."""
    of_speech = [c for c, item in zip(confidences, asked, strict=True) if item.wanted and len(item.closed)]
    return min(max(allowing(of_speech, refuse_percent), ALMOST), 1 - ALMOST)


def _both(asked: list[Asked], confidences: np.ndarray, threshold: float) -> dict:
    rows = {row["kind"]: row for row in table(asked, confidences, threshold)}
    return {"refused": rows[ALL_SPEECH]["refused"], "wordy": rows[OTHERS]["wordy"]}


def keep_share(model: GateModel, threshold: float, asked: list[Asked]) -> float:
    """The share of the threshold that nearly all speech never falls below once it is written, at most `MOST_KEPT`."""
    lows = []
    for item in asked:
        confidences = [model(values) for values in item.opened] if item.wanted else []
        first = next((n for n, confidence in enumerate(confidences) if confidence >= threshold), None)
        if first is not None:
            lows.append(min(confidences[first:]))
    return min(MOST_KEPT, allowing(lows, LOST_PERCENT) / threshold) if lows else 0.0


def allowing(values, percent: float) -> float:
    """The largest of the values below which no more than `percent` of them lie."""
    return float(np.sort(values)[int(len(values) * percent / 100)])


def table(asked: list[Asked], confidences: np.ndarray, threshold: float) -> list[dict]:
    """A row for each kind of recordings, for all speech and for everything else."""
    places = {}
    for number, item in enumerate(asked):
        places.setdefault(item.kind, []).append(number)
    places[ALL_SPEECH] = [number for number, item in enumerate(asked) if item.wanted]
    places[OTHERS] = [number for number, item in enumerate(asked) if not item.wanted]
    rows = []
    for kind, numbers in places.items():
        passed = [confidences[number] >= threshold for number in numbers if len(asked[number].closed)]
        row = {"kind": kind, "recordings": len(numbers), "wordy": share(sum(passed), len(numbers))}
        if passed and kind != OTHERS and asked[numbers[0]].wanted:
            row["refused"] = share(len(passed) - sum(passed), len(passed))
        rows.append(row)
    return rows


COLUMNS = {"kind": "what", "recordings": "n", "wordy": "leads to words %", "refused": "refused %"}
CHOICES = {"threshold": "threshold", "refused": "speech refused %", "wordy": "anything else leads to words %"}


def write_gate(folder: Path, calibration: Calibration) -> None:
    """Put gate and threshold into a bundle's config.json: sessions use them where nobody says otherwise."""
    from echostream_plugin.inference.bundle import load_bundle

    path = Path(folder) / "config.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["gate"] = calibration.model.to_dict()
    description["session"] = {**description.get("session", {}), "gate": calibration.threshold}
    write_json(path, description)
    load_bundle(folder)


def shown(row: dict) -> dict:
    """A row of the table with its intervals as text."""
    return {key: str(value) if isinstance(value, Interval | int) else value for key, value in row.items()}
