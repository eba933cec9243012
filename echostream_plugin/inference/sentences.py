"""From features to events: one sentence after the other is heard, translated and ended."""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.endpointing import ENDPOINTERS
from echostream_plugin.inference.events import Revision, Sentence, Unsure
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.output import SentenceOutput
from echostream_plugin.inference.revision import revise
from echostream_plugin.inference.stages import Listener
from echostream_plugin.inference.translators import TRANSLATORS, Written


class SentenceStream:
    """The sentences of one stream; what a session does between its features and its events.

    Listener and end-pointer go on for the whole stream, translator and output are new for each sentence, as is the
    transcriber of a model that writes the source text in chunks. Methods are generators of model calls (`work.Call`)
    that append to `events`; `source_ms` is what the session has been given.
    """

    SAVED = (
        *("listener", "endpointer", "translator", "transcriber", "output", "source_ms"),
        *("_context", "_newest", "_decided_frames", "_count"),
    )

    def __init__(self, bundle: Bundle, options: SessionOptions):
        self.bundle, self.options = bundle, options
        features = bundle.cmvn_mean, bundle.cmvn_std, bundle.config.encoder.features
        restartable = options.restarts_encoder or options.revise
        self.listener = Listener(bundle.model, options.chunk_ms // FRAME_MS, restartable)
        if options.has_gate:
            self.listener.watch(bundle.gate.language)
        self.endpointer = ENDPOINTERS[options.endpointer](self.listener, features, options)
        self.source_ms = 0.0
        self._context = []  # the last target tokens of the sentences before
        self._decided_frames = 0  # encoder frames that the policy was asked about
        self._count = 0  # sentences that are over
        self._newest = NewestFrames(self.endpointer.late_frames)
        self._begin_sentence(0)

    def _begin_sentence(self, frame: int):
        self.endpointer.open(frame)
        self.output = SentenceOutput(self.bundle, self.options)
        config = self.bundle.config
        transcribes = config.in_chunks and config.transcribes
        self.transcriber = ChunkWriter(self.bundle.model, self.options.chunk_beam) if transcribes else None
        self.translator = None
        if self.options.translate:
            translator = TRANSLATORS[self.options.decoding]
            self.translator = translator(self.bundle, self.options, self.listener, self._context)

    @property
    def opened_ms(self) -> float:
        """Where the present sentence was opened in the source."""
        return float(self.endpointer.opened_frame * FRAME_MS)

    def hear(self, features: np.ndarray, events: list):
        """features: [t, bins], the next ones: everything that comes of the segments which they complete."""
        endpointer = self.endpointer
        self._keep_features()
        segments = deque((yield from endpointer.hear(features)))
        while segments:
            for frames in endpointer.split(segments.popleft()):
                yield from self._take_in(frames, events)
                if self.translator is not None and self.translator.by_segment:
                    yield from self._decide(events)
                end = endpointer.end()
                if end is None:
                    continue
                if self._has_begun:
                    yield from self._end_sentence(end, events)
                self._open_sentence(end, frames)
                if self.options.fresh_encoder:
                    segments = deque((yield from endpointer.wake()))
                    break

    def _open_sentence(self, end: int, newest: Tensor):
        """The next sentence, after one that ended before frame `end`; newest: [1, s, C] what was taken in last."""
        late_frames = self.listener.frames - end
        self.listener.forget(end)
        self._begin_sentence(end)
        if late_frames:
            newest = self._newest.last(late_frames)
        elif self.options.fresh_encoder or self.endpointer.quiet:
            return
        if self.translator is not None:
            self.translator.hear(newest)  # the next word may begin here, not yet found by the CTC heads

    def _keep_features(self):
        """Of what comes next, and of the present sentence."""
        if self.options.revise:
            self.listener.kept_from = self.endpointer.opened_frame

    def decide_provisionally(self, events: list, last: bool = False):
        """Ask the policy about the unfinished segment, if it has frames that it was not asked about yet. last: `finish`
        is next."""
        translator = self.translator
        if translator is None or not translator.hears_provisional or (last and not translator.decides_last):
            return
        available = self.listener.available_frames
        asked = not self.options.chunk_ms or self.endpointer.asleep or available <= self._decided_frames
        if asked or self._reads_on:
            return
        frames = yield from self.listener.rest()
        yield from self._decide(events, self.endpointer.before_pause(frames))
        self._decided_frames = available

    def finish(self, events: list):
        """The source ends: the unfinished segment is heard, what is left is written and spoken."""
        if not self.endpointer.asleep:
            yield from self._take_in((yield from self.listener.rest()), events)
        yield from self._end_sentence(self.listener.frames, events)

    def _take_in(self, frames: Tensor, events: list):
        """Complete encoder frames [1, s, C]: transcript, and source of the translation."""
        first = self.listener.frames
        yield from self.listener.take_in(frames)
        self.endpointer.advance(frames.size(1))
        self._newest.add(frames)
        if self.transcriber is not None:
            self.transcriber.hear(frames, first)
            yield from self.transcriber.write()
        if self.translator is not None:
            self.translator.hear(frames)
        if self.endpointer.spoken:
            self._transcribe(self.listener.frames - self.endpointer.late_frames, events)

    def _transcribe(self, before: int, events: list, closed: bool = False):
        heard = self.listener.asr if self.transcriber is None else self.transcriber
        events += self.output.transcribe(heard, before, self.source_ms, closed)

    def _decide(self, events: list, provisional: Tensor | None = None):
        """Write as much as the policy allows; provisional: [1, p, C] frames of the unfinished segment."""
        if self._reads_on:
            return
        self._decided_frames = self.listener.frames + (0 if provisional is None else provisional.size(1))
        yield from self._write(self.translator.decide(provisional, self.output.source_text), events)

    @property
    def _has_begun(self) -> bool:
        """Did anybody speak in the frames that were taken in, or was something said of them? Tokens may be found before
        the first speech, once it is known that there is some."""
        return self.endpointer.spoken_so_far or bool(self.output.source_text or self.output.target_text)

    @property
    def _reads_on(self) -> bool:
        """Whatever the heads find, nothing is decided: nobody speaks, or the translated speech is far behind."""
        return not self.endpointer.speaking or self.output.is_behind(self.source_ms - self.opened_ms)

    def _end_sentence(self, end: int, events: list):
        """Write and speak what is left; where nobody spoke or neither head found a token there is nothing to say. end:
        the frame before which the sentence ended."""
        if not self.endpointer.spoken:
            return
        if self.transcriber is not None:
            yield from self.transcriber.finish()
        self._transcribe(end, events, closed=True)
        heard, translator, output = self.listener.token_frames(end), self.translator, self.output
        if translator is not None and (heard or translator.tokens):
            yield from self._write(translator.finish(output.source_text), events, closed=True)
            self._doubt(heard, events)
            if self.options.context_tokens:
                self._context = [*self._context, *translator.tokens][-self.options.context_tokens :]
        if heard or output.target_text or output.source_text:
            start, newest = heard or (self.endpointer.opened_frame,) * 2
            times = tuple(map(float, (start * FRAME_MS, (newest + 1) * FRAME_MS, self.source_ms)))
            if self.options.pause_ms:
                events.append(Sentence(self._count, output.source_text, output.target_text, *times))
            if self.options.revise:
                yield from self._revise(end, times, events)
            self._count += 1

    def _revise(self, end: int, times: tuple, events: list):
        """The sentence again, from all of its features; what was not understood stays without a translation."""
        features = self.listener.features_between(self.endpointer.opened_frame, end)
        texts = self.output.source_text, self.output.target_text
        gate = self.translator.gate if self.translator is not None else None
        translate = self.translator is not None and not (gate is not None and gate.refused)
        revised = yield from revise(self.bundle, self.options, features, *texts, translate)
        rate = self.bundle.vocoder.config.sampling_rate if self.options.resynthesize else 0
        events.append(Revision(self._count, revised.source_text, revised.target_text, *times, revised.samples, rate))

    def _doubt(self, heard: tuple | None, events: list):
        """At the end of a sentence: what of it was not understood well enough to be written. heard: of
        `Listener.token_frames`."""
        gate = self.translator.gate
        if gate is None or not gate.refused:
            return
        start, newest = heard or (self.endpointer.opened_frame,) * 2
        start = gate.passed_frame if gate.opened else start
        times = start * FRAME_MS, max(start, newest + 1) * FRAME_MS
        events.append(Unsure(*map(float, times), gate.confidence, self.source_ms))

    def _write(self, writing, events: list, closed: bool = False):
        """Let a translator write (`Translator.decide` or `finish`), and say each piece as soon as it is there. closed:
        it is all."""
        answer = None
        while True:
            try:
                step = writing.send(answer)
            except StopIteration as done:
                self._tell(done.value, events, closed)
                return
            if isinstance(step, Written):
                self._tell(step, events)
                answer = None
            else:
                answer = yield step

    def _tell(self, written: Written | None, events: list, closed: bool = False):
        """The events of what was written; None: nothing was. closed: it is all."""
        if written is not None:
            events += self.output.write(written, self.source_ms, self.opened_ms, closed)


class NewestFrames:
    """The encoder frames of a stream that a sentence may need when the end of the one before is found late."""

    SAVED = ("_pieces",)

    def __init__(self, most: int):
        """most: frames that are needed at most; 0: none are kept."""
        self.most = most
        self._pieces = []  # [1, s, C] each

    def add(self, frames: Tensor):
        """frames: [1, s, C] the next ones."""
        if self.most:
            self._pieces.append(frames)
        while sum(piece.size(1) for piece in self._pieces[1:]) >= self.most > 0:
            del self._pieces[0]

    def last(self, count: int) -> Tensor:
        """The newest `count` frames [1, count, C], of those that are kept."""
        return torch.cat(self._pieces, dim=1)[:, -count:]
