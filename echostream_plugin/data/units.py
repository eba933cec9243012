"""Units of speech: the nearest of K cluster centres for each 20 ms of features; reduced: without repeats."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from echostream_plugin.data import DataError
from echostream_plugin.data.tables import keyed_lines
from echostream_plugin.files import write_text
from echostream_plugin.inference.digest import value_digest
from echostream_plugin.units import parse_unit_line, unit_lines

UNITS_NOTE = "kmeans.json"


def load_centres(path) -> np.ndarray:
    """[K, D] centres of a k-means model: a joblib or pickle file of scikit-learn, or a .npy of centres.

    A joblib file is a pickle: loading it runs code of whoever made it. Name only files that you trust.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such k-means model; for mHuBERT it is mhubert_base_vp_en_es_fr_it3_L11_km1000.bin")
    if path.suffix == ".npy":
        centres = np.load(path, allow_pickle=False)
    else:
        try:
            import joblib
            import sklearn  # noqa: F401  the pickle names its classes
        except ImportError as error:
            raise DataError(f"{path}: a joblib k-means model needs: pip install 'echostream[cvss]'") from error
        print(f"note: {path} is a pickle; it can run code, so use it only if you trust where it is from")
        try:
            centres = joblib.load(path).cluster_centers_
        except (AttributeError, ValueError, EOFError, KeyError, ModuleNotFoundError) as error:
            raise DataError(f"{path}: is not a scikit-learn k-means model ({error!r})") from error
    if centres.ndim != 2:
        raise DataError(f"{path}: expected centres [K, D], got shape {list(centres.shape)}")
    return np.asarray(centres, dtype=np.float32)


def note_units(folder, *arrays: np.ndarray) -> str:
    """Write kmeans.json beside unit files: the digest of the arrays that make these units. Returns it."""
    kinds = [[list(array.shape), np.ascontiguousarray(array, np.float32).tobytes().hex()] for array in arrays]
    found = value_digest(kinds)
    write_text(Path(folder) / UNITS_NOTE, json.dumps({"units": found, "clusters": len(arrays[-1])}) + "\n")
    return found


def units_digest(folder) -> str:
    """Which units the files of a folder hold, by its kmeans.json; "" where that is not known."""
    note = Path(folder) / UNITS_NOTE
    return json.loads(note.read_text(encoding="utf-8"))["units"] if note.is_file() else ""


def nearest_units(features: np.ndarray, centres: np.ndarray) -> list[int]:
    """The unit of each frame of features [T, D]."""
    if features.shape[-1] != centres.shape[-1]:
        raise DataError(f"features of {features.shape[-1]} dimensions, but k-means centres of {centres.shape[-1]}")
    distances = (centres**2).sum(1) - 2 * features @ centres.T
    return distances.argmin(axis=1).tolist()


class UnitsLog:
    """A file of lines ``id|u u u ...`` (all frames) that is written as they come; an interrupted one resumes.

    While it grows it is ``<name>.part``; `close` gives it its name. A line without units is an utterance left out.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(self.path.name + ".part")
        self.done = keyed_lines(self._part)
        self._log = open(self._part, "a", encoding="utf-8")

    def add(self, name: str, units: Iterable[int]) -> None:
        """Write a line at once; units: of every frame, none for an utterance left out."""
        self._log.write(f"{name}|{' '.join(map(str, units))}\n")
        self._log.flush()

    def close(self) -> None:
        """The file is complete and gets its name."""
        self._log.close()
        self._part.replace(self.path)


def read_units(path) -> dict[str, list[int]]:
    """id -> units of every frame; none where the speech was missing, unreadable or too short."""
    if not Path(path).is_file():
        raise DataError(f"{path}: not made yet; run scripts/cvss/build_units.py first")
    try:
        return dict(unit_lines(path))
    except ValueError as error:
        raise DataError(f"{error}; expected lines 'id|unit unit ...'") from error


class UnitsFile:
    """A finished file of units, of which memory holds the place of each line: id -> units of every frame."""

    def __init__(self, path):
        if not Path(path).is_file():
            raise DataError(f"{path}: not made yet; run scripts/cvss/build_units.py first")
        self.path, self._places, end = Path(path), {}, 0
        self._file = open(path, "rb")
        for line in self._file:
            name, bar, _ = line.partition(b"|")
            if bar:
                self._places[name.decode()] = end
            end += len(line)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> list[int]:
        self._file.seek(self._places[name])
        line = self._file.readline().decode()
        try:
            return parse_unit_line(line)[1]
        except ValueError as error:
            raise DataError(f"{self.path}: {error}; expected lines 'id|unit unit ...'") from error

    def close(self) -> None:
        """Nothing more is read."""
        self._file.close()
