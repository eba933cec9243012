"""One speaker's stream, translated while it comes: `push(samples, sample_rate)`, `finish()`, `reset()`.

Everything else (SimulEval agents, the command line, a web page) is an adapter around `TranslationSession`. Sessions
share one model and know nothing of each other.
"""

import dataclasses
from collections import deque

import numpy as np
import torch

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.dictionary import EOS
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Sentence, SourceText, Speech, TargetText
from echostream_plugin.inference.features import Frontend, checked_audio
from echostream_plugin.inference.guards import places_without_repeats, speech_room, until_repeat, within
from echostream_plugin.inference.options import DECODINGS, FRAME_MS, SessionOptions, bundle_options
from echostream_plugin.inference.pauses import SPEECH_FEATURES, PauseDetector
from echostream_plugin.inference.policy import complete_words, sentence_ends, tokens_to_write
from echostream_plugin.inference.recompute import PrefixTranslator, speak_last
from echostream_plugin.inference.snapshot import give, take
from echostream_plugin.inference.stages import Listener, Speaker, Writer, alone
from echostream_plugin.inference.vad import SpeechDetector
from echostream_plugin.inference.words import word_times
from echostream_plugin.vocoder import StreamingVocoder

LEAD_FRAMES = 2  # where the encoder begins anew: the silence that is kept before the first sound of a sentence
SLICE_SECONDS = 10  # a longer push is worked off in slices of this size, which bounds its memory
LONG_QUIET_FRAMES = 25  # with a detector of speech: after a second without any, nothing is decided

__all__ = ["DECODINGS", "FRAME_MS", "SessionOptions", "TranslationSession", "bundle_options"]


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
        *("_listener", "_detector", "_pauses", "_writer", "_translator", "_speaker", "_heard", "_context"),
        *("_opened_frame", "_opened_loud", "_last_asr", "_last_st", "_source_text", "_target_text"),
        *("_decided_frames", "_pushed_samples", "_sentences", "_finished", "_asleep", "_said_samples"),
    )

    def __init__(self, bundle: Bundle, options: SessionOptions | None = None, **changes):
        """options: default `bundle_options(bundle)`; changes: single fields of them by name. Raises SessionError if the
        bundle cannot do it."""
        self.bundle = bundle
        self.options = dataclasses.replace(options or bundle_options(bundle), **changes)
        self._speaks = self.options.translate and self.options.speech
        if self._speaks and bundle.vocoder is None:
            raise SessionError("the bundle has no vocoder: use speech=False, or give one to save_bundle(vocoder=...)")
        self._recomputes = self.options.translate and self.options.decoding == "recompute"
        if self._speaks and not self._recomputes and not bundle.config.unit.causal_encoder:
            raise SessionError("the model's T2U encoder is not causal (--uni-encoder): it cannot speak as it goes")
        self.reset()

    def reset(self):
        """Forget the utterance, finished or not. The next push begins a new one, at any sample rate."""
        model, options = self.bundle.model, self.options
        with torch.inference_mode():
            self._frontend = None
            self._detector = SpeechDetector() if options.detects_speech else None
            restartable = bool(options.pause_ms and options.fresh_encoder) or self._detector is not None
            self._listener = Listener(model, options.chunk_ms // FRAME_MS, restartable)
            listens = options.pause_ms and options.endpointer != "ctc" or self._detector is not None
            self._pauses = PauseDetector(*self._features) if listens else None
            self._asleep = restartable  # nothing but silence since the sentence was opened
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
        model, options = self.bundle.model, self.options
        self._opened_frame = self._listener.frames  # the first encoder frame of the sentence
        self._opened_loud = self._pauses.loud_features if self._pauses is not None else 0
        self._writer = Writer(model, self._context) if options.translate and not self._recomputes else None
        self._translator = self._new_translator() if self._recomputes else None
        self._heard = []  # complete encoder frames, for the translator
        self._speaker = None
        if self._speaks and not self._recomputes:
            vocoder = StreamingVocoder(self.bundle.vocoder)
            self._speaker = Speaker(model, vocoder, options.lagging_k2, options.stride_n2)
        self._last_asr = self._last_st = 0  # CTC counts at the newest write
        self._source_text = self._target_text = ""
        self._said_samples = 0

    @property
    def _features(self) -> tuple:
        """Mean, std and kind of the features that the encoder reads."""
        return self.bundle.cmvn_mean, self.bundle.cmvn_std, self.bundle.config.encoder.features

    @property
    def finished(self) -> bool:
        return self._finished

    @property
    def source_ms(self) -> float:
        """How much source was pushed, in milliseconds."""
        return 1000 * self._pushed_samples / self._frontend.sample_rate if self._frontend else 0.0

    @property
    def sentence_start_ms(self) -> float:
        """Where the present sentence was opened in the source: where the one before it was ended."""
        return float(self._opened_frame * FRAME_MS)

    @property
    def source_text(self) -> str:
        """The transcript of the present sentence."""
        return self._source_text

    @property
    def target_text(self) -> str:
        """The translation of the present sentence."""
        return self._target_text

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
        if not (last and self._recomputes):
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
            if not self._asleep:
                yield from self._take_in((yield from self._listener.rest()), events)
            self._end_sentence(events)
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
        self._frontend = Frontend(sample_rate, *self._features, self._detector)

    def _hear(self, features: np.ndarray, events: list):
        if self._pauses is not None:
            self._pauses.push(features, None if self._detector is None else self._detector.judge(len(features)))
        if self._asleep:
            self._listener.hold(features)
            segments = deque((yield from self._wake()))
        else:
            segments = deque((yield from self._listener.hear(features)))
        while segments:
            for frames in self._split_at_pauses(segments.popleft()):
                yield from self._take_in(frames, events)
                yield from self._decide(events)
                if self._sentence_is_over() or (not self._spoken and self._pauses.quiet_frames):
                    if self._detector is None or self._pauses.loud_features > self._opened_loud:
                        self._end_sentence(events)
                    self._listener.forget()
                    self._begin_sentence()
                    if self.options.fresh_encoder:
                        self._asleep = True
                        segments = deque((yield from self._wake()))
                        break
                    if self._pauses is None or not self._pauses.quiet_frames:
                        self._translate_from(frames)  # the next word may begin here, not yet found by the CTC heads

    def _wake(self):
        """Skip the silence; encoder and heads begin anew shortly before the first sound, if there is one yet. Returns
        the segments that are complete."""
        silent, sounds = self._pauses.silence_ahead()
        skipped = max(0, silent - LEAD_FRAMES)
        self._listener.skip(skipped)
        self._pauses.advance(skipped)
        self._opened_frame = self._listener.frames
        self._asleep = not sounds
        return (yield from self._listener.restart()) if sounds else []

    def _split_at_pauses(self, segment: torch.Tensor) -> list:
        """A segment [1, s, C] in pieces that end where a pause has lasted long enough, so that a short one inside a
        long segment is found."""
        cuts = self._pause_ends(segment.size(1))
        return list(segment.tensor_split(cuts, dim=1)) if cuts else [segment]

    def _pause_ends(self, frames: int) -> list:
        """Places inside the next `frames` encoder frames at which a pause has lasted `pause_ms`."""
        if self._pauses is None:
            return []
        return [end for end in self._pauses.pauses(frames, self.options.pause_ms // FRAME_MS) if end < frames]

    def _take_in(self, frames: torch.Tensor, events: list):
        """Complete encoder frames [1, s, C]: transcript, and source of the MT decoder."""
        yield from self._listener.take_in(frames)
        if self._pauses is not None:
            self._pauses.advance(frames.size(1))
        self._translate_from(frames)
        asr = self._listener.asr
        kept = places_without_repeats(asr.tokens, self.options.max_repeats)
        tokens = [asr.tokens[place] for place in kept]
        text = self.bundle.source_dictionary.text(tokens) if self._spoken else ""
        if text != self._source_text:
            starts = [asr.starts[place] for place in kept]
            times = word_times(self.bundle.source_dictionary, tokens, starts, FRAME_MS)
            events.append(SourceText(text, text[len(self._source_text) :], self.source_ms, times))
            self._source_text = text

    def _translate_from(self, frames: torch.Tensor):
        """Complete encoder frames [1, s, C] are source of the MT decoder."""
        if self._writer is not None:
            self._writer.hear(frames)
        if self._translator is not None:
            self._heard.append(frames)

    def _decide_provisionally(self, events: list):
        """Ask the policy about the unfinished segment, if it has frames that it was not asked about yet."""
        available = self._listener.available_frames
        if not self.options.chunk_ms or self._asleep or available <= self._decided_frames or self._reads_on:
            return
        frames = yield from self._listener.rest()
        for end in self._pause_ends(frames.size(1))[:1]:
            frames = frames[:, :end]  # what follows a pause is the next sentence's
        if self._writer is not None:
            yield from self._decide(events, frames)
        self._decided_frames = available
        if self._translator is not None:
            self._look(events, provisional=frames)

    def _decide(self, events: list, provisional: torch.Tensor | None = None):
        """Write as much as the policy allows; provisional: [1, p, C] frames of the unfinished segment."""
        if self._writer is None or self._reads_on:
            return
        listener, options = self._listener, self.options
        self._decided_frames = listener.frames + (0 if provisional is None else provisional.size(1))
        asr = yield from listener.asr.count(provisional)
        st = yield from listener.st.count(provisional)
        count = tokens_to_write(
            asr,
            st,
            self._last_asr,
            self._last_st,
            len(self._writer.tokens),
            options.lagging_k1,
            options.stride_n,
            options.writes_whole_words,
        )
        drafts = self._writer.draft(count, provisional)
        if drafts and drafts[-1].token == EOS:
            drafts.pop()  # the sentence may seem complete, but its source goes on: read
        drafts = drafts[: self._until_repeat(drafts)]
        if options.writes_whole_words:
            starts = [self.bundle.target_dictionary.starts_word(draft.token) for draft in drafts]
            drafts = drafts[: complete_words(starts)]
        if drafts:
            self._last_asr, self._last_st = max(asr, self._last_asr), max(st, self._last_st)
            self._write(drafts, events)
            if self._speaker is not None:
                self._say(*self._speaker.speak(_hidden(drafts)), events)

    def _new_translator(self) -> PrefixTranslator:
        options = self.options
        return PrefixTranslator(
            self.bundle.model,
            self.bundle.target_dictionary,
            options.lagging_k1,
            options.stride_n,
            options.writes_whole_words,
            options.max_tokens,
        )

    def _look(self, events: list, provisional: torch.Tensor | None = None, finished: bool = False):
        """Translate all frames so far again, with provisional ones [1, p, C] if given, and say what is new."""
        frames = torch.cat([*self._heard, *([] if provisional is None else [provisional])], dim=1)
        translator = self._translator
        look = translator.look(frames, finished, self._speaks)
        self._tell(translator.tokens, events)
        if look.new_units:
            samples = speak_last(self.bundle.vocoder, translator.spoken, len(look.new_units))
            self._say(list(look.new_units), samples, events)

    def _write(self, drafts: list, events: list):
        self._writer.commit(drafts)
        self._tell(self._writer.tokens, events)

    def _tell(self, tokens: list, events: list):
        """The translation so far, where it has grown."""
        text = self.bundle.target_dictionary.text(tokens)
        if text != self._target_text and text.startswith(self._target_text):
            events.append(TargetText(text, text[len(self._target_text) :], self.source_ms))
            self._target_text = text

    @property
    def _spoken(self) -> bool:
        """Did anybody speak since this sentence was opened? Without a detector of speech: yes."""
        return self._detector is None or self._pauses.newest_loud > self._opened_loud

    @property
    def _reads_on(self) -> bool:
        """Whatever the heads find, nothing is decided: nobody speaks, or the translated speech is far behind."""
        if self._detector is not None and not (self._spoken and self._pauses.quiet_frames < LONG_QUIET_FRAMES):
            return True
        return self._speaks and speech_room(*self._spoken_so_far) == 0

    @property
    def _spoken_so_far(self) -> tuple:
        """What `guards.within` asks about the sentence."""
        source_ms = self.source_ms - self.sentence_start_ms
        return self._said_samples, self.bundle.vocoder.config.sampling_rate, source_ms, self.options.speech_factor

    def _until_repeat(self, drafts: list) -> int:
        """How many of the drafts can be written before they say the same over and over."""
        tokens = [draft.token for draft in drafts]
        return until_repeat(self._writer.tokens, tokens, self.options.max_repeats)

    def _sentence_is_over(self) -> bool:
        listener, options = self._listener, self.options
        return sentence_ends(
            self._silent_frames(),
            listener.frames - self._opened_frame,
            options.pause_ms // FRAME_MS,
            options.longest_sentence_ms // FRAME_MS,
        )

    def _silent_frames(self) -> int:
        """For how many encoder frames there has been a pause, as the end-pointer sees it."""
        listener, pauses = self._listener, self._pauses
        blank = listener.frames - (listener.sentence_frames[1] if listener.heard else self._opened_frame)
        if pauses is None:
            return blank
        # tokens that the heads guess in a pause open no sentence: it ends after speech, or where nothing was heard
        spoken = pauses.loud_features - self._opened_loud >= SPEECH_FEATURES
        quiet = pauses.quiet_frames if spoken or not listener.heard else 0
        return quiet if self.options.endpointer == "energy" else min(quiet, blank)

    def _end_sentence(self, events: list):
        """Write and speak what is left; where nobody spoke or neither head found a token there is nothing to say."""
        if not self._spoken:
            return
        if self._writer is not None and (self._listener.heard or self._writer.tokens):
            self._write_rest(events)
            if self.options.context_tokens:
                self._context = [*self._context, *self._writer.tokens][-self.options.context_tokens :]
        if self._translator is not None and (self._listener.heard or self._translator.tokens):
            self._look(events, finished=True)
        if self.options.pause_ms and (self._listener.heard or self._target_text):
            start, newest = self._listener.sentence_frames if self._listener.heard else (self._opened_frame,) * 2
            times = start * FRAME_MS, (newest + 1) * FRAME_MS, self.source_ms
            events.append(Sentence(self._sentences, self._source_text, self._target_text, *map(float, times)))
            self._sentences += 1

    def _write_rest(self, events: list):
        """Decode to `</s>` and speak everything, the state that predicts `</s>` included."""
        drafts = self._writer.draft(self.options.max_tokens + 1)
        drafts = drafts[: self._until_repeat(drafts) + 1]  # the last one is </s>, or stands for it
        self._write(drafts[:-1], events)
        if self._speaker is not None:
            units, samples = self._speaker.speak(_hidden(drafts))
            last_units, last_samples = self._speaker.finish()
            self._say(units + last_units, np.concatenate([samples, last_samples]), events)

    def _say(self, units: list, samples: np.ndarray, events: list):
        samples = within(samples, *self._spoken_so_far)
        self._said_samples += len(samples)
        if units or len(samples):
            rate = self.bundle.vocoder.config.sampling_rate
            events.append(Speech(samples.astype(np.float32), rate, tuple(units), self.source_ms))


def _hidden(drafts: list) -> torch.Tensor:
    """[1, u, D] MT states of u drafts."""
    return torch.cat([draft.hidden for draft in drafts], dim=1)
