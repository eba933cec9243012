"""Long recordings made of short ones, with the place of every sentence in them: what a talk of an hour is evaluated on.

A segmentation is the yaml that OmniSTEval and mwerSegmenter's users have: a list of sentences with `wav`, `offset` and
`duration` in seconds, in the order of the references; here with `source` and `reference` too.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import write_lines
from echostream_plugin.evaluation.boundaries import speech_part
from echostream_plugin.evaluation.samples import LISTING, Sample, of_bundle, of_list
from echostream_plugin.files import whole_file
from echostream_plugin.inference.audio import FileRecording, read_mono
from echostream_plugin.inference.subtitles import sentences

SEGMENTATION, REFERENCES, SOURCES = "segmentation.yaml", "reference.txt", "source.txt"
SHORTEST_PAUSED_MS = 1200  # a sentence that is shorter has no pause inside
PAUSE_WITHIN = (0.3, 0.7)  # of a sentence: where its pause may lie
WINDOW_SAMPLES = SAMPLE_RATE // 50
FADE_SAMPLES = SAMPLE_RATE // 200
BEYOND_MS = 1000.0  # that segmentations made by hand may go beyond the end of a recording


@dataclass(frozen=True)
class Kind:
    """How sentences follow each other. gap_ms: least and most silence after each; pause_ms: the same of the silence
    inside each, None for none; noise_db: white noise so far below the mean power of the speech, None for none."""

    gap_ms: tuple = (600, 1200)
    pause_ms: tuple | None = None
    noise_db: float | None = None


KINDS = {
    "silences": Kind(),
    "none": Kind(gap_ms=(0, 0)),
    "pauses": Kind(pause_ms=(400, 900)),
    "noise": Kind(noise_db=10.0),
}


@dataclass(frozen=True)
class Segment:
    """A sentence of a long recording: where it lies in it, and what it says in both languages."""

    start_ms: float
    duration_ms: float
    source: str
    reference: str

    @property
    def end_ms(self) -> float:
        """Where it ends."""
        return self.start_ms + self.duration_ms


def read_samples(folder: Path) -> list[Sample]:
    """The recordings of one sentence each in a bundle's samples or in a SimulEval folder (wav_list.txt, src.txt,
    target.txt): only of these is it known where sentences end. Raises DataError."""
    if (folder / "samples" / LISTING).is_file():
        found = of_bundle(folder)
    else:
        if not (folder / "wav_list.txt").is_file():
            raise DataError(f"{folder}: no samples/{LISTING} and no wav_list.txt; name a bundle or a SimulEval folder")
        found = of_list(folder)
    single = [sample for sample in found if len(sentences(sample.source)) <= 1]
    if not single:
        raise DataError(f"{folder}: no recording of one sentence")
    return single


def build(samples: list[Sample], kind: Kind, minutes: float, seed: int, wav: Path) -> list[Segment]:
    """Write `minutes` of sentences in a row as a wav file of 16-bit samples at 16 kHz, a sentence at a time, and return
    where they lie. Which sentences follow each other depends on the seed alone, not on the kind."""
    gaps, noise = (np.random.default_rng([seed, number]) for number in (1, 2))
    loudness = 0.0 if kind.noise_db is None else noise_deviation(samples, kind.noise_db)
    segments, length, wanted = [], 0, round(minutes * 60 * SAMPLE_RATE)
    with (
        whole_file(wav) as partial,
        soundfile.SoundFile(partial, "w", SAMPLE_RATE, 1, subtype="PCM_16", format="WAV") as file,
    ):
        for sample in _order(samples, seed):
            speech = speech_of(sample)
            if kind.pause_ms is not None and len(speech) >= SHORTEST_PAUSED_MS * SAMPLE_RATE // 1000:
                speech = with_pause(speech, _samples(gaps.uniform(*kind.pause_ms)))
            gap = np.zeros(_samples(gaps.uniform(*kind.gap_ms)), np.float32)
            piece = np.concatenate([speech, gap])
            file.write(piece + (loudness * noise.standard_normal(len(piece))).astype(np.float32))
            place = (1000 * count / SAMPLE_RATE for count in (length, len(speech)))
            segments.append(Segment(*place, sample.source, sample.target))
            length += len(piece)
            if length >= wanted:
                return segments
    raise AssertionError("the order of samples never ends")


def speech_of(sample: Sample) -> np.ndarray:
    """A recording [n] without the silence at its ends. Raises DataError where there is nothing else."""
    samples = read_mono(sample.wav)
    if not np.abs(samples).max(initial=0.0) > 0:
        raise DataError(f"{sample.wav}: nothing but silence; leave it out")
    return speech_part(samples)


def _order(samples: list, seed: int):
    """Endless rounds of all samples, each in a random order."""
    generator = np.random.default_rng([seed, 0])
    while True:
        for number in generator.permutation(len(samples)):
            yield samples[number]


def _samples(milliseconds: float) -> int:
    return round(milliseconds * SAMPLE_RATE / 1000)


def with_pause(speech: np.ndarray, pause_samples: int) -> np.ndarray:
    """A sentence [n] with a silence in the quietest place of its middle part."""
    power = np.convolve(speech**2, np.ones(WINDOW_SAMPLES), mode="valid")
    first, last = (round(share * len(power)) for share in PAUSE_WITHIN)
    place = first + int(np.argmin(power[first:last])) + WINDOW_SAMPLES // 2
    before, after = speech[:place].copy(), speech[place:].copy()
    fade = np.linspace(1.0, 0.0, FADE_SAMPLES, dtype=np.float32)
    before[-FADE_SAMPLES:] *= fade
    after[:FADE_SAMPLES] *= fade[::-1]
    return np.concatenate([before, np.zeros(pause_samples, np.float32), after])


def noise_deviation(samples: list[Sample], noise_db: float) -> float:
    """The standard deviation of noise that is so far below the mean power of all the speech."""
    energy = length = 0
    for sample in samples:
        speech = speech_of(sample).astype(np.float64)
        energy, length = energy + float(speech @ speech), length + len(speech)
    return (energy / length / 10 ** (noise_db / 10)) ** 0.5


# ------------------------------------------------------------------------------------------------------ segmentations


def write_segmentation(folder: Path, recordings: dict) -> None:
    """segmentation.yaml, reference.txt and source.txt; recordings: name of a wav file -> its segments, in order."""
    entries = [(wav, segment) for wav, segments in recordings.items() for segment in segments]
    lines = ["- " + json.dumps(_entry(wav, segment), ensure_ascii=False) for wav, segment in entries]
    write_lines(folder / SEGMENTATION, lines)  # json is yaml
    for name, texts in ((REFERENCES, [s.reference for _, s in entries]), (SOURCES, [s.source for _, s in entries])):
        write_lines(folder / name, [" ".join(text.split()) for text in texts])


def _entry(wav: str, segment: Segment) -> dict:
    times = {"offset": segment.start_ms / 1000, "duration": segment.duration_ms / 1000}
    return {"wav": wav, **times, "source": segment.source, "reference": segment.reference}


def read_segmentation(folder: Path) -> dict[Path, list[Segment]]:
    """The recordings of a folder and their segments, in order. Where the yaml has no `reference`, those of
    reference.txt. Raises DataError."""
    import yaml

    path = folder / SEGMENTATION
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        lines = _lines(folder / REFERENCES) if any("reference" not in entry for entry in entries) else None
        if lines is not None and len(lines) != len(entries):
            raise DataError(f"{folder / REFERENCES}: {len(lines)} lines for the {len(entries)} segments of {path}")
        found = {}
        for number, entry in enumerate(entries):
            reference = entry["reference"] if "reference" in entry else lines[number]
            times = 1000.0 * entry["offset"], 1000.0 * entry["duration"]
            texts = [str("" if text is None else text) for text in (entry.get("source"), reference)]
            found.setdefault(folder / entry["wav"], []).append(Segment(*times, *texts))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = "expected a list of wav, offset, duration, with a reference here or in reference.txt"
        raise DataError(f"{path}: {reason} ({error!r}); make one with scripts/build_longform.py") from error
    if not found:
        raise DataError(f"{path}: no segments; make some with scripts/build_longform.py")
    for wav, segments in found.items():
        _check(path, wav, segments)
        segments.sort(key=lambda segment: segment.start_ms)
    return found


def _lines(path: Path) -> list[str]:
    """As OmniSTEval counts them: only a line feed ends one."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return lines if lines[-1] else lines[:-1]


def _check(path: Path, wav: Path, segments: list[Segment]) -> None:
    """Raise DataError where segments do not lie in their recording, InputError where that cannot be read."""
    if not wav.is_file():
        raise DataError(f"{path}: no such recording '{wav}'")
    with FileRecording(wav, quiet=True) as recording:
        seconds = recording.seconds
    for segment in segments:
        if not segment.duration_ms > 0:
            raise DataError(f"{path}: a segment of {wav.name} has no duration")
        if not (segment.start_ms >= 0 and math.isfinite(segment.end_ms)):
            times = f"offset {segment.start_ms / 1000}, duration {segment.duration_ms / 1000}"
            raise DataError(f"{path}: a segment of {wav.name} has {times}; they are seconds from 0 on")
        if seconds is not None and segment.end_ms > 1000 * seconds + BEYOND_MS:
            end = f"ends at {segment.end_ms / 1000:.2f} s, the recording at {seconds:.2f} s"
            raise DataError(f"{path}: a segment of {wav.name} {end}")
