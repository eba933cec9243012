"""Do the CTC heads write before they can know? Their first token against the first sound of the speech, and how many
tokens they write in the first frames of an utterance, where hardly a word was heard."""

from dataclasses import dataclass

import numpy as np
import torch

from echostream_plugin.constants import FRAME_MS, SAMPLE_RATE
from echostream_plugin.decoders.ctc import FIRST_FRAMES, greedy_collapse
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.features import features_of

WINDOW = SAMPLE_RATE // 100  # samples of 10 ms
BELOW_PEAK_DB = 30.0  # the speech begins with the first 10 ms that are so near to the loudest


@dataclass(frozen=True)
class Early:
    """Of one head and one recording. tokens: all that it writes; first: those that start in the first `FIRST_FRAMES`
    frames after the speech began, or before; lead_ms: how much earlier than the speech its first token starts, negative
    where it starts after; None where it writes nothing."""

    tokens: int
    first: int
    lead_ms: float | None


def onset_ms(samples: np.ndarray) -> float:
    """Where the speech in samples [n] at 16 kHz begins; 0 for silence and under 10 ms."""
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    power = np.square(windows.astype(np.float64)).mean(axis=1)
    if not len(power) or power.max() == 0:
        return 0.0
    return float(np.argmax(power >= power.max() * 10 ** (-BELOW_PEAK_DB / 10))) * 1000 * WINDOW / SAMPLE_RATE


def earliness(starts: list, onset: float) -> Early:
    """starts: frames of 40 ms at which the tokens of a head start; onset: of the speech, in ms."""
    early = sum(start < onset / FRAME_MS + FIRST_FRAMES for start in starts)
    return Early(len(starts), early, onset - starts[0] * FRAME_MS if starts else None)


@torch.inference_mode()
def heads_of(bundle: Bundle, samples: np.ndarray, segment_frames: int | None = None) -> dict[str, list]:
    """The frames at which the tokens of both heads ("asr", "st") start, by the parallel forward.

    samples: [n] at 16 kHz; segment_frames: of the encoder, 0: the whole utterance; None: the model's own."""
    kind = bundle.config.encoder.features
    features = torch.from_numpy(features_of(samples, SAMPLE_RATE, bundle.cmvn_mean, bundle.cmvn_std, kind))
    if not len(features):
        return {"asr": [], "st": []}
    frames, _ = bundle.model.encoder(features.unsqueeze(0), torch.tensor([len(features)]), segment_frames)
    heads = {"asr": bundle.model.source_unigram_decoder, "st": bundle.model.ctc_target_unigram_decoder}
    return {name: greedy_collapse(head(frames)[0])[1] for name, head in heads.items()}


def measure(bundle: Bundle, recordings, segments: dict) -> list[dict]:
    """A row for each segment and head over recordings [n] at 16 kHz.

    segments: name -> encoder frames, as of `heads_of`. Rows: tokens in the first `FIRST_FRAMES` frames of speech
    ("first"), mean lead of the first token in ms ("lead_ms"), percent of the recordings whose first token is before the
    speech ("before")."""
    found = {(name, head): [] for name in segments for head in ("asr", "st")}
    for samples in recordings:
        onset = onset_ms(samples)
        for name, frames in segments.items():
            for head, starts in heads_of(bundle, samples, frames).items():
                found[name, head].append(earliness(starts, onset))
    return [{"segment": name, "head": head, **summary(items)} for (name, head), items in found.items()]


def summary(items: list[Early]) -> dict:
    """Means over recordings."""
    leads = [item.lead_ms for item in items if item.lead_ms is not None]
    return {
        "recordings": len(items),
        "tokens": float(np.mean([item.tokens for item in items])) if items else 0.0,
        "first": float(np.mean([item.first for item in items])) if items else 0.0,
        "lead_ms": float(np.mean(leads)) if leads else None,
        "before": 100.0 * float(np.mean([lead > 0 for lead in leads])) if leads else None,
    }


COLUMNS = {
    "segment": "encoder segment",
    "head": "CTC head",
    "recordings": "recordings",
    "tokens": "tokens",
    "first": f"in the first {FIRST_FRAMES} frames",
    "lead_ms": "lead of the first token, ms",
    "before": "first token before the speech, %",
}
