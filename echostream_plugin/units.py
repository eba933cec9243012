"""Sequences of units: a line of text, and what is left without repeats. Unit files are in `data.units`."""


def units_of(text: str) -> list[int]:
    """``u u u`` as numbers. Raises ValueError where something else stands there."""
    return [int(unit) for unit in text.split()]


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
