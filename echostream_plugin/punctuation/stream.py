"""One stream of words: marks that are given once and never change, by a few rules around the network."""

from dataclasses import dataclass

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.punctuation.model import CASES, MARKS, Punctuator

END_MARKS = (".", "?")
LONGEST_SENTENCE = 60  # words without an end, after which the next comma ends the sentence; after twice as many, any


@dataclass(frozen=True)
class MarkedWord:
    """A word whose mark is decided. word: as it was given; mark: '', ',', '.' or '?'; case: of `CASES`; starts: is it
    the first of a sentence?"""

    word: str
    mark: str
    case: str
    starts: bool

    @property
    def ends(self) -> bool:
        """Does a sentence end after it?"""
        return self.mark in END_MARKS

    @property
    def text(self) -> str:
        """The word as it is printed."""
        if self.case == "upper":
            return self.word.upper() + self.mark
        if self.starts or self.case == "capital":
            return self.word[:1].upper() + self.word[1:] + self.mark
        return self.word + self.mark


class PunctuationStream:
    """Words in, marked words out, `delay` words later; what came out is final.

    The mark of a word is decided when `delay` words follow it, at a pause (`pause`) or at the end (`finish`). Memory is
    bounded, whether sentences end or not. The model is shared and only read, so streams may run in several threads."""

    SAVED = ("_state", "_words", "_since_end")

    def __init__(self, model: Punctuator, language: str, delay: int | None = 4):
        """language: one of the model's; delay: words, None for the longest that the model knows. Raises ConfigError."""
        self.model, self.delay = model, model.config.delay_of(delay)
        self._language = model.config.language_of(language)
        self.reset()

    def reset(self):
        """Forget everything: the next word begins a text."""
        self._state = self.model.initial_state()
        self._words = []  # undecided, in order
        self._since_end = 0  # decided words of the open sentence

    @property
    def pending(self) -> tuple[str, ...]:
        """The words that are not decided yet."""
        return tuple(self._words)

    @property
    def nbytes(self) -> int:
        """How much of the text the stream holds."""
        return self._state.nbytes + sum(map(len, self._words))

    @torch.inference_mode()
    def push(self, words: list[str]) -> list[MarkedWord]:
        """Take complete words (as `normalise` leaves them); returns those that are decided now, oldest first."""
        self._check(words)
        if not words:
            return []
        self._words += words
        marks, cases, self._state = self.model.step(list(words), self._language, self._state, self.delay)
        return self._mark(marks, cases)

    @torch.inference_mode()
    def pause(self) -> list[MarkedWord]:
        """The speaker pauses: all words are decided, with what there is after them."""
        marks, cases, self._state = self.model.decide_pending(self._state)
        return self._mark(marks, cases)

    @torch.inference_mode()
    def finish(self, words: list[str] = ()) -> list[MarkedWord]:
        """The text ends here, after these last words: all words are decided, and the last one ends its sentence. The
        next word begins a text.

        Where the last word of the text came out before without an end (at a pause), it stays as it is."""
        self._check(words)
        found = []
        if words:
            self._words += words
            marks, cases, self._state = self.model.step(list(words), self._language, self._state, self.delay)
            found = self._mark(marks, cases, last=len(self._words) == len(marks))
        marks, cases, self._state = self.model.decide_pending(self._state)
        found += self._mark(marks, cases, last=True)
        self.reset()
        return found

    @torch.inference_mode()
    def end_probability(self, words: list[str]) -> float:
        """How probable it is that a sentence ends after the last of these words, were they pushed (none: after the last
        undecided one), as far as the words before it tell; 0 where there is no such word. Changes nothing."""
        self._check(words)
        state = self._state
        if words:
            marks, _, state = self.model.step(list(words), self._language, state, self.delay)
        if state.pending.size(1):
            marks, _, _ = self.model.decide_pending(state)
        elif not words:
            return 0.0
        shares = marks[-1].softmax(dim=-1)
        return float(sum(shares[MARKS.index(end)] for end in END_MARKS))

    @staticmethod
    def _check(words: list):
        for word in words:
            if not isinstance(word, str) or not word or word != "".join(word.split()):
                raise ConfigError(f"punctuation takes words without spaces, got {word!r}")

    def _mark(self, marks: torch.Tensor, cases: torch.Tensor, last: bool = False) -> list[MarkedWord]:
        found = []
        for place in range(len(marks)):
            scores = marks[place]
            mark = MARKS[int(scores.argmax())]
            mark = self._rules(mark, scores, last and place == len(marks) - 1)
            case = CASES[int(cases[place].argmax())]
            found.append(MarkedWord(self._words[place], mark, case, self._since_end == 0))
            self._since_end = 0 if mark in END_MARKS else self._since_end + 1
        del self._words[: len(marks)]
        return found

    def _rules(self, mark: str, scores: torch.Tensor, last: bool) -> str:
        """A text ends with an end; so does a sentence that is too long, at its next comma or at once."""
        length = self._since_end + 1
        too_long = length >= 2 * LONGEST_SENTENCE or (mark == "," and length >= LONGEST_SENTENCE)
        if mark in END_MARKS or not (last or too_long):
            return mark
        return max(END_MARKS, key=lambda end: float(scores[MARKS.index(end)]))
