"""Decoding as StreamSpeech's agent does it: at every push the whole prefix again, with all the source so far.

For its published weights and for comparisons. Earlier tokens stay, but their states, and with them units that were
already spoken, are computed anew from the longer source; units count as new by their number alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.dictionary import EOS, PAD, SPECIALS, UNK, Dictionary
from echostream_plugin.inference.policy import complete_words, has_grown, target_length
from echostream_plugin.model import S2STModel, Waits
from echostream_plugin.vocoder import StreamingVocoder


@dataclass(frozen=True)
class Look:
    """What one look at the source came to; None where the policy had decided before it was computed.

    asr, st: CTC tokens over all frames; tokens: the MT hypothesis without `</s>`; units: all units, as dictionary
    indices; new_units: units 0..K-1 to be spoken now (READ where there are none)."""

    asr: list
    st: list
    tokens: list | None = None
    units: list | None = None
    new_units: tuple = ()


class PrefixTranslator:
    """The policy and the two decoders over all encoder frames so far; one utterance.

    tokens: committed target tokens; spoken: units 0..K-1 of the newest write, from the first on."""

    SAVED = ("tokens", "spoken", "_asr", "_st", "_started", "_inputs")

    def __init__(
        self,
        model: S2STModel,
        dictionary: Dictionary,
        k1: int = 0,
        stride_n: int = 1,
        whole_word: bool = False,
        max_tokens: int = 100,
    ):
        self.model, self.dictionary = model, dictionary
        self.k1, self.stride_n, self.whole_word, self.max_tokens = k1, stride_n, whole_word, max_tokens
        self.tokens = []
        self.spoken = []
        self._asr = self._st = 0  # the largest CTC counts that let a write be tried
        self._started = False
        self._inputs = 0  # length of the newest MT input that units were made from

    def look(self, frames: Tensor, finished: bool, speech: bool = True) -> Look:
        """frames: [1, S, C] all encoder frames, those of an unfinished chunk included; finished: no more will come."""
        asr, st = (greedy_collapse(head(frames)[0])[0] for head in self._heads())
        count = self._allowed(len(asr), len(st), finished)
        if count < 1 and not finished:
            return Look(asr, st)
        hypothesis = tokens = self._extend(frames, count)
        if self.whole_word and not finished:
            tokens = tokens[: complete_words([self.dictionary.starts_word(token) for token in tokens])]
        unchanged = self._started and tokens == self.tokens
        if unchanged or (not tokens and not finished):
            return Look(asr, st, hypothesis)
        self.tokens, self._started = tokens, True
        # StreamSpeech's input is one padding longer at the end of a source that is read in whole words
        inputs = [EOS, *tokens] + [PAD] * (self.whole_word and finished)
        if not speech or (not finished and len(inputs) <= self._inputs):
            return Look(asr, st, hypothesis)
        self._inputs = len(inputs)
        units = self._units(frames, inputs)
        new = self._speak(units)
        return Look(asr, st, hypothesis, units, tuple(new))

    def _heads(self):
        return self.model.source_unigram_decoder, self.model.ctc_target_unigram_decoder

    def _allowed(self, asr: int, st: int, finished: bool) -> int:
        """How many tokens the MT decoder may add. That a write was tried counts, even if nothing comes of it."""
        if finished:
            return self.max_tokens - len(self.tokens)
        if not has_grown(asr, st, self._asr, self._st, self.stride_n):
            return 0
        self._asr, self._st = max(asr, self._asr), max(st, self._st)
        return target_length(st, self.k1, self.stride_n) + int(self.whole_word) - len(self.tokens)

    def _extend(self, frames: Tensor, count: int) -> list:
        """The committed tokens and up to `count` more; `</s>` ends them and is left out."""
        decoder = self.model.target_unigram_decoder
        state = decoder.add_source(frames, decoder.initial_state())
        tokens, inputs = list(self.tokens), [EOS, *self.tokens]
        for _ in range(count):
            hidden, state = decoder.step(torch.tensor([inputs], device=frames.device), state)
            scores = decoder.logits(hidden)[0, -1]
            scores[PAD] = -torch.inf
            if not tokens:
                scores[EOS] = -torch.inf
            inputs = [int(scores.argmax())]
            if inputs[0] == EOS:
                break
            tokens += inputs
        return tokens

    def _units(self, frames: Tensor, inputs: list) -> list:
        """Greedy units of all MT states, as dictionary indices."""
        prev_tokens = torch.tensor([inputs], device=frames.device)
        hidden = self.model.target_unigram_decoder(prev_tokens, frames)
        logits, _ = self.model.units(hidden, prev_tokens.eq(PAD), Waits(text=False, n2=None))
        return greedy_collapse(logits[0], blank=-1, forbidden=(PAD, UNK))[0]

    def _speak(self, units: list) -> list:
        """Units 0..K-1 beyond the number of those that were spoken before."""
        count = self.model.config.unit.vocab - len(SPECIALS) - 1
        units = [unit - len(SPECIALS) for unit in units if 0 <= unit - len(SPECIALS) < count]
        new = units[len(self.spoken) :]
        if new:
            self.spoken = units
        return new


def speak_last(vocoder, units: list, new: int) -> np.ndarray:
    """Samples [n] of the last `new` units of a sequence that is spoken as a whole."""
    stream = StreamingVocoder(vocoder)  # gives the same in blocks of few lengths, whatever the sequence's
    samples, state = stream.push(units, stream.initial_state())
    wave = torch.cat([samples, stream.finish(state)])
    durations = vocoder.durations(torch.tensor([units], device=wave.device))
    count = int(durations[0, -new:].sum()) * vocoder.config.hop_samples
    return wave[len(wave) - count :].cpu().numpy()
