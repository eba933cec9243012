"""What one may choose about a session. Flags, bundles and agents take the options from here."""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echostream_plugin.config import ConfigError, check_options, option, with_tuples
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.endpointing.base import HOUR_MS
from echostream_plugin.inference.policies import POLICIES
from echostream_plugin.inference.translators import TRANSLATORS

if TYPE_CHECKING:
    from echostream_plugin.inference.bundle import Bundle  # which imports this module


def _owned() -> list:
    """The options that policies, translators and end-pointers have of their own, the last first: as bases of a
    dataclass, their fields come in the order of the registries."""
    kinds = (*POLICIES.values(), *TRANSLATORS.values(), *ENDPOINTERS.values())
    return list(dict.fromkeys(kind.Options for kind in kinds if kind.Options))[::-1]


def _meanings(registry: dict) -> str:
    """What each of a registry's names stands for: the first paragraph of its class."""
    words = {name: " ".join(kind.__doc__.partition("\n\n")[0].split()) for name, kind in registry.items()}
    return "; ".join(f"'{name}': {text.rstrip('.')}" for name, text in words.items())


def _those(registry: dict, attribute: str) -> str:
    """The names of those that say so of themselves, for a message."""
    return " or ".join(repr(name) for name, kind in registry.items() if getattr(kind, attribute))


@dataclass(frozen=True)
class SessionOptions(*_owned()):
    """How a session reads, writes and speaks; with the options of each policy, translator and end-pointer. Token counts
    are subwords of the target dictionary."""

    chunk_ms: int = option(
        320,
        "encoder segment in ms, a multiple of 40; 0: decide nothing before the end (offline)",
        minimum=0,
        maximum=400_000,
    )
    policy: str = option("ctc", f"when to write: {_meanings(POLICIES)}", choices=POLICIES)
    lagging_k2: int = option(
        0, "k2: further target tokens that the units of a token wait for", minimum=0, maximum=10_000
    )
    stride_n2: int = option(1, "n2: target tokens whose units are decided together")
    max_tokens: int = option(100, "most target tokens that the end of the source may still add", maximum=10_000)
    whole_word: bool | None = option(None, "write complete words only; by default where chunk_ms is 640 or more")
    decoding: str = option("incremental", f"how to translate: {_meanings(TRANSLATORS)}", choices=TRANSLATORS)
    translate: bool = option(True, "translate; without it the source is transcribed only")
    pause_ms: int = option(
        0, "long streams: a pause of so many ms ends a sentence; 0: it is all one utterance", minimum=0, maximum=HOUR_MS
    )
    endpointer: str = option("energy", f"what a pause is: {_meanings(ENDPOINTERS)}", choices=ENDPOINTERS)
    longest_sentence_ms: int = option(
        20000, "with pause_ms: a sentence without a pause is ended after so many ms", maximum=HOUR_MS
    )
    fresh_encoder: bool = option(
        False,
        "with pause_ms: encoder and CTC heads too begin anew, at the first sound of each sentence, which is then heard "
        "as a recording of its own: for models trained on single sentences",
    )
    context_tokens: int = option(
        0,
        "with pause_ms: so many of the last target tokens stay in front of the MT decoder in the next sentence",
        minimum=0,
        maximum=10_000,
    )
    punctuate: bool = option(
        False,
        "both texts get marks and capital letters (needs the bundle's punctuator); a word then comes with its mark, "
        "punctuation_delay words later or at the sentence's end",
    )
    punctuation_delay: int = option(
        1,
        "with punctuate and the endpointers of text: words that must follow a word before its mark is decided",
        minimum=0,
        maximum=64,
    )
    revise: bool = option(
        False,
        "every finished sentence is translated again from all of its source at once, with beam search, marks and case: "
        "an event 'revision' for transcripts and subtitles; what was written and spoken stays",
    )
    resynthesize: bool = option(False, "with revise: the revised sentence is spoken as a whole too, for a recording")
    speech: bool = option(True, "speak the translation (needs the bundle's vocoder)")
    vad: bool = option(
        False,
        "voice activity detection: what sounds but is no speech (noise, hum, music) opens no utterance, ends a "
        "sentence as a pause does, and is not translated; without effect on decoding='recompute'",
    )
    max_repeats: int = option(
        0, "a run of up to 8 tokens is written at most so many times in a row; 0: any number", minimum=0, maximum=10_000
    )
    speech_factor: float = option(
        0.0,
        "speech lasts at most so many times the source of its sentence and two seconds; until the source has caught up "
        "nothing is written, what is more at the end is not said; 0: any length",
        maximum=1000.0,
    )

    gate: float = option(
        0.0,
        "write and speak only what the model is sure of: a sentence waits until its confidence, 0 to 1, is as large; "
        "one that never is, or is no longer, is told as not understood; 0: everything is written; needs a bundle whose "
        "gate was calibrated; without effect on decoding='recompute'",
        minimum=0.0,
        maximum=1.0,
    )

    def __post_init__(self):
        check_options(self)
        if self.fresh_encoder and not ENDPOINTERS[self.endpointer].measures_loudness:
            raise ConfigError(f"fresh_encoder needs endpointer={_those(ENDPOINTERS, 'measures_loudness')}")
        if self.vad and self.pause_ms and not ENDPOINTERS[self.endpointer].measures_loudness:
            raise ConfigError(f"vad needs endpointer={_those(ENDPOINTERS, 'measures_loudness')}")
        if self.context_tokens and not TRANSLATORS[self.decoding].takes_context:
            raise ConfigError(f"context_tokens needs decoding={_those(TRANSLATORS, 'takes_context')}")
        if self.resynthesize and not (self.revise and self.speaks):
            raise ConfigError("resynthesize needs revise and speech")
        if self.chunk_ms % FRAME_MS:
            raise ConfigError(f"chunk_ms must be a multiple of {FRAME_MS} (an encoder frame), got {self.chunk_ms}")
        if 0 < self.pause_ms < FRAME_MS:
            raise ConfigError(f"pause_ms must be 0 or at least {FRAME_MS} (an encoder frame), got {self.pause_ms}")
        if self.pause_ms and (not self.chunk_ms or self.longest_sentence_ms < self.pause_ms):
            raise ConfigError("pause_ms needs chunk_ms above 0, and longest_sentence_ms not below pause_ms")

    @property
    def speaks(self) -> bool:
        """Is the translation spoken?"""
        return self.translate and self.speech

    @property
    def reads_text(self) -> bool:
        """Do sentences end where their text does?"""
        return bool(self.pause_ms) and ENDPOINTERS[self.endpointer].reads_text

    @property
    def has_gate(self) -> bool:
        """Is what is not understood left out?"""
        return self.translate and self.gate > 0 and TRANSLATORS[self.decoding].gated

    @property
    def detects_speech(self) -> bool:
        """Does the session need the detector of speech?"""
        return self.vad and TRANSLATORS[self.decoding].uses_vad

    @property
    def restarts_encoder(self) -> bool:
        """Does the encoder begin anew at the first sound of a sentence, or of the stream?"""
        return bool(self.pause_ms and self.fresh_encoder) or self.detects_speech

    @property
    def writes_whole_words(self) -> bool:
        """Are words written once they are complete, rather than subwords?"""
        return self.chunk_ms >= 640 if self.whole_word is None else self.whole_word


def bundle_options(bundle: "Bundle", **flags) -> SessionOptions:
    """The options that suit the bundle's model, except where a flag is given (not None)."""
    return named_options({**bundle.session, **{name: v for name, v in flags.items() if v is not None}})


def named_options(values: dict) -> SessionOptions:
    """Options by name. Raises ConfigError that names an unknown one, or one whose value cannot be."""
    known = [f.name for f in dataclasses.fields(SessionOptions)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ConfigError(f"unknown session option(s) {', '.join(unknown)}; known: {', '.join(known)}")
    return SessionOptions(**with_tuples(SessionOptions, values))


def read_policy(text: str) -> dict:
    """Options as scripts take them, `pause_ms=200,vad=true`, by name; values are json, or else plain text. Raises
    ConfigError where a name has no value."""
    policy = {}
    for name, given, value in (pair.partition("=") for pair in text.split(",")):
        if not given or not name:
            raise ConfigError(f"policy '{text}': expected name=value,name=value with json values")
        try:
            policy[name] = json.loads(value)
        except ValueError:
            policy[name] = value
    return policy
