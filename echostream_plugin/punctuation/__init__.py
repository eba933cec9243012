"""Marks and case for a growing stream of words, and so its sentence ends (CT-Transformer, arXiv 2003.01309)."""

from echostream_plugin.punctuation.model import CASES, MARKS, Punctuator, PunctuatorConfig
from echostream_plugin.punctuation.store import load_punctuator, save_punctuator
from echostream_plugin.punctuation.stream import MarkedWord, PunctuationStream

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
