"""Options as words of a command line, and as lists of json."""

from __future__ import annotations  # annotations are then strings, as in some files that add options

from argparse import ArgumentParser
from dataclasses import asdict, dataclass, fields

import pytest

from echostream_plugin.cli_options import add_option_flags, options_of
from echostream_plugin.config import ConfigError, check_options, option
from echostream_plugin.inference import options
from echostream_plugin.inference.arguments import word, words
from echostream_plugin.inference.endpointing import ENDPOINTERS


@dataclass(frozen=True)
class Given:
    steps: tuple[int, ...] = option((1, 2), "numbers")
    weights: tuple = option((0.5,), "more numbers")
    name: str = option("a", "a word")
    count: int = option(3, "a number")
    loud: bool = option(True, "yes or no")
    whole: bool | None = option(None, "yes, no or neither")

    def __post_init__(self):
        check_options(self)


def read(command: list) -> dict:
    parser = ArgumentParser()
    add_option_flags(parser, Given)
    return options_of(parser.parse_args(command), Given)


def test_what_words_write_flags_read():
    given = Given((3, 4, 5), (0.25, 1.0), "b", 7, False, True)
    assert words(asdict(given))[:4] == ["--steps", "3,4,5", "--weights", "0.25,1.0"]
    assert Given(**read(words(asdict(given)))) == given
    assert set(read([]).values()) == {None} and word([1, 2]) == "1,2"


def test_a_tuple_is_checked_as_one():
    with pytest.raises(ConfigError, match="steps: expected tuple, got 3"):
        Given(steps=3)


def test_lists_of_a_bundle_are_tuples_again(monkeypatch):
    @dataclass(frozen=True)
    class Session(options.SessionOptions):
        dice: tuple = option((1, 6), "a policy's own")

    monkeypatch.setattr(options, "SessionOptions", Session)
    assert options.named_options({"dice": [2, 3], "chunk_ms": 640}).dice == (2, 3)


def test_what_an_endpointer_owns_is_a_session_option(monkeypatch):
    """Of each in the registry, and of one that is added: the class says it, and nobody else."""
    owned = {f.name for kind in ENDPOINTERS.values() if kind.Options for f in fields(kind.Options)}
    assert "long_pause_ms" in owned <= {f.name for f in fields(options.SessionOptions)}
    monkeypatch.setitem(ENDPOINTERS, "given", type("Given", (ENDPOINTERS["energy"],), {"Options": Given}))
    assert Given in options._owned()
