"""The translators; importing this package registers each of them."""

from . import incremental, recompute  # noqa: F401
from .base import TRANSLATORS, Translator, Written

__all__ = ["TRANSLATORS", "Translator", "Written"]
