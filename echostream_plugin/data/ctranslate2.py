"""Reading CTranslate2's `model.bin`, the form in which faster-whisper's models come.

Little-endian: version, name, revision and number of variables; then of each variable its name, rank, dimensions, type,
bytes and data. A name is its length with a closing zero, as 16 bits, and the characters.
"""

import struct
from pathlib import Path

import numpy as np

from echostream_plugin.config import ConfigError

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
VERSIONS = range(4, 8)  # with types and bytes as they are read here


def read_variables(path, prefix: str = "") -> dict[str, np.ndarray]:
    """The variables whose names begin with `prefix`, by name, as they are stored.

    Raises ConfigError that names the file where it is something else or breaks off."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; it is the model.bin of a folder for faster-whisper")
    try:
        with open(path, "rb") as file:
            return _read(file, prefix)
    except (struct.error, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a model.bin of CTranslate2, or incomplete ({error!r})") from error


def _read(file, prefix: str) -> dict[str, np.ndarray]:
    version = _number(file, "I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}")
    _name(file)
    _number(file, "I")  # the revision of that kind of model
    variables = {}
    for _ in range(_number(file, "I")):
        name = _name(file)
        shape = [_number(file, "I") for _ in range(_number(file, "B"))]
        kind, size = _number(file, "B"), _number(file, "I")
        if not name.startswith(prefix):
            file.seek(size, 1)
            continue
        data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{name} breaks off")
        variables[name] = np.frombuffer(data, TYPES[kind]).reshape(shape)
    return variables


def _number(file, kind: str) -> int:
    size = struct.calcsize(kind)
    return struct.unpack(f"<{kind}", file.read(size))[0]


def _name(file) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
