"""One speaker's stream, translated while it comes: `push(samples, sample_rate)`, `finish()`, `reset()`.

Everything else (SimulEval agents, the command line, a web page) is an adapter around `TranslationSession`. Sessions
share one model and know nothing of each other.
"""

import dataclasses
from collections.abc import Iterator

import torch

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished
from echostream_plugin.inference.features import Frontend, checked_audio
from echostream_plugin.inference.opening import check_session, open_stream
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.snapshot import VERSION, check_version, give, take
from echostream_plugin.inference.work import Work

SLICE_SECONDS = 10  # a longer push is processed in slices of this size, which bounds its memory


class TranslationSession:
    """Translates one utterance at a time.

    The policy is asked at every complete encoder segment, and at the end of a push once more with the frames of the
    unfinished segment as they would be if the source ended there. Provisional frames let tokens be written; the
    transcript takes its tokens from complete segments only. What was written or spoken stays.

    With `pause_ms` a stream may last for hours: after a pause of that length (`endpointer` says what that is) the
    sentence is finished as an utterance would be (a `Sentence` event), and texts, MT decoder and units begin anew,
    while encoder and CTC heads go on (not with `fresh_encoder`). Memory is then bounded by the longest sentence.

    Threads may share the bundle; a session belongs to one thread at a time.

    With `vad` the encoder begins at the first speech, and a sentence without speech has no output.

    `push` and `finish` return events, `push_events` and `finish_events` give the same ones as they come. Events that
    are not read are not lost: what is left is computed by the next call, whose events come after those unread.

    `snapshot()` between two pushes is all that another session of this bundle and options needs to go on (`restore`).
    """

    SAVED = ("_stream", "_pushed_samples", "_finished")

    def __init__(self, bundle: Bundle, options: SessionOptions | None = None, **changes):
        """options: default `bundle_options(bundle)`; changes: single fields of them by name. Raises SessionError if the
        bundle cannot do it."""
        self.bundle, self.work = bundle, Work()
        self.options = dataclasses.replace(options or bundle_options(bundle), **changes)
        check_session(bundle, self.options)
        self.reset()

    def reset(self):
        """Forget the utterance, finished or not. The next push begins a new one, at any sample rate."""
        with torch.inference_mode():
            self._stream = open_stream(self.bundle, self.options)
        self.work.drop()
        self._frontend = None
        self._pushed_samples = 0
        self._finished = False

    def snapshot(self) -> dict:
        """The stream as it is now, a value: `restore` goes on from it, `inference.snapshot` writes it to a file. Raises
        SessionError while events are unread, which it does not hold."""
        if self.work.events or not self.work.over:
            raise SessionError("the events of the last call are not all read: read them before snapshot()")
        frontend = self._frontend
        rate, saved = (frontend.sample_rate, frontend.snapshot()) if frontend else (None, None)
        return {"version": VERSION, "sample_rate": rate, "frontend": saved, "stream": take(self)}

    def restore(self, saved: dict):
        """Go on where a session of the same bundle and options was when it made the snapshot. Raises ResumeError for a
        snapshot of another version."""
        check_version(saved)
        self.reset()
        if saved["sample_rate"] is not None:
            self._accept_rate(saved["sample_rate"])
            self._frontend.restore(saved["frontend"])
        give(self, saved["stream"])

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
        return self._stream.opened_ms

    @property
    def source_text(self) -> str:
        """The transcript of the present sentence."""
        return self._stream.output.source_text

    @property
    def target_text(self) -> str:
        """The translation of the present sentence."""
        return self._stream.output.target_text

    def push(self, samples, sample_rate: int, last: bool = False) -> list:
        """Take a piece of audio; returns the events it leads to.

        samples: [n] or [n, channels] (made one by `Downmix`), any n, float in [-1, 1] or int16/int32; sample_rate: the
        same for the whole utterance. Raises InputError, with nothing changed, for what is not audio (NaN, infinity,
        other shapes and types) or for another rate; SessionError after `finish`. last: `finish` is next; where every
        decoding step recomputes everything, the last one is then left to it, as in StreamSpeech's agent."""
        return list(self.push_events(samples, sample_rate, last))

    def push_events(self, samples, sample_rate: int, last: bool = False) -> Iterator:
        """`push` as an iterator of the same events, each as soon as it is there. The audio is checked at once, with the
        same errors; it is computed while the events are read."""
        self.begin_push(samples, sample_rate, last)
        return self.work.read()

    def finish(self) -> list:
        """The source ends here: everything is transcribed, written and spoken. A second call returns no events.

        Where neither CTC head found a token, nothing is translated (silence, or under 25 ms of audio)."""
        return list(self.finish_events())

    def finish_events(self) -> Iterator:
        """`finish`, told as it comes, as of `push_events`."""
        self.begin_finish()
        return self.work.read()

    @torch.inference_mode()
    def begin_push(self, samples, sample_rate: int, last: bool = False):
        """Take the audio of a push, which is then `work`; for `inference.batch`."""
        self.work.finish()
        if self._finished:
            raise SessionError("this utterance is finished: call reset() before the next push")
        samples = checked_audio(samples)
        self._accept_rate(sample_rate)
        self._pushed_samples += len(samples)
        self._stream.source_ms = self.source_ms
        self.work.begin(self._hear(samples, last))

    def begin_finish(self):
        """The source ends here; what is left to do is then `work`, nothing after a first call."""
        self.work.finish()
        if not self._finished:
            self.work.begin(self._end())

    def _hear(self, samples, last: bool):
        """Everything that comes of a push: a generator of model calls."""
        slice_samples, events = SLICE_SECONDS * self._frontend.sample_rate, self.work.events
        for start in range(0, len(samples), slice_samples):
            features = self._frontend.push(samples[start : start + slice_samples])
            yield from self._stream.hear(features, events)
        yield from self._stream.decide_provisionally(events, last)

    def _end(self):
        """Everything that comes of the end: a generator of model calls."""
        if self._frontend is not None:
            yield from self._stream.hear(self._frontend.finish(), self.work.events)
            yield from self._stream.finish(self.work.events)
        self.work.events.append(Finished(self.source_ms))
        self._finished = True

    def _accept_rate(self, sample_rate: int):
        if self._frontend is not None:
            if sample_rate != self._frontend.sample_rate:
                raise InputError(
                    f"sample rate {sample_rate} Hz, but this utterance began at {self._frontend.sample_rate} Hz; "
                    "finish() or reset() it first"
                )
            return
        bundle, detector = self.bundle, self._stream.endpointer.detector
        kind = bundle.config.encoder.features
        self._frontend = Frontend(sample_rate, bundle.cmvn_mean, bundle.cmvn_std, kind, detector)
