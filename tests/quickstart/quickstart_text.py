"""The quickstart's text modules, loaded by path as its scripts load each other."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "quickstart"


def load(name: str):
    """A module of examples/quickstart."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
