"""The work that a push leads to, done step by step, so that what is said can be read as it comes.

What works asks for the parts of the model that it needs: it is a generator that yields a `Call` and is sent its result.
`alone` answers calls at once, `Work` one after the other while its events are read, `inference.batch` those of many
streams together.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from echostream_plugin.modules.streaming import StreamState


@dataclass(frozen=True)
class Call:
    """A part of the model to run on one stream.

    function(inputs, state) -> (outputs, state), or function(state) -> outputs where inputs is None; inputs: [1, t, C].

    together: answers many such calls whose inputs and states may differ in length: a list of (inputs, state) in, of
    results out. None: only calls of equal shapes are answered together, by stacking them. part: where it is in the
    chain from audio to speech; the calls of earlier parts are answered first, so that streams catch up with others.

    It changes nothing, and may be run again."""

    function: Callable
    inputs: Tensor | None
    state: StreamState
    together: Callable | None = None
    part: int = 0

    def run(self):
        """Compute it alone; returns what the function returns."""
        return self.function(self.state) if self.inputs is None else self.function(self.inputs, self.state)


def alone(work: Generator):
    """What a generator of calls returns, each call answered at once."""
    answer = None
    while True:
        try:
            answer = work.send(answer).run()
        except StopIteration as done:
            return done.value


class Work:
    """What a session was given to do, as far as it is not done, and the events that nobody has read yet.

    Nothing is lost where a reader stops half-way: what is left is done, and read, before anything else."""

    def __init__(self):
        self.events = deque()
        self.call = None  # the one that waits for its answer
        self._steps = None

    @property
    def over(self) -> bool:
        """Is everything done? There may be events to be read."""
        return self._steps is None

    def begin(self, steps: Generator):
        """steps: of calls, which appends to `events`. What there was before must be over."""
        self._steps = steps

    def advance(self, answer=None):
        """Go on to the next call, or to the end; answer: of the present call, an exception is raised where it waits."""
        self.call, steps = None, self._steps
        try:
            self.call = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration:
            self._steps = None
        except BaseException:
            self._steps = None
            raise

    @torch.inference_mode()
    def read(self) -> Iterator:
        """Do what is left; the events as they come."""
        while True:
            while self.events:
                yield self.events.popleft()
            if self._steps is None:
                return
            self._step()

    @torch.inference_mode()
    def finish(self):
        """Do what is left; the events wait for the next reader."""
        while self._steps is not None:
            self._step()

    def drop(self):
        """Forget what is left, and what was not read."""
        if self._steps is not None:
            self._steps.close()
        self._steps = self.call = None
        self.events.clear()

    def _step(self):
        answer = None
        if self.call is not None:
            try:
                answer = self.call.run()
            except Exception:  # not Ctrl-C: after that the call can be run again
                self.call = self._steps = None
                raise
        self.advance(answer)
