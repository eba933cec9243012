"""The compiled operator for tests: the one beside the package, or one that is built for them."""

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from echostream_plugin.modules import native

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "ECHOSTREAM_TEST_NATIVE"  # names a folder with another library, such as one built with sanitizers


@lru_cache(maxsize=1)
def use() -> None:
    """Make `native.library` find one; skips the caller where there is no C++ compiler."""
    if FOLDER in os.environ:
        native.FOLDER = Path(os.environ[FOLDER])
        native.library.cache_clear()
    elif native.library() is None:
        if not any(map(shutil.which, ("g++", "c++", "clang++"))):
            pytest.skip("no compiled operator, and no C++ compiler")
        native.FOLDER = build(Path(mkdtemp()))
        native.library.cache_clear()
    assert native.library() is not None


def build(folder: Path) -> Path:
    """Run setup.py's own build; returns the folder of the library."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "echostream_plugin"


def paths() -> list:
    """Those of `native.PATHS` that this processor can take."""
    use()
    return [path for path in native.PATHS if native.library().echostream_has_path(native.PATHS.index(path))]
