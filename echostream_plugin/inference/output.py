"""What was said of a sentence: its texts and its speech so far, and the events that say more of them."""

import numpy as np

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.events import SourceText, Speech, TargetText
from echostream_plugin.inference.guards import places_without_repeats, speech_room, within
from echostream_plugin.inference.marking import MarkedText
from echostream_plugin.inference.stages import CTCPrefix
from echostream_plugin.inference.words import word_times


class SentenceOutput:
    """The texts of one sentence and the length of its speech. Texts only grow.

    With `punctuate`, and where sentences end by their text, texts are of complete words whose marks are decided
    (`MarkedText`); times_ms: where each word that was recognised lies, printed or not."""

    SAVED = ("source", "target", "source_text", "target_text", "times_ms", "said_samples")

    def __init__(self, bundle, options):
        self.bundle, self.options = bundle, options
        self.source = self._marked("source", options.reads_text) if options.punctuate or options.reads_text else None
        self.target = self._marked("target", False) if options.punctuate else None
        self.source_text = self.target_text = ""
        self.times_ms = ()
        self.said_samples = 0

    def _marked(self, side: str, stops: bool) -> MarkedText:
        stream = self.bundle.punctuator.stream(side, self.options.punctuation_delay)
        return MarkedText(stream, self.options.punctuate, stops)

    def transcribe(self, asr: CTCPrefix, before: int, source_ms: float, closed: bool = False) -> list:
        """The events that the transcript's tokens lead to, of those that start before a frame of the stream; asr: the
        ASR head's, or a `ChunkWriter`; closed: there will be no more of them."""
        text, words = self._recognised(asr, before)
        if self.source is not None:
            self.source.read(words if closed else words[:-1], closed)
            text = self.source.text
        if text == self.source_text:
            return []
        added, self.source_text = text[len(self.source_text) :], text
        printed = None if self.source is None else len(self.source.words)
        return [SourceText(text, added, source_ms, self.times_ms[:printed])]

    def may_end(self, asr: CTCPrefix, before: int, probability: float) -> bool:
        """Is it at least so probable that a sentence ends after the newest word?"""
        return self.source.may_end(self._recognised(asr, before)[1], probability)

    def _recognised(self, asr: CTCPrefix, before: int) -> tuple[str, list]:
        """The text of the tokens, and its words; the last one may not be complete."""
        kept = places_without_repeats(asr.tokens[: asr.count_before(before)], self.options.max_repeats)
        tokens = [asr.tokens[place] for place in kept]
        dictionary = self.bundle.source_dictionary
        self.times_ms = word_times(dictionary, tokens, [asr.starts[place] for place in kept], FRAME_MS)
        text = dictionary.text(tokens)
        return text, text.split()

    def write(self, written, source_ms: float, opened_ms: float, closed: bool = False) -> list:
        """The events of what a translator has written (`translators.Written`); opened_ms: where the sentence begins;
        closed: there will be no more tokens."""
        events = []
        text = self.bundle.target_dictionary.text(written.tokens)
        if self.target is not None:
            words = text.split()
            self.target.read(words if closed else words[:-1], closed)
            text = self.target.text
        if text != self.target_text and text.startswith(self.target_text):
            events.append(TargetText(text, text[len(self.target_text) :], source_ms))
            self.target_text = text
        samples = written.samples
        if len(samples):
            samples = within(samples, *self._spoken_so_far(source_ms - opened_ms))
            self.said_samples += len(samples)
        if written.units or len(samples):
            rate = self.bundle.vocoder.config.sampling_rate
            events.append(Speech(samples.astype(np.float32), rate, tuple(written.units), source_ms))
        return events

    def is_behind(self, sentence_ms: float) -> bool:
        """Is the speech so far behind that no more may be said? sentence_ms: of source that the sentence has had."""
        return self.options.speaks and speech_room(*self._spoken_so_far(sentence_ms)) == 0

    def _spoken_so_far(self, sentence_ms: float) -> tuple:
        """What `guards.within` asks about the sentence."""
        rate = self.bundle.vocoder.config.sampling_rate
        return self.said_samples, rate, sentence_ms, self.options.speech_factor
