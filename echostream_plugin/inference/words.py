"""Target text as it is typed: complete words and sentence ends, and the dictionary's subwords of a word."""

import re
import unicodedata

from echostream_plugin.constants import SPECIALS, UNK, WORD_START
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.errors import BundleError

LONGEST_WORD = 50  # characters; what is longer is no word, and is not kept
SENTENCE_END = None
_CLOSING = "\"'”’»)]}"


def normalise(text: str) -> str:
    """What the model reads and writes: lower case, no punctuation (StreamSpeech's rule), one space between words.

    Accents are one character with their letter, and marks that no letter takes in stay: vowel signs of Hindi or Thai,
    which StreamSpeech's languages do not have."""
    text = unicodedata.normalize("NFC", text.lower())
    return " ".join(re.sub(r"[^\w\s]", _kept_mark, text).split())


def _kept_mark(found: re.Match) -> str:
    """What stays of a character that is no letter, digit or space."""
    return found[0] if unicodedata.category(found[0]).startswith("M") else ""


def without_outer_marks(word: str) -> str:
    """A word as it is written, without the marks before and after it: those inside (3.50, o'clock, ex-king) stay, and
    so do signs that are read (5€, -2). A word that is nothing but marks stays."""
    kept = [place for place, character in enumerate(word) if not _is_mark(word, place, character)]
    return word[kept[0] : kept[-1] + 1] if kept else word


def _is_mark(word: str, place: int, character: str) -> bool:
    """Is it punctuation, but for a minus or a percent sign at a number?"""
    number = character == "-" and word[place + 1 : place + 2].isdigit() or character in "%‰" and place > 0
    return unicodedata.category(character).startswith("P") and not number


def ends_sentence(word: str) -> bool:
    """Does a word as it is written end with a full stop, a question or an exclamation mark?"""
    return word.rstrip(_CLOSING).endswith(tuple(".?!…؟।。？！"))


def ends_question(word: str) -> bool:
    """Does a word as it is written end with a question mark?"""
    return word.rstrip(_CLOSING).endswith("?")


def ends_clause(word: str) -> bool:
    """Does a word as it is written end with a comma, semicolon, colon or dash?"""
    return word.rstrip(_CLOSING).endswith(tuple(",;:–—،؛，、；："))


def word_times(dictionary: Dictionary, tokens: list[int], frames: list[int], frame_ms: int) -> tuple:
    """Where the words of `dictionary.text(tokens)` lie: (start_ms, end_ms) of each, from the start of its first token
    to the end of the frame in which its last one starts; frames: at which each token starts."""
    times, open_word = [], False
    for token, at in zip(tokens, frames, strict=True):
        for character in dictionary.text([UNK, token]):  # the space before a word is silent only at the start
            if character.isspace():
                open_word = False
                continue
            start = times.pop()[0] if open_word else float(at * frame_ms)
            times.append((start, float((at + 1) * frame_ms)))
            open_word = True
    return tuple(times)


class WordReader:
    """Cuts growing text into words. A word is complete when white space follows it, so what comes out does not depend
    on how the text was cut into pushes."""

    def __init__(self, lines: bool = False):
        """lines: every line is a sentence; else only an empty line ends one that has no full stop."""
        self._newlines_of_end = 1 if lines else 2
        self._word = ""
        self._newlines = 0

    def push(self, text: str) -> list:
        """The words of the text that are now complete, as written, each sentence followed by SENTENCE_END."""
        found = []
        for run in re.findall(r"\s+|\S+", text):
            if not run.isspace():
                self._newlines = 0
                self._word = (self._word + run[: LONGEST_WORD + 1])[: LONGEST_WORD + 1]
                continue
            found += self.finish()
            before, self._newlines = self._newlines, self._newlines + run.count("\n")
            if before < self._newlines_of_end <= self._newlines:
                found.append(SENTENCE_END)
        return found

    def finish(self) -> list:
        """The word that waited for what follows it."""
        word, self._word = self._word, ""
        if not word:
            return []
        return [word, SENTENCE_END] if ends_sentence(word) else [word]


class Subwords:
    """The subwords of the target dictionary that make a word: by the SentencePiece model that made the dictionary, else
    the fewest that do."""

    def __init__(self, dictionary: Dictionary, model=None):
        """model: path of a SentencePiece model."""
        self._index = {symbol: index for index, symbol in enumerate(dictionary.symbols) if index >= len(SPECIALS)}
        self._longest = max(map(len, self._index), default=1)
        self._processor = None
        if model is not None:
            import sentencepiece  # here, so that translating does not need it

            try:
                self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
            except (OSError, RuntimeError) as error:
                raise BundleError(f"{model}: not a readable SentencePiece model ({error})") from error

    def encode(self, word: str) -> list[int]:
        """word: normalised, without spaces. Its tokens; <unk> where the dictionary has no subword."""
        if self._processor is None:
            return self._fewest(WORD_START + word)
        return [self._index.get(subword, UNK) for subword in self._processor.encode(word, out_type=str)]

    def spells(self, tokens: list[int], word: str) -> bool:
        """Is a word of several characters put together from single ones?"""
        return len(word) > 2 and len(tokens) >= len(word)

    def _fewest(self, text: str) -> list[int]:
        """The shortest sequence of subwords that is `text`, of equally short ones that with the longest first ones; a
        character without a subword is <unk>, which is taken only where nothing else serves."""
        best = [(0, [])]  # for each suffix of text, the shortest first: (cost, tokens)
        for start in reversed(range(len(text))):
            choices = [(best[-1][0] + len(text) + 1, [UNK, *best[-1][1]])]
            for length in range(min(self._longest, len(text) - start), 0, -1):
                token = self._index.get(text[start : start + length])
                if token is not None:
                    cost, rest = best[len(text) - start - length]
                    choices.append((cost + 1, [token, *rest]))
            best.append(min(choices, key=lambda choice: choice[0]))
        return best[-1][1]
