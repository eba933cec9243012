"""Which words of a long translation belong to which sentence of the reference.

`soft_segments` is the SoftSegmenter of P. Polák et al., "Better Late Than Never: Evaluation of Latency Metrics for
Simultaneous Speech-to-Text Translation" (arXiv 2509.17349), as OmniSTEval 0.1.10 has it on words, to the same places;
there an hour takes minutes and gigabytes, here rows of the alignment are arrays. `mwer_segments` is what StreamLAAL is
defined on (package mweralign).
"""

import unicodedata

import numpy as np

PUNCTUATION = frozenset(".!?,;:-()。！？，；：—（）ー")
MATCH, DELETE, INSERT = range(3)


class SegmentationError(RuntimeError):
    """Words that cannot be given to sentences; the message says what is missing."""


def soft_segments(words: list[str], references: list[str]) -> list[int | None]:
    """The number of the reference that each word belongs to; None for one that belongs to none (a mark at the very
    start, for example). Words are compared by the characters they have in common, case aside, marks only with marks."""
    wanted, owners = _reference_words(references)
    heard = [unicodedata.normalize("NFKC", word).lower() for word in words]
    if not wanted:
        raise SegmentationError("the references have no words to give a translation's words to")
    if not heard:
        return []
    likeness = Likeness(wanted, heard)
    pairs = _aligned(likeness, len(wanted), len(heard))
    return [None if place is None else owners[place] for place in _owned(pairs, likeness, len(heard))]


def _reference_words(references: list[str]) -> tuple[list[str], list[int]]:
    wanted, owners = [], []
    for number, reference in enumerate(references):
        for word in reference.strip().lower().split():
            wanted.append(unicodedata.normalize("NFKC", word).lower())
            owners.append(number)
    return wanted, owners


class Likeness:
    """How alike words are: the share of their characters that both have (Jaccard)."""

    def __init__(self, wanted: list[str], heard: list[str]):
        """wanted: of the references; heard: of the translation."""
        self._rows, row_words = _numbered(wanted)
        self._columns, column_words = _numbered(heard)
        characters = {c: number for number, c in enumerate(sorted(set("".join(row_words + column_words))))}
        left, right = (_sets(words, characters) for words in (row_words, column_words))
        common = left @ right.T
        self._table = common / (left.sum(1)[:, None] + right.sum(1)[None] - common)
        marks = [np.array([word in PUNCTUATION for word in words]) for words in (row_words, column_words)]
        self._table[marks[0][:, None] ^ marks[1][None]] = -np.inf

    def row(self, wanted: int) -> np.ndarray:
        """[m]: of one reference word with every word of the translation."""
        return self._table[self._rows[wanted]][self._columns]

    def of(self, wanted: int | None, heard: int) -> float:
        """Of two words; of no reference word: minus infinity."""
        return -np.inf if wanted is None else float(self._table[self._rows[wanted], self._columns[heard]])


def _numbered(words: list[str]) -> tuple[np.ndarray, list[str]]:
    """The number of each word among the different ones, and these."""
    known = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return np.array([known[word] for word in words]), list(known)


def _sets(words: list[str], characters: dict) -> np.ndarray:
    """[words, characters]: 1 where a word has a character."""
    table = np.zeros((len(words), len(characters)))
    for number, word in enumerate(words):
        table[number, [characters[c] for c in set(word)]] = 1
    return table


def _aligned(likeness: Likeness, wanted: int, heard: int) -> list[tuple]:
    """Pairs (reference word, word) of the best alignment, None where one has no partner; gaps cost nothing."""
    moves = np.empty((wanted, heard), dtype=np.uint8)
    before = np.zeros(heard + 1)
    for row in range(wanted):
        match, delete = before[:-1] + likeness.row(row), before[1:]
        now = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(np.maximum(match, delete), 0.0))])
        insert = now[:-1]
        moves[row] = np.where(delete >= insert, DELETE, INSERT)
        moves[row][(match >= delete) & (match >= insert)] = MATCH
        before = now
    pairs, row, column = [], wanted, heard
    while row or column:
        move = DELETE if not column else INSERT if not row else moves[row - 1, column - 1]
        row, column = row - (move != INSERT), column - (move != DELETE)
        pairs.append((None if move == INSERT else row, None if move == DELETE else column))
    return pairs[::-1]


def _owned(pairs: list[tuple], likeness: Likeness, heard: int) -> list[int | None]:
    """The reference word that each word goes to: its partner, or of the partners around it the more alike one; words in
    a row that have none go together, once the later partner was chosen."""
    following = _following([wanted for wanted, _ in pairs])
    owned, last, until, ahead = [None] * heard, None, 0, None
    for place, (wanted, word) in enumerate(pairs):
        if wanted is None:  # then there is a word
            if place < until:
                wanted = ahead
            else:
                until, ahead = following[place]
                if likeness.of(ahead, word) > likeness.of(last, word):
                    wanted = ahead
                else:
                    wanted, until = last, place
        if wanted is not None:
            last = wanted
        if word is not None:
            owned[word] = wanted
    return owned


def _following(wanted: list) -> list[tuple]:
    """For each place the next one, from itself on, that has a reference word, and this word."""
    found, newest = [], (len(wanted), None)
    for place in range(len(wanted) - 1, -1, -1):
        newest = newest if wanted[place] is None else (place, wanted[place])
        found.append(newest)
    return found[::-1]


def mwer_segments(words: list[str], references: list[str]) -> list[int]:
    """The number of the reference that each word belongs to, with the fewest word errors."""
    try:
        import mweralign
    except ImportError as error:
        raise SegmentationError(f"StreamLAAL needs mweralign: pip install mweralign==1.4.1 ({error})") from error
    if not words:
        return []
    lines = mweralign.align_texts("\n".join(references), " ".join(words)).split("\n")
    counts = [len(line.split()) for line in lines]
    if len(counts) != len(references) or sum(counts) != len(words):
        raise SegmentationError(f"mweralign gave {sum(counts)} words in {len(counts)} lines for {len(words)} words")
    return [number for number, count in enumerate(counts) for _ in range(count)]
