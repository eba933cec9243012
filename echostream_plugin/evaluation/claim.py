"""A folder of results belongs to one run. What the run was asked for, the contents of its files, and when and with
which commit its work was done are noted in it, so that results are never taken for those of another model or data."""

import datetime
import json
from pathlib import Path

from echostream_plugin.evaluation.table import commit
from echostream_plugin.files import write_json
from echostream_plugin.inference.digest import bundle_digest, digest

NOTE = "run.json"
_NOT_SETTINGS = ("made", "jobs")  # notes, and what does not change results


class SimulError(RuntimeError):
    """A run that cannot be made or read; the message names the file and the fix."""


def claim(output, settings: dict, files=()) -> None:
    """Note what a run in `output` is, or compare with what is noted there: the same settings and contents go on.

    settings: plain values; files: paths of recordings, checkpoints and bundles that results depend on. Raises
    SimulError that names what differs."""
    asked = json.loads(json.dumps({**settings, "contents": contents(files)}))
    note = Path(output) / NOTE
    if not note.is_file():
        write_json(note, asked | {"made": []})
        return
    differing = _differing(_read(note), asked)
    if differing:
        raise SimulError(
            f"{output}: holds a run with other settings ({', '.join(differing)}); remove it, or name another folder"
        )


def contents(paths) -> dict[str, str]:
    """Path -> digest of the file, or of the bundle, that lies there; other folders and plain words are left out."""
    found = {}
    for path in {str(path) for path in paths}:
        if (Path(path) / "config.json").is_file():
            found[path] = bundle_digest(path)
        elif path and Path(path).is_file():
            found[path] = digest(path)
    return found


def note_work(output) -> None:
    """Add today's date and the commit to a claimed folder: called when results are made, not when they are read."""
    note = Path(output) / NOTE
    settings, now = _read(note), {"date": str(datetime.date.today()), "commit": commit()}
    if now not in settings.setdefault("made", []):
        settings["made"].append(now)
        write_json(note, settings)


def made(outputs) -> dict[str, list[str]]:
    """`commit` and `date` of all work in claimed folders, each value once, in order."""
    entries = [entry for output in outputs for entry in _read(Path(output) / NOTE).get("made", [])]
    return {name: list(dict.fromkeys(entry[name] for entry in entries)) for name in ("commit", "date")}


def _read(note: Path) -> dict:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SimulError(f"{note}: not whole ({error}); remove {note.parent}") from error


def _differing(there: dict, asked: dict) -> list[str]:
    """Names of settings and files that are not what they were."""
    names = [name for name in {**there, **asked} if name not in _NOT_SETTINGS and there.get(name) != asked.get(name)]
    if "contents" not in names:
        return names
    before, now = there.get("contents", {}), asked["contents"]
    changed = [f"the content of {path}" for path in now if before.get(path) != now[path]][:3]
    return [name for name in names if name != "contents"] or changed or ["contents"]
