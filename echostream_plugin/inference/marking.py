"""Texts as they are printed: words with marks and capital letters, each given once, when its mark is decided."""

from dataclasses import replace

from echostream_plugin.inference.subtitles import sentences
from echostream_plugin.inference.words import ends_clause, ends_question, normalise, without_outer_marks
from echostream_plugin.punctuation import PunctuationStream

SPANISH = "es"
ASKING = frozenset("qué quién quiénes cómo cuándo dónde adónde cuál cuáles cuánto cuánta cuántos cuántas".split())
BEFORE_ASKING = frozenset("a con de desde en hacia hasta para por sobre y".split())


class MarkedText:
    """One side's text of one sentence, which only grows: a word is added with the mark after it and its case when
    `delay` words follow it, or when the text is closed. It is printed as it was recognised or written, but for marks
    around it, which the stream's take the place of.

    words: as printed; ended: a sentence ended within the words that were read; where `stops`, no word is added after
    that."""

    SAVED = ("stream", "words", "ended", "_taken")

    def __init__(self, stream: PunctuationStream, marks: bool = True, stops: bool = False):
        """marks: print them (else the words as they came); stops: the text ends where a sentence does."""
        self.stream, self.marks, self.stops = stream, marks, stops
        self.words = []
        self.ended = False
        self._taken = 0  # words that the stream was given

    @property
    def text(self) -> str:
        """The words with their marks."""
        return " ".join(self.words)

    def read(self, words: list, closed: bool = False):
        """words: all complete words of the text so far, as recognised or written; closed: there will be no more."""
        new = [normalise(word) or word for word in words[self._taken :]]
        spelled = dict(enumerate(words[len(self.words) :]))
        decided = self.stream.finish(new) if closed else self.stream.push(new)
        self._taken = len(words)
        for place, marked in enumerate(decided):
            if self.ended and self.stops:
                break
            word = spelled[place]
            self.words.append(replace(marked, word=without_outer_marks(word)).text if self.marks else word)
            self.ended = self.ended or marked.ends

    def may_end(self, words: list, probability: float) -> bool:
        """Is it at least so probable that a sentence ends after the last of these words? words: as of `read`, those
        that are not sure to be complete included; nothing changes."""
        return self.stream.end_probability([normalise(word) or word for word in words[self._taken :]]) >= probability


def marked(stream: PunctuationStream, text: str) -> str:
    """A whole text with its marks; stream: a new one."""
    found = MarkedText(stream)
    found.read(text.split(), closed=True)
    return found.text


def with_opening_marks(text: str, language: str) -> str:
    """A text that is final, with the mark that opens each question in Spanish. Live texts cannot have it: that a
    sentence is a question shows at its end, when its first word is long said. There is no mark of exclamations."""
    if language[:2].lower() != SPANISH or "?" not in text:
        return text
    return " ".join(_opened(sentence) for sentence in sentences(text))


def _opened(sentence: str) -> str:
    """A question begins with its first clause that begins with an interrogative, else with the sentence."""
    if not ends_question(sentence) or "¿" in sentence:
        return sentence
    words = sentence.split()
    starts = [0, *(place + 1 for place, word in enumerate(words[:-1]) if ends_clause(word))]
    place = next((start for start in starts if _asks(*map(normalise, words[start : start + 2]))), 0)
    words[place] = "¿" + words[place]
    return " ".join(words)


def _asks(word: str, following: str = "") -> bool:
    return word in ASKING or (word in BEFORE_ASKING and following in ASKING)
