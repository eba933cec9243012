"""Sentences that end where their text does, which is known some words later.

What comes after the end belongs to the next sentence, and must not have been translated with this one. So the
translation hears a frame only when no sentence can end before it: when the mark after every earlier word is decided.
Nothing that was written or spoken has to be taken back, and no frame is translated twice.
"""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.sentences import SentenceStream

ENDS_IN_PAUSE = 0.03  # so probable must an end after the last word be for a pause to end the sentence


class TextSentences(SentenceStream):
    """The sentences of a stream whose end-pointer reads their text.

    A sentence's frames end, and the next one's begin, at the quietest frame between its last word and the next word, by
    the times of their CTC tokens. With `fresh_encoder` encoder and heads begin anew there; else they go on, and what
    they found after it is the next sentence's."""

    SAVED = (*SentenceStream.SAVED, "_held", "_heard")

    def __init__(self, bundle, options):
        super().__init__(bundle, options)
        self._held = []  # [1, s, C] frames that were taken in, and that the translator has not heard
        self._heard = 0  # the first of them, or of those to come

    def hear(self, features: np.ndarray, events: list):
        self._keep_features()
        segments = yield from self.endpointer.hear(features)
        if not any(frames.size(1) for frames in self._held):
            self._heard = self.listener.frames  # silence may have been skipped
        yield from self._work_off(segments, events)

    def decide_provisionally(self, events: list, last: bool = False):
        """Frames of an unfinished segment may be the next sentence's: only a translator that is asked once a push is
        asked, about the frames that it has heard."""
        translator = self.translator
        if translator is not None and not translator.by_segment and (translator.decides_last or not last):
            yield from self._decide(events)

    def finish(self, events: list):
        """The source ends: the unfinished segment is heard, and every sentence in what is left is ended."""
        taken_in = False
        while not (taken_in or self.endpointer.asleep):
            yield from self._take_in((yield from self.listener.rest()), events)
            segments = yield from self._end_sentences(events, closed=True)
            taken_in = segments is None
            if not taken_in:
                yield from self._work_off(segments, events)
        self._release(self.listener.frames)
        yield from self._end_sentence(self.listener.frames, events)

    def _keep_features(self):
        self.listener.kept_from = self.endpointer.opened_frame

    def _work_off(self, segments: list, events: list):
        """Take in segments [1, s, C], with those that are heard anew in place of them."""
        segments = deque(segments)
        while segments:
            for frames in self.endpointer.split(segments.popleft()):
                yield from self._take_in(frames, events)
                again = yield from self._end_sentences(events)
                if again is not None:
                    segments = deque(again)
                    break
                if self.translator is not None and self.translator.by_segment:
                    yield from self._decide(events)

    def _take_in(self, frames: Tensor, events: list):
        """Complete encoder frames [1, s, C]: transcript; the translator hears those that are this sentence's."""
        yield from self.listener.take_in(frames)
        self.endpointer.advance(frames.size(1))
        self._held.append(frames)
        self._read(events)

    def _read(self, events: list):
        """The transcript, and what the translator may hear for it."""
        if self.endpointer.spoken:
            self._transcribe(self.listener.frames, events)
        if not self.output.source.ended:
            self._release(self._earliest_end())

    def _earliest_end(self) -> int:
        """The frame before which the sentence cannot end any more: the end of the first word whose mark is open."""
        times, decided = self.output.times_ms, len(self.output.source.words)
        return int(times[decided][1]) // FRAME_MS if decided < len(times) else self.listener.frames

    def _release(self, frame: int):
        """The translator hears what comes before that frame."""
        count = min(frame, self.listener.frames) - self._heard
        if count <= 0:
            return
        held = torch.cat(self._held, dim=1)
        if self.translator is not None:
            self.translator.hear(held[:, :count])
        self._held, self._heard = [held[:, count:].clone()], self._heard + count

    def _decide(self, events: list, provisional: Tensor | None = None):
        """Write what the policy allows, as far as the translator has heard."""
        if self._heard <= self.endpointer.opened_frame:
            return
        later = self.listener.cut(self._heard)
        yield from super()._decide(events)
        self.listener.put_back(later)

    def _end_sentences(self, events: list, closed: bool = False):
        """End every sentence that is over. closed: the source ends here; its last sentence is left to `finish`. Returns
        the segments in place of those not taken in where the encoder begins anew, else None."""
        while (end := self._sentence_end(events, closed)) is not None:
            later = self.listener.cut(end)
            self._release(end)
            if self.options.fresh_encoder:
                self.endpointer.rewind(end)
            if self._has_begun:
                yield from self._end_sentence(end, events)
            self.listener.forget(end)
            self._begin_sentence(end)
            self._keep_features()
            if self.options.fresh_encoder:
                self._held = []
                segments = yield from self.endpointer.wake()
                self._heard = self.listener.frames
                return segments
            self.listener.put_back(later)
            self._read(events)
        return None

    def _sentence_end(self, events: list, closed: bool) -> int | None:
        """The frame at which the present sentence ends, if it is over."""
        source, endpointer = self.output.source, self.endpointer
        over = endpointer.end() is not None or self._ends_in_pause()
        if (over or closed) and endpointer.spoken and not source.ended:
            self._transcribe(self.listener.frames, events, closed=True)
        times, printed, now = self.output.times_ms, len(source.words), self.listener.frames
        if source.ended and printed < len(times):
            return endpointer.boundary(int(times[printed - 1][1]) // FRAME_MS, int(times[printed][0]) // FRAME_MS)
        if closed or not over or now == endpointer.opened_frame:
            return None
        return endpointer.boundary(int(times[printed - 1][1]) // FRAME_MS, now) if printed else now

    def _ends_in_pause(self) -> bool:
        """Is there a pause after a word that may be the last one?"""
        before = self.listener.frames
        return self.endpointer.pausing and self.output.may_end(self.listener.asr, before, ENDS_IN_PAUSE)
