"""Text to speech from a translation model: target text in, MT decoder forced to it, units, speech.

`TextSpeaker` takes text as it is typed. Every complete word goes through the MT decoder (its tokens are given, not
chosen), the text-to-unit encoder, the unit decoder and the vocoder; what is said does not depend on how the text was
cut, and equals one pass over each whole sentence.

Two things stand between a translation model and a text-to-speech model, and the reference has no answer to look up:
StreamSpeech's README lists offline and real-time speech synthesis among its tasks and shows recordings of both, but
neither its agents, its generator nor its demo has a way to give the model text.

1. The MT decoder attends to a source, and here may be none. A recording of the source can be given (`source_frames`).
   Without one the attention finds a single frame of zero keys and values, that is, nothing.
2. The units of a token are made from the state that *predicts* it, which has not seen it. Without a source the
   prediction is often another word. So the state is moved, as little as it takes, until the given token leads all
   others by `lead` (in log-odds): `steer`.

docs/results_first_bundle.md has what each was measured to bring.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.config import check_options, option
from echostream_plugin.constants import EOS, UNK
from echostream_plugin.decoders import StreamingDecoder
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.events import Finished, Speech, TargetText
from echostream_plugin.inference.features import features_of
from echostream_plugin.inference.stages import Speaker, real_units
from echostream_plugin.inference.words import (
    LONGEST_WORD,
    SENTENCE_END,
    Subwords,
    WordReader,
    ends_clause,
    normalise,
)
from echostream_plugin.model import WaitKLags
from echostream_plugin.modules.streaming import StreamState
from echostream_plugin.vocoder import StreamingVocoder

STEER_STEPS = 12
NO_SOURCE_MS = 0.0  # `source_ms` of the events: there is no source that goes on while text is read


@dataclass(frozen=True)
class SpeakOptions:
    """How text is spoken."""

    lead: float = option(
        9.0,
        "log-odds that the MT decoder must give each word of the text; 0 leaves the decoder's states as they are",
        maximum=1000.0,
    )
    lagging_k2: int = option(
        0, "k2: further tokens that the units of a token wait for, as the model was trained", minimum=0, maximum=10_000
    )
    stride_n2: int = option(1, "n2: tokens whose units are decided together, as the model was trained")
    longest_sentence: int = option(40, "subwords after which a sentence is cut; from half of that on, commas end it")
    lines: bool = option(False, "each line is a sentence; else only . ? ! or an empty line end one")
    word_by_word: bool | None = option(
        None, "speak each word when it is complete, else each sentence; None: wherever the model can"
    )

    def __post_init__(self):
        check_options(self)


def speak_options(bundle: Bundle, **flags) -> SpeakOptions:
    """The lags (k1, n1, k2, n2) that suit the bundle's model, except where a flag is given (not None)."""
    suited = {name: bundle.session[name] for name in ("lagging_k2", "stride_n2") if name in bundle.session}
    return SpeakOptions(**{**suited, **{name: value for name, value in flags.items() if value is not None}})


@dataclass(frozen=True)
class UnknownWord:
    """A word of the text that the dictionary has no subwords for and that is left out; where `spelled`, it has only
    single letters for it, and the word was tried with those."""

    word: str
    spelled: bool = False


@dataclass(frozen=True)
class SpokenWord:
    """A word and where its units lie in the speech. The units of a word are those that begin in its decoder frames; how
    close they are to its sounds is the model's affair."""

    word: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class SpokenSentence:
    """A sentence was spoken to its end."""

    text: str
    words: tuple[SpokenWord, ...]


class TextSpeaker:
    """Speaks text of the target language: `push(text)`, `finish()`, `reset()`.

    Events: `TargetText` (the sentence so far), `Speech`, `UnknownWord`, `SpokenSentence`, `Finished`. Memory is bounded
    by the longest sentence."""

    def __init__(
        self, bundle: Bundle, options: SpeakOptions | None = None, source: Tensor | None = None, subwords=None
    ):
        """options: default `speak_options(bundle)`; source: [1, S, C] of `source_frames`, what the MT decoder attends
        to; subwords: default the bundle's. Raises SessionError where the bundle cannot speak, or not word by word."""
        self.bundle, self.options = bundle, options or speak_options(bundle)
        if bundle.vocoder is None:
            raise SessionError("the bundle has no vocoder: give one to save_bundle(vocoder=...)")
        causal = bundle.config.unit.causal_encoder
        self.word_by_word = causal if self.options.word_by_word is None else self.options.word_by_word
        if self.word_by_word and not causal:
            raise SessionError(
                "the model's T2U encoder is not causal (--uni-encoder): it speaks whole sentences, not word by word"
            )
        self.subwords = subwords or Subwords(bundle.target_dictionary, bundle.target_spm)
        with torch.inference_mode():
            self._opening = _opening(bundle.model.target_unigram_decoder, source)
        self.reset()

    def reset(self):
        """Forget the text, finished or not."""
        self._reader = WordReader(self.options.lines)
        self._samples = 0
        self._finished = False
        self._begin_sentence()

    def _begin_sentence(self):
        kind = WordVoice if self.word_by_word else SentenceVoice
        with torch.inference_mode():
            self._voice = kind(self.bundle, self.options, self._opening)
        self._words = []  # (word, its number of tokens)
        self._sentence_samples = self._samples  # where the sentence begins in the speech

    @property
    def finished(self) -> bool:
        """Was `finish` called?"""
        return self._finished

    @torch.inference_mode()
    def push(self, text: str) -> list:
        """Take a piece of text, cut anywhere; returns the events that its complete words lead to.

        Raises InputError for what is not text, SessionError after `finish`."""
        if self._finished:
            raise SessionError("this text is finished: call reset() before the next push")
        if not isinstance(text, str):
            raise InputError(f"expected text, got {type(text).__name__}")
        events = []
        for word in self._reader.push(text):
            self._take(word, events)
        return events

    @torch.inference_mode()
    def finish(self) -> list:
        """The text ends here: the last word is complete, and everything is spoken. A second call returns no events."""
        if self._finished:
            return []
        events = []
        for word in self._reader.finish():
            self._take(word, events)
        self._end_sentence(events)
        self._finished = True
        return [*events, Finished(NO_SOURCE_MS)]

    def _take(self, written: str | None, events: list):
        """written: the next word with its punctuation, or the end of the sentence."""
        if written is SENTENCE_END:
            return self._end_sentence(events)
        word = normalise(written)
        tokens = self.subwords.encode(word) if len(written) <= LONGEST_WORD else [UNK]
        if word and UNK in tokens:
            events.append(UnknownWord(written))
        elif word:
            if self._spoken_tokens + len(tokens) > self.options.longest_sentence:
                self._end_sentence(events)
            self._say(word, tokens, events)
        if ends_clause(written) and 2 * self._spoken_tokens >= self.options.longest_sentence:
            self._end_sentence(events)

    @property
    def _spoken_tokens(self) -> int:
        return sum(count for _, count in self._words)

    def _say(self, word: str, tokens: list, events: list):
        if self.subwords.spells(tokens, word):
            events.append(UnknownWord(word, spelled=True))
        self._words.append((word, len(tokens)))
        text = " ".join(word for word, _ in self._words)
        added = text if len(self._words) == 1 else f" {word}"
        events.append(TargetText(text, added, NO_SOURCE_MS))
        self._tell(*self._voice.say(tokens), events)

    def _end_sentence(self, events: list):
        if not self._words:
            return
        self._tell(*self._voice.finish(), events)
        text = " ".join(word for word, _ in self._words)
        events.append(SpokenSentence(text, self._word_times()))
        self._begin_sentence()

    def _tell(self, units: list, samples: np.ndarray, events: list):
        if units or len(samples):
            self._samples += len(samples)
            rate = self.bundle.vocoder.config.sampling_rate
            events.append(Speech(samples.astype(np.float32), rate, tuple(units), NO_SOURCE_MS))

    def _word_times(self) -> tuple[SpokenWord, ...]:
        """Each word's place in the speech: that of the units which start in the frames of its tokens."""
        voice, vocoder = self._voice, self.bundle.vocoder
        units = torch.tensor([voice.units], dtype=torch.long, device=self.bundle.device)
        durations = vocoder.durations(units) if vocoder.dur_predictor is not None else torch.ones_like(units)
        bounds = np.cumsum([0, *durations[0].tolist()]) * vocoder.config.hop_samples + self._sentence_samples
        bounds = 1000 * bounds / vocoder.config.sampling_rate
        ends = np.cumsum([count for _, count in self._words]) * self.bundle.config.unit.upsample
        ends[-1] += self.bundle.config.unit.upsample  # the frames of </s> belong to the last word
        after = np.searchsorted(voice.starts, ends)  # units up to the end of each word
        before = np.concatenate([[0], after[:-1]])
        spans = zip(self._words, bounds[before], bounds[after], strict=True)
        return tuple(SpokenWord(word, float(start), float(end)) for (word, _), start, end in spans)


class ForcedDecoder:
    """The MT decoder over one sentence whose tokens are given."""

    def __init__(self, decoder: StreamingDecoder, opening: StreamState, lead: float):
        """opening: the decoder's state before the first token."""
        self.decoder, self.lead = decoder, lead
        self._last = EOS
        self._state = opening

    def states(self, tokens: list) -> Tensor:
        """The states [1, u, D] that predict the next u tokens."""
        device = self.decoder.embed_tokens.weight.device
        previous = torch.tensor([[self._last, *tokens[:-1]]], device=device)
        hidden, self._state = self.decoder.step(previous, self._state)
        self._last = tokens[-1]
        if not self.lead:
            return hidden
        return steer(hidden, torch.tensor(tokens, device=device), self.decoder.embed_tokens.weight, self.lead)


class WordVoice:
    """One sentence, spoken as its words come."""

    def __init__(self, bundle: Bundle, options: SpeakOptions, opening: StreamState):
        self._decoder = ForcedDecoder(bundle.model.target_unigram_decoder, opening, options.lead)
        self._speaker = TimedSpeaker(
            bundle.model, StreamingVocoder(bundle.vocoder), options.lagging_k2, options.stride_n2
        )
        self.units = []

    @property
    def starts(self) -> list:
        """The unit frame at which each unit starts."""
        return self._speaker.starts

    def say(self, tokens: list) -> tuple[list, np.ndarray]:
        """The units and samples [n] that the next tokens settle."""
        return self._keep(*self._speaker.speak(self._decoder.states(tokens)))

    def finish(self) -> tuple[list, np.ndarray]:
        """Those that waited for more, and those of the sentence's end."""
        units, samples = self.say([EOS])
        last_units, last_samples = self._keep(*self._speaker.finish())
        return units + last_units, np.concatenate([samples, last_samples])

    def _keep(self, units: list, samples: np.ndarray) -> tuple[list, np.ndarray]:
        self.units += units
        return units, samples


class SentenceVoice:
    """One sentence, spoken as a whole at its end, as in training: any model can."""

    def __init__(self, bundle: Bundle, options: SpeakOptions, opening: StreamState):
        self.bundle = bundle
        self._decoder = ForcedDecoder(bundle.model.target_unigram_decoder, opening, options.lead)
        # a T2U encoder that looks ahead was trained without a wait
        self._lags = WaitKLags(
            k2=options.lagging_k2, n2=options.stride_n2 if bundle.config.unit.causal_encoder else None
        )
        self._tokens = []
        self.units, self.starts = [], []

    def say(self, tokens: list) -> tuple[list, np.ndarray]:
        """Nothing yet."""
        self._tokens += tokens
        return [], np.zeros(0, dtype=np.float32)

    def finish(self) -> tuple[list, np.ndarray]:
        """All units and samples [n] of the sentence."""
        hidden = self._decoder.states([*self._tokens, EOS])
        padding = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        logits, _ = self.bundle.model.units(hidden, padding, self._lags)
        self.units, self.starts = real_units(*greedy_collapse(logits[0], blank=-1), self.bundle.units)
        wave, _ = self.bundle.vocoder(torch.tensor([self.units], dtype=torch.long, device=hidden.device))
        return self.units, wave[0].float().cpu().numpy()


class TimedSpeaker(Speaker):
    """A speaker that keeps at which unit frame each unit started."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.starts = []

    def _started(self, frames: list) -> None:
        self.starts += frames


def steer(hidden: Tensor, tokens: Tensor, embeddings: Tensor, lead: float) -> Tensor:
    """Move decoder states until each gives its token log-odds of `lead`, by about the shortest way there.

    hidden: [1, u, D] states after the final norm; tokens: [u]; embeddings: [V, D], also the output map. Returns
    [1, u, D]; a state that is sure enough of its token stays as it is, and no state depends on another.

    The lead that is lacking, log-sum-exp of the other logits + lead - the token's, is convex in the state. Each step
    goes to where its linearisation is zero (Polyak's step), so the steps shrink towards the nearest such state."""
    embeddings = embeddings.float()
    wanted, moved = tokens.view(1, -1, 1), hidden.float()
    for _ in range(STEER_STEPS):
        logits = moved @ embeddings.T
        others = logits.scatter(2, wanted, -torch.inf)
        lacking = (others.logsumexp(2, keepdim=True) + lead - logits.gather(2, wanted)).clamp(min=0)
        if not lacking.any():
            break
        uphill = embeddings[tokens] - others.softmax(2) @ embeddings
        moved = moved + uphill * lacking / uphill.square().sum(2, keepdim=True).clamp(min=1e-6)
    return moved.to(hidden.dtype)


@torch.inference_mode()
def source_frames(bundle: Bundle, samples, sample_rate: int) -> Tensor:
    """Encoder frames [1, S, C] of a recording of the source, for `TextSpeaker(source=...)`.

    samples: [n] or [n, channels], as a session takes them. Raises InputError where it is too short for a frame."""
    kind = bundle.config.encoder.features
    features = features_of(samples, sample_rate, bundle.cmvn_mean, bundle.cmvn_std, kind)
    if len(features) == 0:
        raise InputError("the source recording is shorter than 25 ms")
    parameter = next(bundle.model.encoder.parameters())
    inputs = torch.from_numpy(features).to(parameter).unsqueeze(0)
    lengths = torch.tensor([len(features)], device=parameter.device)
    frames, _ = bundle.model.encoder(inputs, lengths, 0)
    return frames


def _opening(decoder: StreamingDecoder, frames: Tensor | None) -> StreamState:
    """The state of a sentence's begin: all of its source, if it has one, and no token."""
    return decoder.without_source() if frames is None else decoder.add_source(frames, decoder.initial_state())
