"""How sure a model is of what it is about to write, and the gate that lets it write only what it is sure of.

Nothing here runs a network. The CTC heads' posteriors over the newest seconds, the MT decoder's own probabilities, the
agreement of its hypothesis with the CTC translation and the language that the encoder's frames sound like become a few
numbers; a logistic regression makes them one confidence (its weights come with the bundle, `scripts/calibrate_gate.py`
fits them); `Gate` decides with it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.ctc import FORBIDDEN

HALF_FRAMES = 75  # encoder frames of 40 ms after which a frame counts half: the newest three seconds matter
HALF_TOKENS = 12  # target tokens after which a token counts half
RECENT_TOKENS = 16  # newest target tokens whose agreement with the CTC translation is looked at
AHEAD_TOKENS = 8  # that the CTC translation may be longer than the hypothesis
FEATURES = (
    *("asr_peak", "asr_doubt", "asr_entropy", "asr_rate"),
    *("st_peak", "st_doubt", "st_entropy", "st_rate"),
    *("mt_logprob", "mt_entropy", "agreement", "evidence"),
    "language",
)


# ------------------------------------------------------------------------------------------------------------ evidence


def frame_sums(logits: Tensor | None = None, before: Sequence | None = None, blank: int = 0) -> list[float]:
    """Sums over the frames of a CTC head so far, older frames fading: frames, those with a token, their largest
    posterior, doubt (what the largest posterior lacks to 1) and entropy in nats over all frames.

    logits: [s, V] of the next frames, None: of none yet; before: the sums up to them. Any cutting of the frames gives
    the same."""
    before = list(before or [0.0] * 5)
    frames = 0 if logits is None else logits.size(0)
    if not frames:
        return before
    log_probs = logits.double().index_fill(1, torch.tensor(FORBIDDEN, device=logits.device), -math.inf).log_softmax(1)
    best, symbol = log_probs.max(1)
    probs, token = best.exp(), symbol.ne(blank).double()
    entropy = -(log_probs.exp() * log_probs.nan_to_num(neginf=0.0)).sum(1)
    values = torch.stack([torch.ones_like(probs), token, token * probs, 1 - probs, entropy])
    kept = fade(HALF_FRAMES)
    fading = kept ** torch.arange(frames - 1, -1, -1, dtype=torch.double, device=logits.device)
    return [kept**frames * old + new for old, new in zip(before, (values @ fading).tolist(), strict=True)]


def language_sums(frames: Tensor | None, language: Tensor, before: Sequence | None = None) -> list[float]:
    """Sums over the encoder frames so far, older ones fading: frames, and how much each sounds like the source language
    (log-odds).

    frames: [s, C] the next ones, None: none yet; language: [C + 1] float64, weights and bias of `GateModel.language`;
    before: the sums up to them. Any cutting of the frames gives the same."""
    count, score = before or (0.0, 0.0)
    if frames is None or not len(frames):
        return [count, score]
    kept = fade(HALF_FRAMES)
    scores = frames.double() @ language[:-1] + language[-1]
    fading = kept ** torch.arange(len(frames) - 1, -1, -1, dtype=torch.double, device=frames.device)
    return [kept ** len(frames) * count + float(fading.sum()), kept ** len(frames) * score + float(fading @ scores)]


def token_sums(scores: list[Tensor], tokens: list[int], before: Sequence | None = None) -> list[float]:
    """Sums over the target tokens so far, older ones fading: tokens, their log-probabilities, entropies of the choices.

    scores: logits [V] that each of the next tokens was chosen from; before: the sums up to them."""
    count, logprob, entropy = before or (0.0, 0.0, 0.0)
    kept = fade(HALF_TOKENS)
    for logits, token in zip(scores, tokens, strict=True):
        log_probs = logits.double().log_softmax(0)
        count, logprob = kept * count + 1, kept * logprob + float(log_probs[token])
        entropy = kept * entropy - float((log_probs.exp() * log_probs.nan_to_num(neginf=0.0)).sum())
    return [count, logprob, entropy]


def fade(half: int) -> float:
    """The factor that halves a weight in `half` steps."""
    return 0.5 ** (1 / half)


def agreement(hypothesis: list[int], ctc: list[int]) -> float:
    """The share of the newest tokens of the MT hypothesis that the CTC translation has near there too, in any order;
    1 for no hypothesis. Both are of the same dictionary."""
    newest = hypothesis[-RECENT_TOKENS:]
    if not newest:
        return 1.0
    start = max(0, len(hypothesis) - RECENT_TOKENS - AHEAD_TOKENS)
    near = ctc[start : len(hypothesis) + AHEAD_TOKENS]
    return sum((Counter(newest) & Counter(near)).values()) / len(newest)


def features(
    asr: Sequence, st: Sequence, mt: Sequence, agrees: float, tokens: int, language: Sequence | None = None
) -> list[float]:
    """FEATURES of a moment. asr, st: of `frame_sums`; mt: of `token_sums`, the tokens to be written included; agrees:
    of `agreement`; tokens: of the CTC translation since the sentence began; language: of `language_sums`, None for a
    gate that does not ask for it."""
    count = max(mt[0], 1e-9)
    sounds = language[1] / max(language[0], 1e-9) if language else 0.0
    return [*_of_head(asr), *_of_head(st), mt[1] / count, mt[2] / count, agrees, math.log1p(tokens), sounds]


def _of_head(sums: Sequence) -> list[float]:
    frames, tokens, peak, doubt, entropy = sums
    return [peak / max(tokens, 1e-9), doubt / (tokens + 1), entropy / (tokens + 1), tokens / max(frames, 1e-9)]


# ---------------------------------------------------------------------------------------------------------- confidence


@dataclass(frozen=True)
class GateModel:
    """A logistic regression over FEATURES, as a bundle keeps it.

    weights: feature -> (weight, least value, largest value); values beyond those that it was fitted with count as
    these, so that a sound unlike any other is not trusted for it; keep: once something is written, a confidence below
    this share of the threshold ends it; language: weights of an encoder frame's C numbers and a bias, the log-odds that
    it sounds like the source language, empty where nothing of the kind was fitted."""

    weights: dict
    bias: float
    keep: float = 0.5
    language: tuple = ()

    def __call__(self, values: Sequence) -> float:
        """The confidence, 0 to 1, for values in the order of FEATURES."""
        total = self.bias
        for name, value in zip(FEATURES, values, strict=True):
            weight, least, largest = self.weights.get(name, (0.0, 0.0, 0.0))
            total += weight * min(max(value, least), largest)
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, total))))

    def to_dict(self) -> dict:
        """As json keeps it."""
        weights = {name: list(of) for name, of in self.weights.items()}
        language = {"language": list(self.language)} if self.language else {}
        return {"weights": weights, "bias": self.bias, "keep": self.keep, **language}

    @classmethod
    def from_dict(cls, values: dict) -> "GateModel":
        """Raises ConfigError for what `to_dict` does not give."""
        try:
            weights = {name: tuple(float(number) for number in of) for name, of in values["weights"].items()}
            language = tuple(float(number) for number in values.get("language", ()))
            model = cls(weights, float(values["bias"]), float(values["keep"]), language)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"gate: expected weights, bias and keep, as scripts/calibrate_gate.py writes ({error!r})"
            raise ConfigError(message) from error
        numbers = [model.bias, model.keep, *language, *(number for of in weights.values() for number in of)]
        unknown = sorted(set(weights) - set(FEATURES))
        if unknown or any(len(of) != 3 for of in weights.values()) or not all(map(math.isfinite, numbers)):
            what = (
                f"unknown feature {unknown[0]}"
                if unknown
                else "weights must be three finite numbers each, and language finite numbers"
            )
            raise ConfigError(f"gate: {what}; calibrate again with scripts/calibrate_gate.py")
        return model


@dataclass(frozen=True)
class Hypothesis:
    """What a CTC head has found in a sentence so far: its tokens, and the sums of `frame_sums`."""

    tokens: list
    sums: Sequence | None


@dataclass(frozen=True)
class Hypotheses:
    """What the CTC heads of transcript and translation have found of a sentence so far, provisional frames included,
    and the sums of `language_sums`, None where nobody asks for them."""

    asr: Hypothesis
    st: Hypothesis
    language: Sequence | None = None


class Gate:
    """Lets one sentence be written once its confidence reaches the threshold, and no longer when it is lost.

    Until then everything waits: it is asked again at every decoding step, with more source. What was written stays;
    after a loss nothing more of the sentence is."""

    SAVED = ("confidence", "opened", "lost", "passed_frame", "_mt")
    MOST_HELD = RECENT_TOKENS  # so many tokens are drafted at a step while it is closed: enough for a confidence

    def __init__(self, model: GateModel, threshold: float):
        self.model, self.threshold = model, threshold
        self.confidence = 0.0  # at the newest question
        self.opened = self.lost = False
        self.passed_frame = 0  # of the stream, at the newest question that was answered yes
        self._mt = [0.0, 0.0, 0.0]  # sums over the written tokens

    @property
    def refused(self) -> bool:
        """Was the sentence, or the rest of it, not written? Asked when it is over."""
        return self.lost or not self.opened

    def most(self, tokens: int) -> int:
        """How many of so many tokens are to be drafted for the next question."""
        if self.lost:
            return 0
        return tokens if self.opened else min(tokens, self.MOST_HELD)

    def allows(self, found: Hypotheses, written: list, tokens: list, scores: list, frames: int) -> bool:
        """May these tokens be written now? If so, they are counted as written.

        found: in the sentence so far; written: the earlier tokens; scores: logits [V] that each of the new ones was
        chosen from; frames: of the stream so far."""
        if self.lost:
            return False
        asr, st = found.asr, found.st
        mt = token_sums(scores, tokens, self._mt)
        agrees = agreement([*written, *tokens], st.tokens)
        self.confidence = self.model(features(asr.sums, st.sums, mt, agrees, len(st.tokens), found.language))
        if self.confidence < self.threshold * (self.model.keep if self.opened else 1.0):
            self.lost = self.opened
            return False
        self.opened, self.passed_frame, self._mt = True, frames, mt
        return True
