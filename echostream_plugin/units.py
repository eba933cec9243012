"""Sequences of units: lines of text, and what is left without repeats. What makes units is in `data.units`."""

from collections.abc import Iterator
from pathlib import Path


def units_of(text: str) -> list[int]:
    """``u u u`` as numbers. Raises ValueError where something else stands there."""
    try:
        return [int(unit) for unit in text.split()]
    except ValueError as error:
        raise ValueError(f"units must be integers separated by spaces, got {text[:60]!r}") from error


def parse_unit_line(line: str) -> tuple[str | None, list[int]]:
    """``name|u u u``, a bare ``u u u``, or a ``D-<id> TAB score TAB u u u`` line of fairseq-generate: (name, units).

    Raises ValueError where something else stands there."""
    text, name = line.rstrip("\n"), None
    if "\t" in text:
        fields = text.split("\t")
        name, text = fields[0], fields[-1]
    elif "|" in text:
        name, text = text.split("|", 1)
    return name, units_of(text)


def unit_lines(path) -> Iterator[tuple[str, list[int]]]:
    """The sequences of a unit list; a line without a name is called by its number from 0.

    Raises ValueError that names the line."""
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines()):
        try:
            name, units = parse_unit_line(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number + 1}: {error}") from error
        if name is not None or units:
            yield str(number) if name is None else name, units


def run_lengths(units) -> tuple[list[int], list[int]]:
    """Repeats removed: (units, how many frames each lasts)."""
    reduced, durations = [], []
    for unit in units:
        if reduced and reduced[-1] == int(unit):
            durations[-1] += 1
        else:
            reduced.append(int(unit))
            durations.append(1)
    return reduced, durations


def reduce_units(units) -> list[int]:
    """Consecutive repeats dropped: [5, 5, 7, 5] -> [5, 7, 5]."""
    return run_lengths(units)[0]
