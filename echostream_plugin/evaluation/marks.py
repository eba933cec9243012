"""How well marks are put into a stream of words: scores of a punctuator and of baselines that have no network."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from echostream_plugin.data.punctuated import Text
from echostream_plugin.evaluation.intervals import bootstrap
from echostream_plugin.punctuation import MARKS, PunctuationStream, Punctuator
from echostream_plugin.punctuation.model import word_rows

WINDOW = 400  # words that the parallel form takes at a time
BLOCK = 100  # words that a resampled text is put together from
ENDS = (MARKS.index("."), MARKS.index("?"))


class Bigrams:
    """A baseline: the mark that a training text had most often between two words, or, where they never met, most often
    after the first one."""

    def __init__(self, texts: list):
        self._pairs, self._firsts = {}, {}
        for text in texts:
            for word, following, mark in zip(text.words, [*text.words[1:], ""], text.marks.tolist(), strict=True):
                self._pairs.setdefault((word, following), Counter())[mark] += 1
                self._firsts.setdefault(word, Counter())[mark] += 1

    def __call__(self, words: list) -> np.ndarray:
        """[n] numbers of MARKS."""
        marks = []
        for word, following in zip(words, [*words[1:], ""], strict=True):
            counts = self._pairs.get((word, following)) or self._firsts.get(word) or Counter({0: 1})
            marks.append(counts.most_common(1)[0][0])
        return np.array(marks)


def periodic(words: list, every: int) -> np.ndarray:
    """A baseline: a period after every so many words."""
    marks = np.zeros(len(words), dtype=np.int64)
    marks[every - 1 :: every] = MARKS.index(".")
    return marks


def sentence_words(text: Text) -> int:
    """Mean length of the text's sentences."""
    return max(2, round(len(text) / max(1, int(np.isin(text.marks, ENDS).sum()))))


@torch.inference_mode()
def marks_of(model: Punctuator, language: str, words: list, delay: int) -> np.ndarray:
    """[n] marks of a text by the parallel form, in windows that overlap by what a mark can depend on."""
    found, number = [], model.config.language_of(language)
    before = model.config.left_words * model.config.layers
    for start in range(0, len(words), WINDOW):
        first, last = max(0, start - before), min(len(words), start + WINDOW + delay)
        rows = word_rows(words[first:last], model.config.buckets).unsqueeze(0)
        marks, _ = model(rows, torch.tensor([number]), torch.tensor([last - first]), delay)
        found.append(marks[0, start - first : start - first + WINDOW].argmax(1)[: min(WINDOW, len(words) - start)])
    return torch.cat(found).numpy()


@dataclass(frozen=True)
class Score:
    """Percent, the half width of the 95 % interval of F1 (resampled blocks of the text) and the support."""

    precision: float
    recall: float
    f1: float
    within: float
    count: int


def score(given: np.ndarray, found: np.ndarray, numbers: tuple) -> Score:
    """Of a mark, or of several that count as one. given, found: [n] numbers of MARKS."""
    given, found = np.isin(given, numbers), np.isin(found, numbers)
    starts = np.arange(0, len(given), BLOCK)
    hits, said, true = (np.add.reduceat(part.astype(int), starts) for part in (given & found, found, given))
    f1 = bootstrap(len(starts), lambda blocks: _f1(hits[blocks].sum(), said[blocks].sum(), true[blocks].sum()))
    precision, recall = (100 * int(hits.sum()) / max(1, int(of.sum())) for of in (said, true))
    return Score(precision, recall, f1.value, (f1.high - f1.low) / 2, int(true.sum()))


def _f1(hits: int, said: int, true: int) -> float:
    return 100 * 2 * hits / max(1, said + true)


def false_ends(given: np.ndarray, found: np.ndarray) -> float:
    """Sentence ends that are none, per 100 words."""
    return 100 * float((np.isin(found, ENDS) & ~np.isin(given, ENDS)).mean())


def changed_marks(model: Punctuator, words: list, streams: int, seed: int, delays=(0, 1, 2, 4, 9)) -> int:
    """Marks of random streams that other words to come would have changed. Each is cut out of `words` and pushed in
    random pieces; after each of them, what was said so far is compared with a stream in which other words follow."""
    random, wrong, language = np.random.default_rng(seed), 0, model.config.languages[0]
    for _ in range(streams):
        delay, count = int(random.choice(delays)), int(random.integers(3, 24))
        start = int(random.integers(0, len(words) - count))
        stream, said, place = PunctuationStream(model, language, delay), [], 0
        while place < count:
            size = min(int(random.integers(1, 9)), count - place)
            said += stream.push(words[start + place : start + place + size])
            place += size
            other = int(random.integers(0, len(words) - delay))
            changed = [*words[start : start + place], *words[other : other + delay]]
            said_again = PunctuationStream(model, language, delay).push(changed)
            wrong += sum(a != b for a, b in zip(said, said_again, strict=False)) + max(0, len(said) - len(said_again))
    return wrong


def held_bytes(model: Punctuator, words: list, count: int, delay: int) -> list:
    """Bytes of the state of a stream after each tenth of `count` words that never end a sentence, one by one."""
    stream, sizes = PunctuationStream(model, model.config.languages[0], delay), []
    for number in range(1, count + 1):
        stream.push([words[number % len(words)]])
        if number % (count // 10) == 0:
            sizes.append(stream.nbytes)
    return sizes
