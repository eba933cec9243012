"""What `fairseq-generate` printed: transcripts (A-), CTC translations (S-), translations and units (D-).

Text lines are ``A-<id> TAB text``, ``S-<id> TAB text``, ``D-<id> TAB text``; unit lines, on the screen or in
``generate-<split>.txt``, are ``D-<id> TAB score TAB u u u``. Ids are row numbers of the manifest, from 0.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from echostream_plugin.units import units_of

_LINE = re.compile(r"^([ASD])-(\d+)\t(.*)$")
_UNITS = re.compile(r"^-?(?:[\d.]+(?:e[-+]?\d+)?|inf|nan)\t([\d ]*)$")
_BEGUN = re.compile(r"^[A-Z](-\d*(\t.*)?)?$")  # such a line without its end
_SCORE = re.compile(r"^-?\d+\.\d+(?:e[-+]?\d+)?$")  # all that is left of a unit line that was cut


class GenerateLogError(ValueError):
    """A log without what is to be scored; the message names the file."""


@dataclass
class GenerateLog:
    """By row of the manifest."""

    transcripts: dict[int, str] = field(default_factory=dict)
    ctc_translations: dict[int, str] = field(default_factory=dict)
    translations: dict[int, str] = field(default_factory=dict)
    units: dict[int, list[int]] = field(default_factory=dict)


def read_generate_logs(paths) -> GenerateLog:
    """Read one or more logs (the captured screen and the results file, in any order). Raises GenerateLogError that
    names the line where one is torn: a run that was killed has no scores."""
    log = GenerateLog()
    for path in map(Path, paths):
        if not path.is_file():
            raise GenerateLogError(f"{path}: no such file; capture fairseq-generate's screen with `| tee {path.name}`")
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            match = _LINE.match(line)
            cut = _BEGUN.match(line) if number == len(lines) else match and match[1] == "D" and _SCORE.match(match[3])
            if cut:
                raise GenerateLogError(f"{path}:{number}: torn line '{line[:60]}'; run fairseq-generate again")
            if match is None:
                continue
            _take(log, match[1], int(match[2]), match[3])
    if not log.translations and not log.units:
        names = ", ".join(str(path) for path in paths)
        raise GenerateLogError(f"{names}: no D- line; is it the output of fairseq-generate with this plugin's task?")
    for kind, rows in (("transcript", log.transcripts), ("translation", log.translations)):
        missing = sorted(set(rows) - set(log.units if log.units else log.translations))
        if missing:
            names = ", ".join(str(path) for path in paths)
            raise GenerateLogError(
                f"{names}: row {missing[0]} has a {kind} but no more of it; the log is torn, run fairseq-generate again"
            )
    return log


def _take(log: GenerateLog, kind: str, row: int, content: str) -> None:
    units = _UNITS.match(content)
    if kind == "A":
        log.transcripts[row] = content
    elif kind == "S":
        log.ctc_translations.setdefault(row, content)  # fairseq's own S- line, the source, comes after ours
    elif units is not None:
        log.units[row] = units_of(units[1])
    else:
        log.translations[row] = content
