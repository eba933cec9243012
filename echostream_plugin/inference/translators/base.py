"""What turns the encoder frames of a sentence into its translation: what every translator offers, and all by name."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from echostream_plugin.inference.confidence import Gate
from echostream_plugin.inference.policies import POLICIES
from echostream_plugin.inference.stages import Listener

if TYPE_CHECKING:  # both import this package
    from echostream_plugin.inference.bundle import Bundle
    from echostream_plugin.inference.options import SessionOptions

TRANSLATORS = {}  # name -> class; see register_translator


def register_translator(translator):
    """Class decorator: `translator` is found by its name, in options, flags and bundles. To add one, write such a class
    in a file of this folder and import it in `translators/__init__.py`."""
    TRANSLATORS[translator.name] = translator
    return translator


def no_samples() -> np.ndarray:
    """Speech of no length."""
    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Written:
    """What a decision came to.

    tokens: all target tokens of the sentence so far; units: 0..K-1, new ones; samples: [n], the
    speech that is new."""

    tokens: list
    units: list = field(default_factory=list)
    samples: np.ndarray = field(default_factory=no_samples)


class Translator(ABC):
    """Translates one sentence; a new object for each. What was written and spoken stays.

    `hear` takes the encoder frames that are complete, `decide` writes what the policy allows, `finish` writes the rest.
    The last two are generators that may yield a `work.Call` for what many streams compute together, and a `Written`
    that can be said already, before they return the last one.

    Class attributes:
        name: the value of the session option `decoding`.
        Options: as a policy's.
        SAVED: the attributes that make up the sentence, for snapshots.
        by_segment: `decide` is asked after every complete segment; else only once a push, at its end.
        decides_last: it is asked at the end of the push that `finish` follows.
        uses_vad: the option `vad` applies.
        takes_context: it can be given the end of the sentence before.
        gated: the option `gate` applies: what it is not sure of is not written.
        hears_provisional: it is asked about the frames of an unfinished segment.
        in_chunks: it is for models that write text in chunks, and for no others.
    """

    name: ClassVar[str]
    Options: ClassVar[type | None] = None
    SAVED: ClassVar[tuple] = ("policy",)
    by_segment: ClassVar[bool] = True
    decides_last: ClassVar[bool] = True
    uses_vad: ClassVar[bool] = True
    takes_context: ClassVar[bool] = False
    gated: ClassVar[bool] = False
    hears_provisional: ClassVar[bool] = True
    in_chunks: ClassVar[bool] = False

    def __init__(self, bundle: "Bundle", options: "SessionOptions", listener: Listener, context: list | None = None):
        """listener: whose CTC prefixes are those of the sentence; context: the last target tokens before it."""
        self.bundle, self.options, self.listener = bundle, options, listener
        self.policy = POLICIES[options.policy](options)
        self.gate = Gate(bundle.gate, options.gate) if options.has_gate else None

    @classmethod
    def check(cls, bundle: "Bundle", options: "SessionOptions") -> None:
        """Raise SessionError for a bundle that it cannot translate with."""
        return None

    @property
    @abstractmethod
    def tokens(self) -> list:
        """The target tokens of the sentence so far."""

    @abstractmethod
    def hear(self, frames: Tensor) -> None:
        """frames: [1, s, C] encoder frames that will not change any more."""

    @abstractmethod
    def decide(self, provisional: Tensor | None = None, source_text: str = "") -> Generator:
        """Write as much as the policy allows; returns `Written`, None for READ.

        provisional: [1, p, C] frames of the unfinished segment, which are seen now and not kept; source_text: the
        transcript of the sentence."""

    @abstractmethod
    def finish(self, source_text: str = "") -> Generator:
        """The sentence has ended: write and speak what is left. Returns `Written`."""
