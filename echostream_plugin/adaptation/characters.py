"""The letters of a CTC head, and how many of them come out wrong."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import torch
from rapidfuzz.distance.Levenshtein import distance as edit_distance
from torch import Tensor

RARE = 2e-5  # letters of a smaller share are left out


def normalise(text: str) -> str:
    """Lower case, letters (with their accents), digits and single spaces only."""
    text = unicodedata.normalize("NFC", text).lower()
    return " ".join(re.sub(r"[\W_]+", " ", text).split())


@dataclass(frozen=True)
class Characters:
    """Letters and their numbers, which begin with 1: 0 is CTC's blank."""

    letters: str

    @classmethod
    def of(cls, texts) -> "Characters":
        """Those of a training set, the space among them."""
        counts = Counter(letter for text in texts for letter in normalise(text))
        least = RARE * counts.total()
        return cls("".join(sorted(letter for letter, count in counts.items() if count >= least)))

    def __len__(self) -> int:
        return len(self.letters) + 1

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's letters after `normalise`, from 1; what is no letter of these is left out."""
        places = {letter: i + 1 for i, letter in enumerate(self.letters)}
        return [places[letter] for letter in normalise(text) if letter in places]

    def decode(self, log_probs: Tensor) -> str:
        """The greedy reading of log_probs [S, V]."""
        best = torch.unique_consecutive(log_probs.argmax(-1)).tolist()
        return " ".join("".join(self.letters[i - 1] for i in best if i).split())


def error_rates(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """WER and CER in percent of (hypothesis, reference) pairs."""
    totals = []
    for split in (str.split, list):
        errors = sum(edit_distance(split(reference), split(hypothesis)) for hypothesis, reference in pairs)
        totals.append(100 * errors / max(1, sum(len(split(reference)) for _, reference in pairs)))
    return tuple(totals)
