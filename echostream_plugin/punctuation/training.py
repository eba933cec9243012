"""Training of the punctuator: random windows of texts, simulated recognition errors, drawn delays."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echostream_plugin.modules.seeded_training import SeededTraining
from echostream_plugin.punctuation.model import MARKS, Punctuator, word_rows

UNKNOWN = -100  # label that no loss is taken of
LONGEST_LINE = 256  # words; a longer one is drawn in pieces


@dataclass(frozen=True)
class Recipe:
    """How a punctuator is trained. window: words; rows_factor: of the rate, for the embedding of words and n-grams;
    delays: drawn per batch, None is the longest; mid_share: of the windows begin in the middle of a sentence;
    clean_share: have no simulated errors, the others up to most_errors."""

    steps: int = 4000
    batch: int = 32
    window: int = 64
    rate: float = 2e-3
    rows_factor: float = 5.0
    warmup: int = 200
    delays: tuple = (0, 1, 2, 4, 9, None)
    mid_share: float = 0.2
    clean_share: float = 0.4
    most_errors: float = 0.15
    most_sentences: int = 8
    case_weight: float = 0.5
    seed: int = 1


class Windows:
    """Random windows of texts; one language is as likely as another, and so is each of its texts.

    texts: language -> list of (Text, consecutive): lines of a text that is not consecutive are joined at random.
    noise: `with_errors`."""

    def __init__(self, texts: dict, languages: tuple, recipe: Recipe, noise):
        self.recipe, self.noise, self.languages = recipe, noise, languages
        texts = {name: [(text, order) for text, order in found if len(text)] for name, found in texts.items()}
        self.sources = [(languages.index(name), text, order) for name, found in texts.items() for text, order in found]
        weights = np.array([1 / len(texts[name]) for name, found in texts.items() for _ in found])
        self.weights = weights / weights.sum()
        places = [lines_of(text) for _, text, _ in self.sources]
        self.starts, self.ends = [starts for starts, _ in places], [ends for _, ends in places]

    def draw(self, rng: np.random.Generator):
        """(language, words, marks, cases, ends): one window; `ends` says whether its text ends there."""
        recipe = self.recipe
        number = int(rng.choice(len(self.sources), p=self.weights))
        language, text, consecutive = self.sources[number]
        places = self._lines(number, consecutive, rng)
        window = type(text)(
            [text.words[place] for place in places], text.marks[places], text.cases[places], text.ends[places]
        )
        if rng.random() >= recipe.clean_share:
            window = self.noise(window, float(rng.uniform(0, recipe.most_errors)), rng)
        begin = 0
        if rng.random() < recipe.mid_share and len(window) > 4:
            begin = int(rng.integers(1, len(window) // 2))
        stop = min(len(window), begin + recipe.window)
        ends = stop == len(window)
        return language, window.words[begin:stop], window.marks[begin:stop], window.cases[begin:stop], ends

    def _lines(self, number: int, consecutive: bool, rng: np.random.Generator) -> np.ndarray:
        starts, ends = self.starts[number], self.ends[number]
        count = int(rng.integers(1, self.recipe.most_sentences + 1))
        if consecutive:
            first = int(rng.integers(0, max(1, len(starts) - count)))
            chosen = range(first, min(len(starts), first + count))
        else:
            chosen = rng.integers(0, len(starts), size=count)
        return np.concatenate([np.arange(starts[i], ends[i]) for i in chosen])

    def batch(self, rng: np.random.Generator, size: int, delay: int, buckets: int):
        """Tensors of `size` windows: rows [B, T, G], languages [B], lengths [B], marks and cases [B, T]. Labels whose
        `delay` following words were cut off are UNKNOWN."""
        drawn = []
        while not drawn:  # errors may leave nothing of a word that stands alone
            drawn = [window for window in (self.draw(rng) for _ in range(size)) if window[1]]
        longest = max(len(window[1]) for window in drawn)
        rows = torch.zeros(len(drawn), longest, word_rows(["a"], buckets).size(1), dtype=torch.long)
        marks, cases = torch.full((2, len(drawn), longest), UNKNOWN).unbind(0)
        for i, (_, words, mark, case, ends) in enumerate(drawn):
            n = len(words)
            rows[i, :n] = word_rows(words, buckets)
            known = n if ends else max(0, n - delay)
            marks[i, :known], cases[i, :known] = torch.from_numpy(mark[:known]), torch.from_numpy(case[:known])
        languages = torch.tensor([window[0] for window in drawn])
        return rows, languages, torch.tensor([len(window[1]) for window in drawn]), marks, cases


def lines_of(text) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines of a `Text` begin and end: [n] each. One of more than LONGEST_LINE words, which is no sentence,
    counts as several that end with sentences, where it has any."""
    starts, ends, begin = [], [], 0
    for end in np.flatnonzero(text.ends) + 1:
        while end - begin > LONGEST_LINE:
            stops = np.flatnonzero(text.marks[begin : begin + LONGEST_LINE] >= MARKS.index("."))
            starts.append(begin)
            begin += int(stops[-1]) + 1 if len(stops) else LONGEST_LINE
            ends.append(begin)
        starts.append(begin)
        ends.append(int(end))
        begin = int(end)
    return np.array(starts), np.array(ends)


def loss_of(model: Punctuator, batch, delay: int, case_weight: float) -> tuple[Tensor, Tensor]:
    """Cross entropy of the marks, and of marks and cases together as it is minimised."""
    rows, languages, lengths, marks, cases = batch
    mark_logits, case_logits = model(rows, languages, lengths, delay)
    of_marks = F.cross_entropy(mark_logits.flatten(0, 1), marks.flatten(), ignore_index=UNKNOWN)
    of_cases = F.cross_entropy(case_logits.flatten(0, 1), cases.flatten(), ignore_index=UNKNOWN)
    return of_marks, of_marks + case_weight * of_cases


class Training(SeededTraining):
    """The updates of a punctuator."""

    def __init__(self, model: Punctuator, windows: Windows, recipe: Recipe):
        self.model, self.windows, self.recipe = model, windows, recipe
        rows = [model.words.weight]  # each is met now and then only
        rest = [parameter for parameter in model.parameters() if parameter is not rows[0]]
        groups = [{"params": rows, "factor": recipe.rows_factor, "weight_decay": 0.0}, {"params": rest, "factor": 1.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
        words = [len(text) for _, text, _ in windows.sources]
        made_by = repr((dataclasses.asdict(recipe), dataclasses.asdict(model.config), words))
        super().__init__(model, optimizer, recipe.steps, recipe.seed, made_by, clip_norm=1.0)

    def update(self) -> float:
        """One update in place; returns the loss of the marks before it."""
        model, recipe, rng = self.model.train(), self.recipe, self._draw()
        remaining = 1 - self.done / (recipe.steps + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * recipe.rate * min(self.done / recipe.warmup, remaining**0.5)
        drawn, longest = recipe.delays[int(rng.integers(len(recipe.delays)))], model.config.right_words
        delay = longest if drawn is None else min(drawn, longest)
        batch = self.windows.batch(rng, recipe.batch, delay, model.config.buckets)
        of_marks, loss = loss_of(model, batch, delay, recipe.case_weight)
        return self._learn(loss, of_marks)
