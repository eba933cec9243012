"""One speaker's stream, translated while it comes: `push(samples, sample_rate)`, `finish()`, `reset()`.

Everything else (SimulEval agents, the command line, a web page) is an adapter around `TranslationSession`. Sessions
share one model and know nothing of each other.
"""

import dataclasses
from collections import deque

import numpy as np
import torch

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Sentence
from echostream_plugin.inference.features import Frontend, checked_audio
from echostream_plugin.inference.options import FRAME_MS, SessionOptions, bundle_options
from echostream_plugin.inference.output import SentenceOutput
from echostream_plugin.inference.snapshot import give, take
from echostream_plugin.inference.stages import Listener, alone
from echostream_plugin.inference.translators import TRANSLATORS

SLICE_SECONDS = 10  # a longer push is worked off in slices of this size, which bounds its memory

__all__ = ["FRAME_MS", "SessionOptions", "TranslationSession", "bundle_options"]


class TranslationSession:
    """Translates one utterance at a time.

    The policy is asked at every complete encoder segment, and at the end of a push once more with the frames of the
    unfinished segment as they would be if the source ended there. Provisional frames let tokens be written; the
    transcript takes its tokens from complete segments only. What was written or spoken stays.

    With `pause_ms` a stream may last for hours: after a pause of that length (`endpointer` says what that is) the
    sentence is finished as an utterance would be (a `Sentence` event), and texts, MT decoder and units begin anew,
    while encoder and CTC heads go on (not with `fresh_encoder`). Memory is then bounded by the longest sentence.

    Threads may share the bundle; a session belongs to one thread at a time.

    With `vad` the encoder begins at the first speech, and a sentence in which nobody spoke says nothing.

    `snapshot()` between two pushes is all that another session of this bundle and options needs to go on (`restore`).
    """

    SAVED = (
        *("_listener", "_endpointer", "_translator", "_output", "_context"),
        *("_decided_frames", "_pushed_samples", "_sentences", "_finished"),
    )

    def __init__(self, bundle: Bundle, options: SessionOptions | None = None, **changes):
        """options: default `bundle_options(bundle)`; changes: single fields of them by name. Raises SessionError if the
        bundle cannot do it."""
        self.bundle = bundle
        self.options = dataclasses.replace(options or bundle_options(bundle), **changes)
        if self.options.speaks and bundle.vocoder is None:
            raise SessionError("the bundle has no vocoder: use speech=False, or give one to save_bundle(vocoder=...)")
        if self.options.translate:
            TRANSLATORS[self.options.decoding].check(bundle, self.options)
        self.reset()

    def reset(self):
        """Forget the utterance, finished or not. The next push begins a new one, at any sample rate."""
        options = self.options
        with torch.inference_mode():
            self._frontend = None
            self._listener = Listener(self.bundle.model, options.chunk_ms // FRAME_MS, options.restarts_encoder)
            self._endpointer = ENDPOINTERS[options.endpointer](self._listener, self._features, options)
            self._context = []  # the last target tokens of the sentences before
            self._begin_sentence()
        self._decided_frames = 0  # encoder frames that the policy was asked about
        self._pushed_samples = 0
        self._sentences = 0
        self._finished = False

    def snapshot(self) -> dict:
        """The stream as it is now, a value: `restore` goes on from it, `inference.snapshot` writes it to a file."""
        frontend = self._frontend
        rate, saved = (frontend.sample_rate, frontend.snapshot()) if frontend else (None, None)
        return {"sample_rate": rate, "frontend": saved, "stream": take(self)}

    def restore(self, saved: dict):
        """Go on where a session of the same bundle and options was when it made the snapshot."""
        self.reset()
        if saved["sample_rate"] is not None:
            self._accept_rate(saved["sample_rate"])
            self._frontend.restore(saved["frontend"])
        give(self, saved["stream"])

    def _begin_sentence(self):
        self._endpointer.open()
        self._output = SentenceOutput(self.bundle, self.options)
        self._translator = None
        if self.options.translate:
            translator = TRANSLATORS[self.options.decoding]
            self._translator = translator(self.bundle, self.options, self._listener, self._context)

    @property
    def _features(self) -> tuple:
        """Mean, std and kind of the features that the encoder reads."""
        return self.bundle.cmvn_mean, self.bundle.cmvn_std, self.bundle.config.encoder.features

    @property
    def finished(self) -> bool:
        """Was `finish` called since the last `reset`?"""
        return self._finished

    @property
    def source_ms(self) -> float:
        """How much source was pushed, in milliseconds."""
        return 1000 * self._pushed_samples / self._frontend.sample_rate if self._frontend else 0.0

    @property
    def sentence_start_ms(self) -> float:
        """Where the present sentence was opened in the source: where the one before it was ended."""
        return float(self._endpointer.opened_frame * FRAME_MS)

    @property
    def source_text(self) -> str:
        """The transcript of the present sentence."""
        return self._output.source_text

    @property
    def target_text(self) -> str:
        """The translation of the present sentence."""
        return self._output.target_text

    @torch.inference_mode()
    def push(self, samples, sample_rate: int, last: bool = False) -> list:
        """Take a piece of audio; returns the events it leads to.

        samples: [n] or [n, channels] (made one by `Downmix`), any n, float in [-1, 1] or int16/int32; sample_rate: the
        same for the whole utterance. Raises InputError, with nothing changed, for what is not audio (NaN, infinity,
        other shapes and types) or for another rate; SessionError after `finish`. last: `finish` is next; where every
        look recomputes everything, the last look is then left to it, as in StreamSpeech's agent."""
        return alone(self.pushing(samples, sample_rate, last))

    def pushing(self, samples, sample_rate: int, last: bool = False):
        """`push` as a generator of model calls (`stages.Call`), for `inference.batch`."""
        if self._finished:
            raise SessionError("this utterance is finished: call reset() before the next push")
        samples = checked_audio(samples)
        self._accept_rate(sample_rate)
        events = []
        slice_samples = SLICE_SECONDS * self._frontend.sample_rate
        self._pushed_samples += len(samples)
        for start in range(0, len(samples), slice_samples):
            features = self._frontend.push(samples[start : start + slice_samples])
            yield from self._hear(features, events)
        if self._translator is not None and (self._translator.decides_last or not last):
            yield from self._decide_provisionally(events)
        return events

    @torch.inference_mode()
    def finish(self) -> list:
        """The source ends here: everything is transcribed, written and spoken. A second call returns no events.

        Where neither CTC head found a token, nothing is translated (silence, or under 25 ms of audio)."""
        return alone(self.finishing())

    def finishing(self):
        """`finish` as a generator of model calls."""
        if self._finished:
            return []
        events = []
        if self._frontend is not None:
            yield from self._hear(self._frontend.finish(), events)
            if not self._endpointer.asleep:
                yield from self._take_in((yield from self._listener.rest()), events)
            yield from self._end_sentence(events)
        events.append(Finished(self.source_ms))
        self._finished = True
        return events

    def _accept_rate(self, sample_rate: int):
        if self._frontend is not None:
            if sample_rate != self._frontend.sample_rate:
                raise InputError(
                    f"sample rate {sample_rate} Hz, but this utterance began at {self._frontend.sample_rate} Hz; "
                    "finish() or reset() it first"
                )
            return
        self._frontend = Frontend(sample_rate, *self._features, self._endpointer.detector)

    def _hear(self, features: np.ndarray, events: list):
        """Everything that comes of the segments which these features complete."""
        endpointer = self._endpointer
        segments = deque((yield from endpointer.hear(features)))
        while segments:
            for frames in endpointer.split(segments.popleft()):
                yield from self._take_in(frames, events)
                if self._translator is not None and self._translator.by_segment:
                    yield from self._decide(events)
                if not endpointer.is_over():
                    continue
                if endpointer.spoken_so_far:
                    yield from self._end_sentence(events)
                self._listener.forget()
                self._begin_sentence()
                if self.options.fresh_encoder:
                    segments = deque((yield from endpointer.wake()))
                    break
                if self._translator is not None and not endpointer.quiet:
                    self._translator.hear(frames)  # the next word may begin here, not yet found by the CTC heads

    def _take_in(self, frames: torch.Tensor, events: list):
        """Complete encoder frames [1, s, C]: transcript, and source of the translation."""
        yield from self._listener.take_in(frames)
        self._endpointer.advance(frames.size(1))
        if self._translator is not None:
            self._translator.hear(frames)
        if self._endpointer.spoken:
            events += self._output.transcribe(self._listener.asr, self.source_ms)

    def _decide_provisionally(self, events: list):
        """Ask the policy about the unfinished segment, if it has frames that it was not asked about yet."""
        available = self._listener.available_frames
        asked = not self.options.chunk_ms or self._endpointer.asleep or available <= self._decided_frames
        if asked or self._reads_on:
            return
        frames = yield from self._listener.rest()
        yield from self._decide(events, self._endpointer.before_pause(frames))
        self._decided_frames = available

    def _decide(self, events: list, provisional: torch.Tensor | None = None):
        """Write as much as the policy allows; provisional: [1, p, C] frames of the unfinished segment."""
        if self._reads_on:
            return
        self._decided_frames = self._listener.frames + (0 if provisional is None else provisional.size(1))
        self._tell((yield from self._translator.decide(provisional, self.source_text)), events)

    @property
    def _reads_on(self) -> bool:
        """Whatever the heads find, nothing is decided: nobody speaks, or the translated speech is far behind."""
        return not self._endpointer.speaking or self._output.is_behind(self.source_ms - self.sentence_start_ms)

    def _end_sentence(self, events: list):
        """Write and speak what is left; where nobody spoke or neither head found a token there is nothing to say."""
        if not self._endpointer.spoken:
            return
        heard, translator = self._listener.heard, self._translator
        if translator is not None and (heard or translator.tokens):
            self._tell((yield from translator.finish(self.source_text)), events)
            if self.options.context_tokens:
                self._context = [*self._context, *translator.tokens][-self.options.context_tokens :]
        if self.options.pause_ms and (heard or self.target_text):
            start, newest = self._listener.sentence_frames if heard else (self._endpointer.opened_frame,) * 2
            times = start * FRAME_MS, (newest + 1) * FRAME_MS, self.source_ms
            events.append(Sentence(self._sentences, self.source_text, self.target_text, *map(float, times)))
            self._sentences += 1

    def _tell(self, written, events: list):
        """The events of what was written; None: nothing was."""
        if written is not None:
            events += self._output.write(written, self.source_ms, self.sentence_start_ms)
