"""95 % intervals of what an evaluation measures: bootstrap over utterances for corpus scores (B. Efron and R.
Tibshirani, "An Introduction to the Bootstrap", 1993; P. Koehn, "Statistical Significance Tests for Machine Translation
Evaluation", EMNLP 2004), Wilson's interval for shares, which does not vanish where none of a few was found."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from echostream_plugin.evaluation.normalize import normalize

SAMPLES = 1000
SEED = 1
Z = 1.959964  # of the normal distribution, 97.5 %


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self):
        value, low, high = (f"{number:.{places(self.value)}f}" for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def places(value: float) -> int:
    """Decimals to print."""
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2


def bootstrap(count: int, statistic: Callable[[np.ndarray], float], samples: int = SAMPLES) -> Interval:
    """The statistic over `count` utterances and its percentile interval.

    statistic: takes indices [count] of utterances, drawn with replacement, and gives the score of that corpus. Two
    statistics of the same utterances see the same draws, so a difference or a ratio inside one is a paired one."""
    generator = np.random.default_rng(SEED)
    drawn = [statistic(generator.integers(count, size=count)) for _ in range(samples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(statistic(np.arange(count))), float(low), float(high))


def share(found: int, of: int) -> Interval:
    """Percent of `of` that were found, with Wilson's interval; of none: nothing is known."""
    if not of:
        return Interval(0.0, 0.0, 100.0)
    rate, spread = found / of, Z**2 / of
    centre = (rate + spread / 2) / (1 + spread)
    half = Z * np.sqrt(rate * (1 - rate) / of + spread / (4 * of)) / (1 + spread)
    return Interval(100 * rate, float(100 * max(0.0, centre - half)), float(100 * min(1.0, centre + half)))


class CorpusBleu:
    """BLEU (sacrebleu, 13a) of any selection of utterances, after `normalize`, as `scores.bleu`."""

    def __init__(self, hypotheses, references):
        import sacrebleu

        metric = sacrebleu.BLEU(tokenize="13a", effective_order=True)
        self._score = sacrebleu.BLEU.compute_bleu
        self._few = len(references) < 10
        scores = [
            metric.sentence_score(normalize(hypothesis), [normalize(reference)])
            for hypothesis, reference in zip(hypotheses, references, strict=True)
        ]
        self._counts = np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores])

    def __call__(self, chosen) -> float:
        *ngrams, hypothesis, reference = self._counts[chosen].sum(axis=0).tolist()
        correct, total = ngrams[: len(ngrams) // 2], ngrams[len(ngrams) // 2 :]
        return self._score(correct, total, hypothesis, reference, effective_order=self._few).score


class CorpusChrf:
    """chrF (sacrebleu) of any selection of utterances, after `normalize`."""

    def __init__(self, hypotheses, references):
        import sacrebleu

        self._metric = sacrebleu.CHRF()
        sides = [normalize(h) for h in hypotheses], [[normalize(r) for r in references]]
        # what sacrebleu's own bootstrap sums over: the library has no public name for it
        self._counts = np.array(self._metric._extract_corpus_statistics(*sides))

    def __call__(self, chosen) -> float:
        return self._metric._compute_score_from_stats(self._counts[chosen].sum(axis=0).tolist()).score


class CorpusWer:
    """Word error rate in percent of any selection of utterances, as `scores.wer`."""

    def __init__(self, hypotheses, references):
        import jiwer

        self._errors, self._words = np.zeros(len(references)), np.zeros(len(references))
        pairs = zip(map(normalize, hypotheses), map(normalize, references), strict=True)
        for index, (hypothesis, reference) in enumerate(pairs):
            self._words[index] = len(reference.split())
            if reference:
                counts = jiwer.process_words(reference, hypothesis)
                self._errors[index] = counts.substitutions + counts.deletions + counts.insertions
            else:
                self._errors[index] = len(hypothesis.split())

    def __call__(self, chosen) -> float:
        return 100.0 * float(self._errors[chosen].sum() / max(self._words[chosen].sum(), 1))

    def errors(self, index: int) -> int:
        """Words of one utterance that are wrong."""
        return int(self._errors[index])


def mean(values) -> Callable[[np.ndarray], float]:
    """The mean of a selection of values, as a statistic."""
    values = np.asarray(values, dtype=float)
    return lambda chosen: float(values[chosen].mean())
