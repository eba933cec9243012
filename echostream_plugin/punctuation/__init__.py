"""Marks and case for a growing stream of words, and so its sentence ends (CT-Transformer, arXiv 2003.01309)."""

from .model import CASES, MARKS, Punctuator, PunctuatorConfig
from .store import load_punctuator, save_punctuator
from .stream import MarkedWord, PunctuationStream

__all__ = [
    "CASES",
    "MARKS",
    "MarkedWord",
    "PunctuationStream",
    "Punctuator",
    "PunctuatorConfig",
    "load_punctuator",
    "save_punctuator",
]
