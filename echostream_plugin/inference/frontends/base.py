"""What makes features of audio: what every front end offers, and the front ends by kind."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from echostream_plugin.inference.snapshot import give

FRONTENDS = {}  # kind -> class; see register_frontend


def register_frontend(extractor):
    """Class decorator: `extractor` is found by the kind of its description, which encoders name as their `features`. To
    add one, write such a class in a file of this folder and import it in `frontends/__init__.py`."""
    FRONTENDS[extractor.DESCRIPTION["kind"]] = extractor
    return extractor


class FeatureExtractor(ABC):
    """Feature frames of 10 ms, of audio at 16 kHz; one object serves one utterance.

    Class attributes:
        DESCRIPTION: `kind`, `bins` and what else the features depend on; a bundle keeps it, and one that was made with
            another is refused.
        NORMALISED: no global CMVN follows.
        SAVED: the attributes that make up the stream, for snapshots.
    """

    DESCRIPTION: ClassVar[dict]
    NORMALISED: ClassVar[bool] = False
    SAVED: ClassVar[tuple] = ()

    @abstractmethod
    def push(self, samples: np.ndarray) -> np.ndarray:
        """samples: [n] float32 in [-1, 1]; returns the new frames [t, bins]."""

    def restore(self, saved: dict):
        """Go on where another extractor was when `snapshot.take` read it."""
        give(self, saved)

    @staticmethod
    @abstractmethod
    def frame_count(samples: int) -> int:
        """Feature frames of so many samples at 16 kHz."""

    @staticmethod
    @abstractmethod
    def loudness_db(features: np.ndarray) -> np.ndarray:
        """How loud frames [t, bins] are, in dB, [t]: for the pauses of the audio."""
