"""Options as words of a command line: how argparse reads one, and the words that give its value."""

import argparse
import typing


def reading(kind, default) -> dict:
    """Arguments of `add_argument` that read an option of this type; yes or no is ``--flag`` or ``--no-flag``, the items
    of a tuple stand between commas.

    kind: the field's annotation; default: the field's, whose items say of what type those of a tuple are."""
    if is_truth(kind):
        return {"action": argparse.BooleanOptionalAction}
    if (typing.get_origin(kind) or kind) is not tuple:
        return {"type": kind}

    def items(text: str) -> tuple:
        return tuple(type(default[0])(item) for item in text.split(","))

    return {"type": items, "metavar": "A,B,.."}


def is_truth(kind) -> bool:
    """Is an option of this type yes or no?"""
    return kind in (bool, bool | None)


def word(value) -> str:
    """A value as `reading` reads it."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def words(options: dict) -> list[str]:
    """The words that give options their values, by name."""
    written = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            written.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            written += [f"--{flag}", word(value)]
    return written
