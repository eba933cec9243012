"""Many speakers on one model: what their sessions ask it for is computed as one batch.

Each session stays a `TranslationSession` of its own; only what it asks the model for (`work.Call`) is answered together
with the calls of the others. Sessions join and leave between two pushes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.work import Call, Work
from echostream_plugin.modules.streaming import StreamState, shapes


@dataclass(frozen=True)
class Reply:
    """What one session answered to a push: its events, and the error that it met, if any. After an InputError or a
    SessionError it goes on; any other error ends it. over: nothing more comes of the push."""

    events: list = field(default_factory=list)
    error: Exception | None = None
    over: bool = True


class BatchedSession:
    """Sessions by key, pushed together.

    batch = BatchedSession(bundle)
    batch.join("ann"); batch.join("ben")
    replies = batch.push({"ann": samples, "ben": others}, sample_rate=16000)

    It belongs to one thread at a time, with all its sessions; several may share a bundle.

    Encoder steps of sessions whose pieces complete the same number of frames run as one, so equal pieces (320 ms for
    all) are the fast case; any others are right too. `optimize.prepare(bundle, streams=n)` records the steps of n that
    do. MT and unit decoders take sentences of any lengths together, the vocoder those that have equally much to say.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions | None = None, told: Callable | None = None):
        """options: of sessions that join without their own; default `bundle_options(bundle)`. told(key, events): called
        by `push` and `finish` with what a session says before they return, which is then not in its reply."""
        self.bundle, self.told = bundle, told
        self.options = options or bundle_options(bundle)
        self.sessions = {}
        self._ended = {}  # what ended sessions that are still here, by key
        self.calls = self.batches = 0  # model calls asked for, and the batches that they took

    def join(self, key, options: SessionOptions | None = None) -> TranslationSession:
        """A new session under a key of the caller's choice; options: default those of the batch."""
        if key in self.sessions:
            raise SessionError(f"there is a session {key!r} already: leave({key!r}) first")
        self.sessions[key] = TranslationSession(self.bundle, options or self.options)
        return self.sessions[key]

    def leave(self, key) -> TranslationSession:
        """Take a session out, finished or not; it can go on alone."""
        self._check([key])
        self._ended.pop(key, None)
        return self.sessions.pop(key)

    def push(self, pieces: dict, sample_rate) -> dict:
        """pieces: samples by key, as `TranslationSession.push` takes them; sample_rate: one for all, or a dict by key.

        Returns a `Reply` by key. What one session refuses (InputError, SessionError) is in its own reply and changes
        nothing for it or for the others. Any other error, such as memory that does not suffice, ends the session that
        met it and no other: it says SessionError from then on, until it leaves."""
        return self._joined(self.push_replies(pieces, sample_rate))

    def push_replies(self, pieces: dict, sample_rate) -> Iterator:
        """`push`, told as it comes: pairs of a key and a `Reply` with what is new, of each key at last one that is
        `over`. Of a session whose replies are not all read, the rest is processed, alone, by its next call, and comes
        first."""
        self._check(pieces)
        rates = sample_rate if isinstance(sample_rate, dict) else dict.fromkeys(pieces, sample_rate)
        begun = {key: self._begun(key, "begin_push", piece, rates.get(key)) for key, piece in pieces.items()}
        return self._work(begun)

    def finish(self, keys=None) -> dict:
        """End the utterances of these sessions (None: of all); returns a `Reply` by key. They stay until `leave`."""
        return self._joined(self.finish_replies(keys))

    def finish_replies(self, keys=None) -> Iterator:
        """`finish`, told as it comes, as of `push_replies`."""
        keys = list(self.sessions) if keys is None else list(keys)
        self._check(keys)
        return self._work({key: self._begun(key, "begin_finish") for key in keys})

    def _begun(self, key, begin: str, *given) -> tuple[Work, Exception | None]:
        """Let the work of a session begin; its work, and the error that it met instead."""
        session, error = self.sessions[key], None
        try:
            self._check_running(key)
            getattr(session, begin)(*given)
        except Exception as found:
            error = found
        return session.work, error

    def _check_running(self, key):
        if key in self._ended:
            raise SessionError(f"session {key!r} was ended by {self._ended[key]}: leave({key!r}) it")

    def _check(self, keys):
        unknown = [key for key in keys if key not in self.sessions]
        if unknown:
            raise SessionError(f"no session {', '.join(map(repr, unknown))}: join() it first")

    def _joined(self, replies: Iterator) -> dict:
        """What was replied by each key, but for what was told."""
        joined = {}
        for key, reply in replies:
            if self.told is not None and not reply.over:
                self.told(key, reply.events)
            else:
                before = joined[key].events if key in joined else []
                joined[key] = Reply([*before, *reply.events], reply.error)
        return joined

    @torch.inference_mode()
    def _work(self, begun: dict) -> Iterator:
        """Do the work of sessions, a batch of calls at a time; replies as they come. begun: of `_begun`, by key."""
        waiting = {}  # by key what a session waits for: its work, the call, the call's signature
        for key, (work, error) in begun.items():
            yield from self._advance(key, work, None, waiting, error)
        while waiting:
            asked = {key: waiting.pop(key) for key in self._next_group(waiting)}
            answers = self._answer([call for _, call, _ in asked.values()])
            for (key, (work, call, _)), answer in zip(asked.items(), answers, strict=True):
                if work.call is call:  # else the reader has let the session go on in some other way
                    yield from self._advance(key, work, answer, waiting)

    def _advance(self, key, work: Work, answer, waiting: dict, error: Exception | None = None) -> Iterator:
        """Let a session go on until its next call or its end. Whatever it raises is its own affair; error: it has
        raised that already."""
        if error is None and not work.over:
            try:
                work.advance(answer)
            except Exception as found:
                error = found
        if error is not None and not isinstance(error, InputError | SessionError):
            self._ended[key] = repr(error)  # the error itself would keep the stack and its tensors
        over = error is not None or work.over
        if not over:
            waiting[key] = work, work.call, signature(work.call)
        if over or work.events:
            events = list(work.events)
            work.events.clear()
            yield key, Reply(events, error, over)

    @staticmethod
    def _next_group(waiting: dict) -> list:
        """Keys of calls that fit into one batch, the most of those that wait for the earliest part of the model: the
        others wait for these to catch up."""
        earliest, groups = min(call.part for _, call, _ in waiting.values()), {}
        for key, (_, call, kind) in waiting.items():
            if call.part == earliest:
                groups.setdefault(kind, []).append(key)
        return max(groups.values(), key=len)

    def _answer(self, calls: list) -> list:
        """The results of calls of one signature; an exception in the place of a call that failed."""
        self.calls += len(calls)
        if len(calls) > 1:
            try:
                self.batches += 1
                return run_together(calls)
            except Exception:  # such as memory that does not suffice for all: one by one tells whose call it is
                self.batches -= 1
        self.batches += len(calls)
        return [_run(call) for call in calls]


def _run(call: Call):
    try:
        return call.run()
    except Exception as error:
        return error


def signature(call: Call):
    """Calls of equal signatures can be answered together: the same part of the model, and the same shapes unless it
    takes any."""
    owner, name = getattr(call.function, "__self__", None), getattr(call.function, "__name__", id(call.function))
    if call.together is not None:
        return owner, name
    inputs = None if call.inputs is None else (call.inputs.shape[1:], call.inputs.dtype)
    return owner, name, inputs, shapes(call.state)


def run_together(calls: list) -> list:
    """The results of calls of one signature, from one call on all their streams."""
    first = calls[0]
    if first.together is not None:
        return first.together([(call.inputs, call.state) for call in calls])
    state = type(first.state).stack([call.state for call in calls])
    if first.inputs is None:
        return list(first.function(state).split(1))
    outputs, state = first.function(torch.cat([call.inputs for call in calls]), state)
    states = state.unstack() if isinstance(state, StreamState) else [state] * len(calls)
    return list(zip(outputs.split(1), states, strict=True))
