"""Two runs of the benchmark beside each other: what got slower, or larger, by more than such numbers wander."""

import json
from pathlib import Path

from echostream_plugin.benchmark.report import as_json, table
from echostream_plugin.config import ConfigError

# what tells the rows of a list from each other
NAMES = ("threads", "name", "vocoder", "push_frames", "age_s", "seconds", "sessions", "updates")
MARGIN = 0.10  # a median this much larger is noise, where the quartiles do not meet either
MARGIN_OF_ONE = 0.25  # the same of a number that was measured once
LEAST_RTF = 0.002  # parts of real time: a smaller difference is nobody's concern
SPREAD = ("median", "low", "high", "runs")
LARGER_IS_WORSE = ("ms", "rtf", "bytes", "_s", "seconds_per")
LARGER_IS_BETTER = ("at_real_time", "per_second")
OF_THE_MACHINE = ("machine", "floor_ms", "aim_ms", "spoken_seconds", "tokens")  # or of what was asked for


def read(path) -> dict:
    """The json of an earlier run. Raises ConfigError that names the file."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as the json of a benchmark ({error})") from error
    if wrong := _wrong(results):
        raise ConfigError(f"{path}: not the json of a benchmark: {wrong}; give one that `--output` wrote")
    return results


def _wrong(results) -> str:
    """What results lack; "" where they are whole."""
    runs = results.get("runs") if isinstance(results, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "threads" in run for run in runs):
        return "it lacks runs"
    found = list(numbers(runs))
    for place, value in found:
        if isinstance(value, dict) and not all(isinstance(value.get(part), int | float) for part in SPREAD):
            return f"{_name(place)} lacks numbers named {', '.join(SPREAD)}"
    return "" if found else "it holds no numbers"


def check_settings(earlier: dict, path, threads: tuple, quick: bool) -> None:
    """Raise ConfigError where a run with these settings has nothing to compare with the earlier one."""
    if bool(earlier.get("quick")) != quick:
        raise ConfigError(f"--compare {path}: one of the two runs is --quick, which measures other sizes")
    measured = [run["threads"] for run in earlier["runs"]]
    if not set(measured) & set(threads):
        use = " ".join(map(str, measured))
        raise ConfigError(f"--compare {path}: measured with other threads, use --threads {use}")


def compare(old: dict, new: dict) -> str:
    """Markdown: what is worse in the new results than in the old ones, beyond the noise."""
    before, after = (dict(numbers(as_json(results["runs"]))) for results in (old, new))
    shared = [place for place in after if place in before]
    worse = [row for place in shared if (row := _row(place, before[place], after[place]))]
    lines = [f"Compared with commit {old.get('commit', '?')} ({old.get('machine', 'unknown machine')}).\n"]
    if old.get("machine") != new.get("machine"):
        lines.append(f"This run was made on another machine, or with other parts: {new.get('machine')}.\n")
    if worse:
        worse.sort(key=lambda row: -float(row[-1]))
        lines.append(table(["slower or larger beyond the noise", "before", "now", "ratio"], worse))
    elif not shared:
        lines.append("Nothing could be compared: no number is in both runs.\n")
    else:
        lines.append("Nothing got slower or larger beyond the noise.\n")
    missing = len(before) - len(shared)
    if missing:
        lines.append(f"{missing} numbers of the earlier run were not measured now.\n")
    if added := len(after) - len(shared):
        lines.append(f"{added} numbers of this run are not in the earlier one.\n")
    return "\n".join(lines)


def numbers(value, place: tuple = ()):
    """Pairs of a place, as a tuple of names, and a number or a spread (a dict), of json results; but for what is known
    before a run, and of the machine."""
    if isinstance(value, dict):
        if "median" in value:
            yield place, value
            return
        for name, part in value.items():
            if name not in OF_THE_MACHINE and name not in _named(value):
                yield from numbers(part, (*place, name))
    elif isinstance(value, list):
        for row in value:
            own = [f"{row[name]:g} {name}" if not isinstance(row[name], str) else row[name] for name in _named(row)]
            yield from numbers(row, (*place, ", ".join(own)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value


def _named(row) -> list:
    return [name for name in NAMES if isinstance(row, dict) and isinstance(row.get(name), int | float | str)]


def _row(place: tuple, old, new) -> list | None:
    """A line of the table where the new number is worse."""
    ratio = _worse(place, old, new)
    return ratio and [_name(place), _cell(old), _cell(new), f"{ratio:.2f}"]


def _name(place: tuple) -> str:
    return ": ".join(part for part in place if part)


def _worse(place: tuple, old, new) -> float | None:
    """How many times the old number the new one is, if that is no noise."""
    kinds = type(old), type(new)
    if kinds == (dict, dict):
        ratio = new["median"] / old["median"] if old["median"] else 0.0
        apart = new["low"] > old["high"]
        return ratio if ratio > 1 + (MARGIN if min(old["runs"], new["runs"]) > 1 else MARGIN_OF_ONE) and apart else None
    if dict in kinds or not old or not new:
        return None
    names = " ".join(place[-2:])
    if any(name in names for name in LARGER_IS_BETTER):
        old, new = new, old
    elif not any(name in names for name in LARGER_IS_WORSE) or ("rtf" in names and new - old < LEAST_RTF):
        return None
    return new / old if new / old > 1 + MARGIN_OF_ONE else None


def _cell(value) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"
    return f"{value:.4g}"
