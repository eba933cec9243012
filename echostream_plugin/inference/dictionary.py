"""fairseq's text dictionaries, read without fairseq."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.constants import BLANK, EOS, PAD, SPECIALS, UNK, WORD_START
from echostream_plugin.inference.errors import BundleError

__all__ = ["BLANK", "EOS", "PAD", "SPECIALS", "UNK", "WORD_START", "Dictionary"]


@dataclass(frozen=True)
class Dictionary:
    """Symbols by index; the first four are fairseq's special symbols."""

    symbols: tuple

    def __len__(self):
        return len(self.symbols)

    @classmethod
    def read(cls, path) -> "Dictionary":
        """Read `symbol count` lines as `fairseq.data.Dictionary.load` does."""
        path = Path(path)
        if not path.is_file():
            raise BundleError(f"{path}: no such dictionary")
        symbols = list(SPECIALS)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: not a text file in UTF-8 ({error})") from error
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip().rsplit(" ", 1)
            if len(fields) != 2 or not fields[1].lstrip("-").isdigit():
                raise BundleError(f"{path}:{number}: expected '<symbol> <count>', got {line[:60]!r}")
            symbols.append(fields[0])
        if len(set(symbols)) < len(symbols):
            twice = sorted(symbol for symbol, count in Counter(symbols).items() if count > 1)[:10]
            raise BundleError(
                f"{path}: symbols that occur twice (the four special ones are implied): {', '.join(twice)}"
            )
        return cls(tuple(symbols))

    def starts_word(self, token: int) -> bool:
        """Does the piece begin a word (SentencePiece's low line)?"""
        return self.symbols[token].startswith(WORD_START)

    def text(self, tokens) -> str:
        """Subwords joined to text, which grows only at its end as tokens are added. Special symbols are silent, but
        <unk> is a space."""
        written = []
        for token in tokens:
            if token == UNK:
                written.append(" ")
            elif token > UNK:
                written.append(self.symbols[token].replace(WORD_START, " "))
        return "".join(written).removeprefix(" ")
