"""Decoding as StreamSpeech's agent does it: at every push the whole prefix again, with all the source so far.

For its published weights and for comparisons. Earlier tokens stay, but their states, and with them units that were
already spoken, are computed anew from the longer source; units count as new by their number alone.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.constants import EOS, PAD, SPECIALS, UNK
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.policies import Policy, PolicyState
from echostream_plugin.inference.policies.base import complete_words
from echostream_plugin.inference.stages import cross_attention
from echostream_plugin.inference.translators.base import Translator, Written, register_translator
from echostream_plugin.model import S2STModel, WaitKLags
from echostream_plugin.vocoder import StreamingVocoder


@dataclass(frozen=True)
class DecodingStep:
    """What one decoding step over the source came to; None where the policy had decided before it was computed.

    asr, st: CTC tokens over all frames; tokens: the MT hypothesis without `</s>`; units: all units, as dictionary
    indices; new_units: units 0..K-1 to be spoken now (READ where there are none)."""

    asr: list
    st: list
    tokens: list | None = None
    units: list | None = None
    new_units: tuple = ()


class PrefixTranslator:
    """The policy and the two decoders over all encoder frames so far; one sentence.

    tokens: committed target tokens; spoken: units 0..K-1 of the newest write, from the first on."""

    SAVED = ("policy", "tokens", "spoken", "_started", "_inputs")

    def __init__(self, model: S2STModel, dictionary: Dictionary, policy: Policy):
        self.model, self.dictionary, self.policy = model, dictionary, policy
        self.whole_word = policy.options.writes_whole_words
        self.tokens = []
        self.spoken = []
        self._started = False
        self._inputs = 0  # length of the newest MT input that units were made from

    def step(self, frames: Tensor, finished: bool, speech: bool = True, source_text: str = "") -> DecodingStep:
        """frames: [1, S, C] all encoder frames, those of an unfinished chunk included; finished: no more will come."""
        asr, st = (greedy_collapse(head(frames)[0])[0] for head in self._heads())
        count = self._allowed(self._state(frames, len(asr), len(st), finished, source_text))
        if count < 1 and not finished:
            return DecodingStep(asr, st)
        hypothesis = tokens = self._extend(frames, count)
        if self.whole_word and not finished:
            tokens = tokens[: complete_words([self.dictionary.starts_word(token) for token in tokens])]
        unchanged = self._started and tokens == self.tokens
        if unchanged or (not tokens and not finished):
            return DecodingStep(asr, st, hypothesis)
        self.tokens, self._started = tokens, True
        # StreamSpeech's input is one padding longer at the end of a source that is read in whole words
        inputs = [EOS, *tokens] + [PAD] * (self.whole_word and finished)
        if not speech or (not finished and len(inputs) <= self._inputs):
            return DecodingStep(asr, st, hypothesis)
        self._inputs = len(inputs)
        units = self._units(frames, inputs)
        new = self._speak(units)
        return DecodingStep(asr, st, hypothesis, units, tuple(new))

    def _heads(self):
        return self.model.source_unigram_decoder, self.model.ctc_target_unigram_decoder

    def _state(self, frames: Tensor, asr: int, st: int, finished: bool, source_text: str) -> PolicyState:
        text, attention = self.dictionary.text(self.tokens), partial(self._attention, frames)
        return PolicyState(asr, st, len(self.tokens), frames.size(1), finished, source_text, text, attention)

    def _allowed(self, state: PolicyState) -> int:
        """How many tokens the MT decoder may add. That a write was tried counts, even if nothing comes of it."""
        if state.ended:
            return self.policy.rest(state) - state.written
        count = self.policy.decide(state)
        self.policy.wrote(state)
        return count

    def _extend(self, frames: Tensor, count: int, attention: list | None = None) -> list:
        """The committed tokens and up to `count` more; `</s>` ends them and is left out. attention: takes the weights
        of each step."""
        decoder = self.model.target_unigram_decoder
        state = decoder.add_source(frames, decoder.initial_state())
        tokens, inputs = list(self.tokens), [EOS, *self.tokens]
        for _ in range(count):
            hidden, state = decoder.step(torch.tensor([inputs], device=frames.device), state, attention=attention)
            scores = decoder.logits(hidden)[0, -1]
            scores[PAD] = -torch.inf
            if not tokens:
                scores[EOS] = -torch.inf
            inputs = [int(scores.argmax())]
            if inputs[0] == EOS:
                break
            tokens += inputs
        return tokens

    def _attention(self, frames: Tensor, count: int) -> Tensor:
        weights = []
        self._extend(frames, count, weights)
        return cross_attention(weights)

    def _units(self, frames: Tensor, inputs: list) -> list:
        """Greedy units of all MT states, as dictionary indices."""
        prev_tokens = torch.tensor([inputs], device=frames.device)
        hidden = self.model.target_unigram_decoder(prev_tokens, frames)
        logits, _ = self.model.units(hidden, prev_tokens.eq(PAD), WaitKLags(text=False, n2=None))
        return greedy_collapse(logits[0], blank=-1, forbidden=(PAD, UNK))[0]

    def _speak(self, units: list) -> list:
        """Units 0..K-1 beyond the number of those that were spoken before."""
        count = self.model.config.unit.units
        units = [unit - len(SPECIALS) for unit in units if 0 <= unit - len(SPECIALS) < count]
        new = units[len(self.spoken) :]
        if new:
            self.spoken = units
        return new


@register_translator
class RecomputeTranslator(Translator):
    """Every push computes all tokens' states and units again with all the source so far, as StreamSpeech's
    agent does."""

    name = "recompute"
    SAVED = ("prefix", "_heard")
    by_segment = False
    decides_last = False
    uses_vad = False

    def __init__(self, bundle, options, listener, context=None):
        super().__init__(bundle, options, listener)
        self.prefix = PrefixTranslator(bundle.model, bundle.target_dictionary, self.policy)
        self._heard = []  # complete encoder frames [1, s, C]

    @property
    def tokens(self) -> list:
        return self.prefix.tokens

    def hear(self, frames: Tensor):
        self._heard.append(frames)

    def decide(self, provisional: Tensor | None = None, source_text: str = ""):
        yield from ()  # every decoding step has its own length: there is nothing to compute together
        frames = [*self._heard, *([] if provisional is None else [provisional])]
        return self._decode(frames, False, source_text)

    def finish(self, source_text: str = ""):
        yield from ()
        return self._decode(self._heard, True, source_text)

    def _decode(self, frames: list, finished: bool, source_text: str) -> Written:
        step = self.prefix.step(torch.cat(frames, dim=1), finished, self.options.speaks, source_text)
        if not step.new_units:
            return Written(self.tokens)
        samples = speak_last(self.bundle.vocoder, self.prefix.spoken, len(step.new_units))
        return Written(self.tokens, list(step.new_units), samples)


def speak_last(vocoder, units: list, new: int) -> np.ndarray:
    """Samples [n] of the last `new` units of a sequence that is spoken as a whole."""
    stream = StreamingVocoder(vocoder)  # gives the same in blocks of few lengths, whatever the sequence's
    samples, state = stream.push(units, stream.initial_state())
    wave = torch.cat([samples, stream.finish(state)])
    durations = vocoder.durations(torch.tensor([units], device=wave.device))
    count = int(durations[0, -new:].sum()) * vocoder.config.hop_samples
    return wave[len(wave) - count :].cpu().numpy()
