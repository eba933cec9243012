"""EchoStream as a speech processor of simulstream (arXiv 2512.17648), for its server, file inference and scorers.

A yaml for `simulstream_inference --speech-processor-config`:

    type: echostream_plugin.serve.simulstream.EchoStreamProcessor
    bundle: examples/quickstart/bundle
    speech_chunk_size: 0.32        # seconds of audio in a push
    session: {pause_ms: 200}       # options of the session, besides the bundle's
    output: translation            # or transcript

Its scorers read the log with `detokenizer_type: simuleval` and `latency_unit: word`: tokens are whole words.
A revised sentence is said as simulstream means it: the newest tokens are deleted, back to the first that is other now.
"""

import math
import threading
from types import SimpleNamespace

import numpy as np
from simulstream.server.speech_processors import SAMPLE_RATE, SpeechProcessor
from simulstream.server.speech_processors.incremental_output import IncrementalOutput

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.bundle import Bundle, load_bundle
from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, TargetText
from echostream_plugin.inference.languages import differs, language_of
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.serve.said import Said, changed_words

OUTPUTS = {"translation": TargetText, "transcript": SourceText}


class EchoStreamProcessor(SpeechProcessor):
    """One stream at a time; all processors of a server's pool share the bundle, which is only read."""

    _bundles: dict[str, Bundle] = {}
    _lock = threading.Lock()

    @classmethod
    def load_model(cls, config: SimpleNamespace):
        """Load the bundle of a configuration, once for all processors."""
        path = str(getattr(config, "bundle", ""))
        if not path:
            raise ConfigError("the configuration of the speech processor needs 'bundle', the folder of a model")
        with cls._lock:
            if path not in cls._bundles:
                cls._bundles[path] = optimize(load_bundle(path))

    def __init__(self, config: SimpleNamespace):
        super().__init__(config)
        self.load_model(config)
        self._bundle = self._bundles[str(config.bundle)]
        output = getattr(config, "output", "translation")
        if output not in OUTPUTS:
            raise ConfigError(f"output '{output}': use {' or '.join(OUTPUTS)}")
        self._kind = OUTPUTS[output]
        if not (math.isfinite(self.speech_chunk_size) and self.speech_chunk_size * SAMPLE_RATE >= 1):
            raise ConfigError(f"speech_chunk_size {config.speech_chunk_size!r}: seconds of audio, such as 0.32")
        given = getattr(config, "session", None) or {}
        changes = dict(vars(given) if isinstance(given, SimpleNamespace) else given)
        options = bundle_options(self._bundle, **{**changes, "speech": False, "translate": output == "translation"})
        self._session = TranslationSession(self._bundle, options)
        self._begin()

    @property
    def speech_chunk_size(self) -> float:
        """Seconds of audio in a push."""
        given = getattr(self.config, "speech_chunk_size", 0.32)
        return float(given) if isinstance(given, int | float) else math.nan

    def process_chunk(self, waveform) -> IncrementalOutput:
        """waveform: [n] float32 at 16 kHz."""
        return self._output(self._session.push(np.asarray(waveform, dtype=np.float32), SAMPLE_RATE))

    def end_of_stream(self) -> IncrementalOutput:
        return self._output(self._session.finish())

    def set_source_language(self, language: str) -> None:
        self._check_language("source", language)

    def set_target_language(self, language: str) -> None:
        self._check_language("target", language)

    def tokens_to_string(self, tokens: list[str]) -> str:
        """Each word with a space before it, so that strings can be joined as they come: simulstream makes one string of
        the last two outputs by this method."""
        return "".join(f" {token}" for token in tokens)

    def clear(self) -> None:
        self._session.reset()
        self._begin()

    def _begin(self) -> None:
        self._growing, self._said, self._words = GrowingWords(), Said(self._kind), []

    def _check_language(self, side: str, language: str) -> None:
        known = language_of(self._bundle.card, side)
        if differs(language, known):
            raise ConfigError(f"{side} language '{language}': the bundle's is '{known}'")

    def _output(self, events: list) -> IncrementalOutput:
        before = self._said.text().split()
        for event in events:
            if isinstance(event, self._kind):
                self._complete(self._growing.grow(event.text))
            elif isinstance(event, Sentence | Finished | Revision):
                if not isinstance(event, Revision) or self._said.is_open(event.index):
                    self._complete(self._growing.end())
                    self._words = []
                self._said.take(event)
        new, deleted = changed_words(before, self._said.text().split())
        self._said.trim()
        return IncrementalOutput(new, self.tokens_to_string(new), Deleted(deleted), self.tokens_to_string(deleted))

    def _complete(self, words: list[str]) -> None:
        """These words of the open sentence will not grow any more."""
        self._words = self._words + words
        self._said.grow(" ".join(self._words))


class Deleted(list):
    """Tokens to delete, of which `[:-0]` are all: simulstream 1.0.0 joins the last two outputs of a stream, and so asks
    which are still to be deleted where the first of these had no new token."""

    def __getitem__(self, place):
        return list(self) if place == slice(None, 0) else super().__getitem__(place)


class GrowingWords:
    """Words of sentences that grow by parts of words: a word is said when the next one begins or the sentence ends."""

    def __init__(self):
        self._taken = 0  # words of the open sentence
        self._text = ""

    def grow(self, text: str) -> list[str]:
        """text: the sentence so far; returns its words that are complete now."""
        self._text = text
        words = text.split()
        return self._take(words if text[-1:].isspace() else words[:-1])

    def end(self) -> list[str]:
        """The sentence is over: its last word, if there is one."""
        words = self._take(self._text.split())
        self._text, self._taken = "", 0
        return words

    def _take(self, words: list[str]) -> list[str]:
        new = words[self._taken :]
        self._taken += len(new)
        return new
