"""What was said of a sentence: its texts and its speech so far, and the events that say more of them."""

import numpy as np

from echostream_plugin.encoders.base import FRAME_MS
from echostream_plugin.inference.events import SourceText, Speech, TargetText
from echostream_plugin.inference.guards import places_without_repeats, speech_room, within
from echostream_plugin.inference.stages import CTCPrefix
from echostream_plugin.inference.words import word_times


class SentenceOutput:
    """The texts of one sentence and the length of its speech. Texts only grow."""

    SAVED = ("source_text", "target_text", "said_samples")

    def __init__(self, bundle, options):
        self.bundle, self.options = bundle, options
        self.source_text = self.target_text = ""
        self.said_samples = 0

    def transcribe(self, asr: CTCPrefix, source_ms: float) -> list:
        """The events that the transcript's tokens lead to."""
        kept = places_without_repeats(asr.tokens, self.options.max_repeats)
        tokens = [asr.tokens[place] for place in kept]
        text = self.bundle.source_dictionary.text(tokens)
        if text == self.source_text:
            return []
        added, self.source_text = text[len(self.source_text) :], text
        times = word_times(self.bundle.source_dictionary, tokens, [asr.starts[place] for place in kept], FRAME_MS)
        return [SourceText(text, added, source_ms, times)]

    def write(self, written, source_ms: float, opened_ms: float) -> list:
        """The events of what a translator has written (`translators.Written`); opened_ms: where the sentence begins."""
        events = []
        text = self.bundle.target_dictionary.text(written.tokens)
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
