"""docs/api.md names the events, their fields and the errors as the code has them."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.inference import errors
from echostream_plugin.inference.events import KINDS
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.speak import SpokenSentence, SpokenWord, UnknownWord

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
MODULES = ("bundle", "optimize", "session", "batch", "speak", "options")


def rows(title: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return lines[1:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_events_have_the_names_and_fields_of_the_code():
    told = {names(name)[0]: (names(kind), names(fields)) for name, kind, fields, _ in rows("Events")}
    assert told == {
        event.__name__: ([kind], [field.name for field in dataclasses.fields(event)]) for event, kind in KINDS.items()
    }


def test_events_of_text_to_speech_are_those_of_the_code():
    lines = rows("Events of text to speech")
    told = {names(name)[0]: names(fields) for name, fields, _ in lines}
    assert told == {e.__name__: [f.name for f in dataclasses.fields(e)] for e in (UnknownWord, SpokenSentence)}
    assert {f.name for f in dataclasses.fields(SpokenWord)} <= set(names(lines[-1][-1]))


def test_what_a_session_tells_between_calls_is_there():
    properties = {name for name, _ in inspect.getmembers(TranslationSession, lambda it: isinstance(it, property))}
    told = PAGE.split("Between calls", 1)[1].split("\n\n", 1)[0]
    assert properties == set(names(told))


def test_errors_are_those_of_the_code():
    told = {names(name)[0]: names(base)[0] for name, base, *_ in rows("Errors")}
    own = [each for _, each in inspect.getmembers(errors, inspect.isclass) if each.__module__ == errors.__name__]
    assert told == {each.__name__: each.__bases__[0].__name__ for each in (ConfigError, *own)}


def test_calls_are_there_with_their_parameters():
    modules = [importlib.import_module(f"echostream_plugin.inference.{name}") for name in MODULES]
    session = next(vars(module)["TranslationSession"] for module in modules if hasattr(module, "TranslationSession"))
    for call in [name for cell, _ in rows("Calls") for name in names(cell)]:
        name, given = re.match(r"(?:session\.)?(\w+)\((.*)\)$", call).groups()
        found = getattr(session if call.startswith("session.") else _holder(modules, name), name)
        known = set(inspect.signature(found).parameters)
        assert {word.strip("* ").split("=")[0] for word in given.split(",") if word} <= known, call


def _holder(modules, name: str):
    return next(module for module in modules if hasattr(module, name))
