"""Decoding as in training: MT decoder, units and vocoder step by step, with the state of each."""

from functools import partial

import torch
from torch import Tensor

from echostream_plugin.constants import EOS
from echostream_plugin.inference.confidence import Hypotheses
from echostream_plugin.inference.errors import SessionError
from echostream_plugin.inference.guards import until_repeat
from echostream_plugin.inference.policies import PolicyState
from echostream_plugin.inference.policies.base import complete_words
from echostream_plugin.inference.stages import Speaker, Writer
from echostream_plugin.inference.translators.base import Translator, Written, register_translator
from echostream_plugin.vocoder import StreamingVocoder

PIECE_TOKENS = 4  # of a long write so many are written, and so many spoken, before the next ones are begun


@register_translator
class IncrementalTranslator(Translator):
    """Each token keeps the source it was made from, as in training; nothing is computed twice."""

    name = "incremental"
    SAVED = ("policy", "frames", "writer", "speaker", "gate")
    takes_context = True
    gated = True

    def __init__(self, bundle, options, listener, context=None):
        super().__init__(bundle, options, listener)
        self.frames = 0  # complete encoder frames that were taken in
        self.writer = Writer(bundle.model, context)
        self.speaker = None
        if options.speaks:
            vocoder = StreamingVocoder(bundle.vocoder)
            self.speaker = Speaker(bundle.model, vocoder, options.lagging_k2, options.stride_n2)

    @classmethod
    def check(cls, bundle, options):
        if options.speaks and not bundle.config.unit.causal_encoder:
            raise SessionError("the model's T2U encoder is not causal (--uni-encoder): it cannot speak as it goes")
        if options.has_gate and bundle.gate is None:
            raise SessionError("the bundle has no gate: use gate=0, or calibrate one with scripts/calibrate_gate.py")

    @property
    def tokens(self) -> list:
        return self.writer.tokens

    def hear(self, frames: Tensor):
        self.frames += frames.size(1)
        self.writer.hear(frames)

    def decide(self, provisional: Tensor | None = None, source_text: str = ""):
        found = yield from self.listener.hypotheses(provisional)
        state = self._state(found, provisional, source_text)
        count = self.policy.decide(state)
        count = count if self.gate is None else self.gate.most(count)
        drafts = yield from self.writer.drafting(count, provisional)
        if drafts and drafts[-1].token == EOS:
            drafts.pop()  # the sentence may seem complete, but its source goes on: read
        drafts = drafts[: self._until_repeat(drafts)]
        if self.options.writes_whole_words:
            drafts = drafts[: self._complete_words(drafts)]
        if not drafts or not self._allowed(drafts, found, provisional):
            return
        self.policy.wrote(state)
        yield from self._write(drafts, drafts)

    def finish(self, source_text: str = ""):
        """Decode to `</s>` and speak everything, the state that predicts `</s>` included."""
        found = yield from self.listener.hypotheses()
        state = self._state(found, None, source_text, ended=True)
        most, known = self.policy.rest(state) + 1, None
        if self.gate is not None:  # which judges all of them
            known = yield from self.writer.drafting(most)
            written = known[: self._until_repeat(known) + 1][:-1]
            if written and not self._allowed(written, found, None):
                return Written(self.tokens, *((yield from self._speak_rest()) if self.tokens else ()))
        yield from self._write_rest(most, known)
        return Written(self.tokens, *(yield from self._speak_rest()))

    def _write_rest(self, most: int, known: list | None):
        """Write the last drafts of the sentence a few at a time, as their words are complete, and speak them. There are
        `most`, if they do not end by themselves; the last one is `</s>`, or stands for it. known: them, None: not yet.
        """
        drafts, over = [], False
        while not over:
            count = min(most, len(drafts) + PIECE_TOKENS)
            if known is None:
                drafts = yield from self.writer.drafting(count, drafts=drafts)
            else:
                drafts = known[:count]
            kept = self._until_repeat(drafts) + 1
            over = kept <= len(drafts) or drafts[-1].token == EOS or len(drafts) == most
            whole = len(drafts[:kept]) - 1 if over else self._complete_words(drafts)
            if whole or over:
                yield from self._write(drafts[:whole], drafts[: whole + over])
            drafts, most, known = drafts[whole:], most - whole, known and known[whole:]

    def _speak_rest(self):
        """Units and speech that waited for more."""
        return () if self.speaker is None else (yield from self.speaker.finishing())

    def _write(self, written: list, spoken: list):
        """Commit drafts and speak the states of drafts, a few at a time; yields calls and what is written."""
        self.writer.commit(written)
        yield Written(self.tokens)
        if self.speaker is not None:
            for hidden in torch.cat([draft.hidden for draft in spoken], dim=1).split(PIECE_TOKENS, dim=1):
                yield Written(self.tokens, *(yield from self.speaker.speaking(hidden)))

    def _complete_words(self, drafts: list) -> int:
        """How many of the drafts make up whole words."""
        return complete_words([self.bundle.target_dictionary.starts_word(draft.token) for draft in drafts])

    def _allowed(self, drafts: list, found: Hypotheses, provisional: Tensor | None) -> bool:
        """Is the model sure enough of what it has drafted?"""
        if self.gate is None:
            return True
        frames = self.listener.frames + (0 if provisional is None else provisional.size(1))
        tokens, scores = [draft.token for draft in drafts], [draft.scores for draft in drafts]
        return self.gate.allows(found, self.tokens, tokens, scores, frames)

    def _state(
        self, found: Hypotheses, provisional: Tensor | None, source_text: str, ended: bool = False
    ) -> PolicyState:
        asr, st = len(found.asr.tokens), len(found.st.tokens)
        frames = self.frames + (0 if provisional is None else provisional.size(1))
        target_text = self.bundle.target_dictionary.text(self.tokens)
        attention = partial(self.writer.attention, provisional=provisional)
        return PolicyState(asr, st, len(self.tokens), frames, ended, source_text, target_text, attention)

    def _until_repeat(self, drafts: list) -> int:
        """How many of the drafts can be written before they say the same over and over."""
        return until_repeat(self.tokens, [draft.token for draft in drafts], self.options.max_repeats)
