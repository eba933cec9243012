"""Many speakers on one model: the encoder steps and CTC heads of their sessions run as one batch.

Each session stays a `TranslationSession` of its own; only what it asks the model for (`stages.Call`) is answered
together with the calls of the others. Sessions join and leave between two pushes.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch

from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.errors import InputError, SessionError
from echostream_plugin.inference.session import SessionOptions, TranslationSession, bundle_options
from echostream_plugin.inference.stages import Call
from echostream_plugin.modules.streaming import StreamState, shapes


@dataclass(frozen=True)
class Reply:
    """What one session answered to a push: its events, or the error that it met. After an InputError or a SessionError
    it goes on; any other error ends it."""

    events: list = field(default_factory=list)
    error: Exception | None = None


class BatchedSession:
    """Sessions by key, pushed together.

    batch = BatchedSession(bundle)
    batch.join("ann"); batch.join("ben")
    replies = batch.push({"ann": samples, "ben": others}, sample_rate=16000)

    It belongs to one thread at a time, with all its sessions; several may share a bundle.

    Steps of sessions whose pieces complete the same number of frames run as one, so equal pieces (320 ms for all) are
    the fast case; any others are right too. `optimize.prepare(bundle, streams=n)` records the steps of n that do.
    """

    def __init__(self, bundle: Bundle, options: SessionOptions | None = None):
        """options: of sessions that join without their own; default `bundle_options(bundle)`."""
        self.bundle = bundle
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
        self._check(pieces)
        rates = sample_rate if isinstance(sample_rate, dict) else dict.fromkeys(pieces, sample_rate)
        return self._work({key: self._pushing(key, piece, rates.get(key)) for key, piece in pieces.items()})

    def finish(self, keys=None) -> dict:
        """End the utterances of these sessions (None: of all); returns a `Reply` by key. They stay until `leave`."""
        keys = list(self.sessions) if keys is None else list(keys)
        self._check(keys)
        return self._work({key: self._finishing(key) for key in keys})

    def _pushing(self, key, piece, rate):
        self._check_running(key)
        return (yield from self.sessions[key].pushing(piece, rate))

    def _finishing(self, key):
        self._check_running(key)
        return (yield from self.sessions[key].finishing())

    def _check_running(self, key):
        if key in self._ended:
            raise SessionError(f"session {key!r} was ended by {self._ended[key]}: leave({key!r}) it")

    def _check(self, keys):
        unknown = [key for key in keys if key not in self.sessions]
        if unknown:
            raise SessionError(f"no session {', '.join(map(repr, unknown))}: join() it first")

    @torch.inference_mode()
    def _work(self, works: dict) -> dict:
        """Drive the generators of calls to their ends, a batch of calls at a time."""
        replies, waiting = {}, {}
        for key, work in works.items():
            self._advance(key, work, None, waiting, replies)
        while waiting:
            group = self._largest_group(waiting)
            answers = self._answer([waiting[key][1] for key in group])
            for key, answer in zip(group, answers, strict=True):
                self._advance(key, waiting.pop(key)[0], answer, waiting, replies)
        return replies

    def _advance(self, key, work: Generator, answer, waiting: dict, replies: dict):
        """Let a session go on until its next call or its end. Whatever it raises is its own affair."""
        try:
            call = work.throw(answer) if isinstance(answer, Exception) else work.send(answer)
            waiting[key] = work, call, signature(call)
        except StopIteration as done:
            replies[key] = Reply(done.value)
        except (InputError, SessionError) as error:
            replies[key] = Reply(error=error)
        except Exception as error:
            self._ended[key] = repr(error)  # the error itself would keep the stack and its tensors
            replies[key] = Reply(error=error)

    @staticmethod
    def _largest_group(waiting: dict) -> list:
        """Keys of calls that fit into one batch. The largest group first: the others may still catch up with it."""
        groups = {}
        for key, (_, _, kind) in waiting.items():
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
    """Calls of equal signatures can be stacked: the same part of the model, the same shapes."""
    function = call.function
    owner = id(getattr(function, "__self__", None))
    inputs = None if call.inputs is None else (call.inputs.shape[1:], call.inputs.dtype)
    return owner, getattr(function, "__name__", id(function)), inputs, shapes(call.state)


def run_together(calls: list) -> list:
    """The results of calls of one signature, from one call on their stacked streams."""
    state = type(calls[0].state).stack([call.state for call in calls])
    if calls[0].inputs is None:
        return list(calls[0].function(state).split(1))
    outputs, state = calls[0].function(torch.cat([call.inputs for call in calls]), state)
    states = state.unstack() if isinstance(state, StreamState) else [state] * len(calls)
    return list(zip(outputs.split(1), states, strict=True))
