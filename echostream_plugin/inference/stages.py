"""The stages of one utterance: listener (encoder, CTC heads), writer (MT decoder), speaker (units, vocoder).

Each holds the streaming state of its part and shares the parameters with all other utterances. Every stage works on new
input only.

What they compute they ask for: their methods are generators that yield a `work.Call` and are sent its result.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from echostream_plugin.constants import EOS, FEATURES_PER_FRAME, PAD, SPECIALS
from echostream_plugin.decoders.ctc import CollapseState, CTCHead, collapse_step
from echostream_plugin.decoders.text import TextDecoderState
from echostream_plugin.inference.confidence import Hypotheses, Hypothesis, frame_sums, language_sums
from echostream_plugin.inference.work import Call, alone
from echostream_plugin.model import S2STModel
from echostream_plugin.vocoder import StreamingVocoder

ENCODER, HEADS, MT, T2U, UNITS, SOUND = range(6)  # parts of a `work.Call`


class CTCPrefix:
    """The greedy tokens of a CTC head over the encoder frames so far."""

    SAVED = ("tokens", "starts", "sums", "_head_state", "_collapse_state")

    def __init__(self, head: CTCHead):
        self.head = head
        self.tokens = []
        self.starts = []  # the frame of the stream at which each of them starts
        self.sums = None  # of `confidence.frame_sums` over the sentence, where somebody watches
        self._head_state = head.initial_state()
        self._collapse_state = CollapseState.initial()

    def watch(self):
        """From here on, keep what the head's confidence is computed from."""
        self.sums = frame_sums()

    def extend(self, frames: Tensor):
        """frames: [1, s, C] that will not change any more."""
        logits, self._head_state = yield Call(self.head.step, frames, self._head_state, part=HEADS)
        tokens, starts, self._collapse_state = collapse_step(logits[0], self._collapse_state)
        self.tokens += tokens
        self.starts += starts
        if self.sums is not None:
            self.sums = frame_sums(logits[0], self.sums)

    def hypothesis(self, provisional: Tensor | None = None):
        """What was found so far (`confidence.Hypothesis`), with what is in provisional frames [1, p, C] if given."""
        if provisional is None or provisional.size(1) == 0:
            return Hypothesis(list(self.tokens), self.sums)
        logits, _ = yield Call(self.head.step, provisional, self._head_state, part=HEADS)
        sums = None if self.sums is None else frame_sums(logits[0], self.sums)
        return Hypothesis(self.tokens + collapse_step(logits[0], self._collapse_state)[0], sums)

    def forget(self, frame: int):
        """A new sentence begins at that frame: what starts before is forgotten, while the head goes on."""
        kept = self.count_before(frame)
        self.tokens, self.starts = self.tokens[kept:], self.starts[kept:]
        if self.sums is not None:
            self.watch()

    def cut(self, frame: int) -> tuple[list, list]:
        """Take away the tokens that start at that frame or later; returns them with their starts, for `put_back`."""
        count = self.count_before(frame)
        later = self.tokens[count:], self.starts[count:]
        self.tokens, self.starts = self.tokens[:count], self.starts[:count]
        return later

    def put_back(self, later: tuple[list, list]):
        """later: of `cut`."""
        self.tokens, self.starts = self.tokens + later[0], self.starts + later[1]

    def count_before(self, frame: int) -> int:
        """How many of the tokens start before that frame."""
        return bisect_left(self.starts, frame)

    def restart(self, frame: int):
        """The head begins anew too, at that frame of the stream."""
        self._head_state = self.head.initial_state()
        self._collapse_state = CollapseState(CollapseState.initial().last, torch.tensor([frame]))


class Listener:
    """Features in, encoder frames out: segments that are complete, and the provisional rest.

    restartable: keep the features whose frames were not taken in yet, for `restart`, and those from the frame
    `kept_from` on, for `rewind` and `features_between`."""

    SAVED = ("asr", "st", "feature_frames", "frames", "_state", "_features", "_first_feature", "_language_sums")

    def __init__(self, model: S2STModel, segment_frames: int, restartable: bool = False):
        self.encoder = model.encoder
        self.segment_frames = segment_frames
        self.asr = CTCPrefix(model.source_unigram_decoder)
        self.st = CTCPrefix(model.ctc_target_unigram_decoder)
        self.feature_frames = 0
        self.frames = 0  # complete encoder frames
        self.kept_from = None  # see above
        self._language = self._language_sums = None  # of `confidence.language_sums`, where somebody watches
        self._like = next(model.parameters())
        self._state = model.encoder.initial_state(1, segment_frames)
        self._first_feature = 0  # of the encoder's state, counted over the stream
        self._features = np.zeros((0, model.config.encoder.input_dim), dtype=np.float32) if restartable else None

    def watch(self, language: tuple = ()):
        """From here on, keep what the confidence of a sentence is computed from. language: of its `GateModel`."""
        self.asr.watch()
        self.st.watch()
        if language:
            self._language = torch.tensor(language, dtype=torch.double, device=self._like.device)
            self._language_sums = language_sums(None, self._language)

    def hypotheses(self, provisional: Tensor | None = None):
        """The heads' `Hypotheses` of the sentence so far, with provisional frames [1, p, C] if given."""
        asr = yield from self.asr.hypothesis(provisional)
        st = yield from self.st.hypothesis(provisional)
        language = self._language_sums
        if language is not None and provisional is not None:
            language = language_sums(provisional[0], self._language, language)
        return Hypotheses(asr, st, language)

    @property
    def has_tokens(self) -> bool:
        """Did any head find a token?"""
        return bool(self.asr.tokens or self.st.tokens)

    def token_frames(self, before: int | None = None) -> tuple[int, int] | None:
        """The frames at which the first and the newest token start, whichever head found them, of those that start
        before a frame, None: of all; None where there is none."""
        starts = [head.starts[: None if before is None else head.count_before(before)] for head in (self.asr, self.st)]
        found = [own for own in starts if own]
        return (min(own[0] for own in found), max(own[-1] for own in found)) if found else None

    @property
    def available_frames(self) -> int:
        """Encoder frames whose features are there, provisional ones included."""
        return int(self.encoder.output_lengths(self.feature_frames))

    def hear(self, features: np.ndarray):
        """features: [t, 80]; returns the segments [1, s, C] that are now complete, not yet taken in."""
        skipped = max(0, self._first_feature - self.feature_frames)
        self.hold(features)
        return (yield from self._encode(features[skipped:]))

    def hold(self, features: np.ndarray):
        """features: [t, 80] that wait for `restart`."""
        self.feature_frames += len(features)
        if self._features is not None:
            first = self.frames if self.kept_from is None else min(self.kept_from, self.frames)
            self._features = self._since(first, np.concatenate([self._features, features])).copy()

    def features_between(self, first: int, end: int) -> np.ndarray:
        """[t, bins] of the frames first to end - 1, which were kept."""
        start = self.feature_frames - len(self._features)
        return self._features[FEATURES_PER_FRAME * first - start : FEATURES_PER_FRAME * end - start]

    def skip(self, frames: int):
        """The next so many frames are never computed; `restart` must follow."""
        self.frames += frames

    def rewind(self, frame: int):
        """The frames from that one on, whose features were kept, are to come again; `restart` must follow."""
        self.frames = frame

    def restart(self):
        """Encoder and heads begin anew with the features after the frames that were taken in; returns the segments that
        are complete, as `hear`, in place of those not taken in."""
        self._state = self.encoder.initial_state(1, self.segment_frames)
        self._first_feature = FEATURES_PER_FRAME * self.frames
        self.asr.restart(self.frames)
        self.st.restart(self.frames)
        return (yield from self._encode(self._since(self.frames, self._features)))

    def _since(self, frame: int, features: np.ndarray) -> np.ndarray:
        """Of the newest features those of that frame and later ones; there may be none yet."""
        return features[max(0, len(features) - max(0, self.feature_frames - FEATURES_PER_FRAME * frame)) :]

    def _encode(self, features: np.ndarray):
        if len(features) == 0:
            return []
        features = torch.from_numpy(features).to(self._like)
        frames, self._state = yield Call(self.encoder.step, features.unsqueeze(0), self._state)
        return list(frames.split(self.segment_frames or frames.size(1), dim=1)) if frames.size(1) else []

    def take_in(self, frames: Tensor):
        """frames: [1, s, C], the next complete ones: the CTC heads read them."""
        self.frames += frames.size(1)
        if self._language is not None:
            self._language_sums = language_sums(frames[0], self._language, self._language_sums)
        if frames.size(1):
            yield from self.asr.extend(frames)
            yield from self.st.extend(frames)

    def rest(self):
        """The frames [1, r, C] of the unfinished segment if the utterance ended here; changes nothing."""
        return (yield Call(self.encoder.finish, None, self._state))

    def forget(self, frame: int):
        """A new sentence begins at that frame of the stream: what the heads found before it is forgotten, encoder and
        heads go on."""
        self.asr.forget(frame)
        self.st.forget(frame)
        if self._language is not None:
            self._language_sums = language_sums(None, self._language)

    def cut(self, frame: int) -> tuple:
        """Take away what the heads found at that frame and later, for `put_back`."""
        return self.asr.cut(frame), self.st.cut(frame)

    def put_back(self, later: tuple):
        """later: of `cut`."""
        self.asr.put_back(later[0])
        self.st.put_back(later[1])


@dataclass(frozen=True)
class Draft:
    """A token that the MT decoder proposes, the hidden state [1, 1, D] that predicted it, the scores [V] that it was
    chosen by, and the decoder's state after consuming the token before it. Dropping a draft is all it takes to roll it
    back."""

    token: int
    hidden: Tensor
    scores: Tensor
    state: TextDecoderState


class Writer:
    """Greedy MT decoding; committed tokens are never revised.

    prefix: tokens that the decoder takes as if it had written them before the first one (the end of the sentence
    before); they are no tokens of this writer, so nothing writes or speaks them."""

    SAVED = ("tokens", "prefix", "_state")

    def __init__(self, model: S2STModel, prefix: list | None = None):
        self.decoder = model.target_unigram_decoder
        self.tokens = []
        self.prefix = list(prefix or [])
        self._device = next(model.parameters()).device
        self._state = self.decoder.initial_state()

    def hear(self, frames: Tensor):
        """frames: [1, s, C] complete encoder frames."""
        if frames.size(1):
            self._state = self.decoder.add_source(frames, self._state)

    def draft(self, count: int, provisional: Tensor | None = None) -> list:
        """`drafting`, done at once."""
        return alone(self.drafting(count, provisional))

    def drafting(self, count: int, provisional: Tensor | None = None, drafts: list = ()):
        """Up to `count` drafts after the committed tokens; a draft of `</s>` is the last. A generator of calls.

        provisional: [1, p, C] frames that are seen now and not kept; drafts: the first of them, where they are known
        (without `</s>`)."""
        drafts = list(drafts)
        if count <= len(drafts):
            return drafts
        state, unread = self._looking(provisional), self._unread
        if drafts:
            state, unread = replace(drafts[-1].state, source=state.source), [drafts[-1].token]
        while len(drafts) < count:
            call = Call(self.decoder.propose, self._tokens(unread), state, self.decoder.propose_together, MT)
            (hidden, scores), state = yield call
            drafts.append(self._draft(hidden, scores[0], state, first=not self.tokens and not drafts))
            unread = [drafts[-1].token]
            if unread == [EOS]:
                break
        return drafts

    def attention(self, count: int, provisional: Tensor | None = None) -> Tensor:
        """Where the next `count` drafts look: [u, layers, heads, S] weights over the S source frames, provisional ones
        included; u is below `count` where `</s>` comes before. Changes nothing."""
        weights, state, unread, first = [], self._looking(provisional), self._unread, not self.tokens
        while len(weights) < count and (not weights or unread != [EOS]):
            hidden, state = self.decoder.step(self._tokens(unread), state, attention=weights)
            scores = self.decoder.logits(hidden[:, -1:])[0, -1]
            unread = [self._draft(hidden, scores, state, first and len(weights) == 1).token]
        return cross_attention(weights)

    def _looking(self, provisional: Tensor | None) -> TextDecoderState:
        """The state, with provisional frames in its source."""
        if provisional is None or provisional.size(1) == 0:
            return self._state
        return self.decoder.add_source(provisional, self._state)

    @property
    def _unread(self) -> list:
        """The tokens that the decoder has not consumed."""
        return self.tokens[-1:] or [EOS, *self.prefix]

    def _tokens(self, tokens: list) -> Tensor:
        return torch.tensor([tokens], device=self._device)

    @staticmethod
    def _draft(hidden: Tensor, scores: Tensor, state: TextDecoderState, first: bool) -> Draft:
        scores[PAD] = -torch.inf
        if first:
            scores[EOS] = -torch.inf
        return Draft(int(scores.argmax()), hidden, scores, state)

    def commit(self, drafts: list):
        """drafts: the first ones of the newest `draft` call; none of them `</s>`."""
        if drafts:
            self.tokens += [draft.token for draft in drafts]
            # source added since the draft is in the present state, the consumed tokens in the draft's
            self._state = replace(drafts[-1].state, source=self._state.source)


def cross_attention(weights: list) -> Tensor:
    """[u, layers, heads, S] of u steps of an MT decoder, from what `TextDecoder.step` gave for each; none: [0]."""
    return torch.stack([step[0, :, :, -1] for step in weights]) if weights else torch.zeros(0)


class Speaker:
    """MT hidden states in, units and speech out."""

    SAVED = ("_t2u_state", "_unit_state", "_collapse_state", "_vocoder_state")

    def __init__(self, model: S2STModel, vocoder: StreamingVocoder, k2: int, n2: int):
        self.t2u, self.unit_decoder, self.vocoder = model.synthesizer_encoder, model.decoder, vocoder
        self.unit_count = model.config.unit.units
        self._t2u_state = self.t2u.initial_state()
        self._unit_state = self.unit_decoder.initial_state(1, k2, n2)
        self._collapse_state = CollapseState.initial()
        self._vocoder_state = vocoder.initial_state()

    def speak(self, hidden: Tensor) -> tuple[list, np.ndarray]:
        """`speaking`, done at once."""
        return alone(self.speaking(hidden))

    def finish(self) -> tuple[list, np.ndarray]:
        """`finishing`, done at once."""
        return alone(self.finishing())

    def speaking(self, hidden: Tensor):
        """hidden: [1, u, D] new MT states; a generator of calls that returns the new units and the samples [n] that are
        final."""
        t2u, units = self.t2u, self.unit_decoder
        states, self._t2u_state = yield Call(t2u.step, hidden, self._t2u_state, t2u.step_together, T2U)
        logits, self._unit_state = yield Call(units.step, states, self._unit_state, units.step_together, UNITS)
        return (yield from self._sound(self._collapse(logits)))

    def finishing(self):
        """The units and samples that waited for more, as `speaking`."""
        decoder = self.unit_decoder
        logits = yield Call(decoder.finish, None, self._unit_state, decoder.finish_together, UNITS)
        units, samples = yield from self._sound(self._collapse(logits))
        return units, np.concatenate([samples, self.vocoder.finish(self._vocoder_state).cpu().numpy()])

    def _sound(self, units: list):
        """The units with the samples [n] that they make final; a generator of calls."""
        generator = self.vocoder.generator
        if not hasattr(generator, "step_together"):  # streams of one length are too rare to be stacked
            samples, self._vocoder_state = self.vocoder.push(units, self._vocoder_state)
            return units, samples.cpu().numpy()
        frames, state = self.vocoder.frames(units, self._vocoder_state)
        call = Call(generator.step, frames, state.generator, generator.step_together, SOUND)
        samples, made = yield call
        self._vocoder_state = replace(state, generator=made)
        return units, samples[0].cpu().numpy().copy()

    def _collapse(self, logits: Tensor) -> list:
        """logits: [1, f, K + 5] of the next unit frames; the collapse goes on over token boundaries."""
        if logits.size(1) == 0:
            return []
        tokens, frames, self._collapse_state = collapse_step(logits[0], self._collapse_state, blank=-1)
        units, starts = real_units(tokens, frames, self.unit_count)
        self._started(starts)
        return units

    def _started(self, frames: list) -> None:
        """Told at which unit frames the new units start."""


def real_units(symbols: list, frames: list, count: int) -> tuple[list, list]:
    """Units 0..count - 1 and their frames, of symbols of the unit dictionary."""
    first = len(SPECIALS)
    kept = [(symbol - first, frame) for symbol, frame in zip(symbols, frames, strict=True)]
    kept = [(unit, frame) for unit, frame in kept if 0 <= unit < count]
    return [unit for unit, _ in kept], [frame for _, frame in kept]
