"""SimulEval's folders: lists of recordings and of their texts, a line each."""

from dataclasses import dataclass, field
from pathlib import Path

from echostream_plugin.evaluation.claim import SimulError


def read_list(path) -> list[str]:
    """Lines of a SimulEval list, without a trailing empty one."""
    path = Path(path)
    if not path.is_file():
        raise SimulError(f"{path}: no such list; SimulEval wants one wav path or one sentence a line")
    return path.read_text(encoding="utf-8").splitlines()


def resolve_wavs(list_path) -> list[Path]:
    """Recordings named in a wav list: absolute, relative to the list's folder, or to the current one."""
    folder = Path(list_path).resolve().parent
    wavs = []
    for number, line in enumerate(read_list(list_path), 1):
        found = next((p for p in (folder / line.strip(), Path(line.strip()).absolute()) if p.is_file()), None)
        if found is None:
            raise SimulError(f"{list_path}:{number}: no such recording '{line.strip()}'")
        wavs.append(found)
    return wavs


@dataclass(frozen=True)
class Folder:
    """Recordings of a SimulEval folder: wav_list.txt and target.txt; src.txt and unit.txt where there are such, else
    empty lists."""

    wavs: list
    references: list
    sources: list = field(default_factory=list)
    units: list = field(default_factory=list)

    @classmethod
    def read(cls, path, most: int = 0, units: Path | None = None) -> "Folder":
        """The first `most` recordings, 0: all; units: a list of them in another place. Raises SimulError for lists that
        are missing or do not fit."""
        path = Path(path)
        wavs, columns = resolve_wavs(path / "wav_list.txt"), []
        if not wavs:
            raise SimulError(f"{path / 'wav_list.txt'}: no recordings")
        for name, place, needed in (("target", None, True), ("src", None, False), ("unit", units, units is not None)):
            place = place or path / f"{name}.txt"
            lines = read_list(place) if needed or place.is_file() else []
            if len(lines) != len(wavs) and (lines or needed):
                raise SimulError(f"{place}: {len(lines)} lines for {len(wavs)} recordings of wav_list.txt")
            columns.append(lines)
        return cls(*(column[: most or len(wavs)] for column in (wavs, *columns)))
