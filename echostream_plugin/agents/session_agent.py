"""What the three SimulEval agents share: the session behind SimulEval's push and pop."""

import sys

from simuleval.agents.actions import ReadAction, WriteAction

from echostream_plugin.agents.event_log import EventLog
from echostream_plugin.agents.flags import add_flags
from echostream_plugin.agents.loading import chunk_ms_of, device_name, load_model
from echostream_plugin.agents.simuleval_repairs import joins_subwords, repair
from echostream_plugin.cli_options import options_of
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.session import TranslationSession

repair()


class SessionAgent:
    """A SimulEval agent around a `TranslationSession`; mixed into SimulEval's agent classes.

    `act(events, finished)` turns what the session said into an action. Audio is taken from `states.source` once, by an
    offset; the last write of an utterance is marked finished."""

    translate = True
    speech = False

    def __init__(self, args):
        if getattr(args, "eval_latency_unit", "word") == "spm":
            raise ConfigError("--eval-latency-unit spm: the agents write words; use word or char")
        self.bundle = load_model(args, self.speech)
        own = {"chunk_ms": chunk_ms_of(args, self.bundle.session), "translate": self.translate, "speech": self.speech}
        options = bundle_options(self.bundle, **{**options_of(args, SessionOptions), **own})
        self.session = TranslationSession(self.bundle, options)
        self.log = EventLog(args)
        super().__init__(args)

    @staticmethod
    def add_args(parser):
        """SimulEval asks for the agent's flags."""
        add_flags(parser)

    def to(self, device, *args, **kwargs):
        """The model goes to a device, by torch's name or StreamSpeech's `gpu`; always in float32."""
        if kwargs.get("fp16"):
            print("warning: half precision is not supported, the model stays in float32", file=sys.stderr)
        self.bundle.to(device_name(device))
        self.session.reset()

    def reset(self):
        """A new recording begins."""
        super().reset()
        self.session.reset()
        self.taken_samples = 0
        self.refused = False
        self.log.drop()

    def policy(self):
        """SimulEval asks for an action, after each segment of the source."""
        finished = self.states.source_finished
        events = [] if self.refused else self.hear(last=finished)
        if finished:
            events += self.session.finish()
            self.states.target_finished = True
        self.log.write(events)
        return self.act(events, finished)

    def hear(self, last: bool = False) -> list:
        """Push what is new in `states.source`; last: the source ends with it. A recording with a segment that is not
        audio is refused: nothing more is said of it, an error is logged, and the run's end says so."""
        new = self.states.source[self.taken_samples :]
        rate = self.states.source_sample_rate
        self.taken_samples = len(self.states.source)
        try:
            return self.session.push(new, rate, last=last) if new else []
        except InputError as error:
            self.refused = True
            self.session.reset()  # what it made of the audio before is not finished either
            self.log.refuse(str(error))
            return []


class WordStream:
    """Growing text given out in whole words: SimulEval joins writes by spaces, so no word may be split over two."""

    def __init__(self):
        self.given = 0

    def take(self, text: str, finished: bool) -> str:
        """text: everything so far; returns the words that are complete and were not given out yet."""
        end = len(text) if finished else max(self.given, text.rfind(" "))
        words = text[self.given : end].split()
        self.given = end
        return " ".join(words)


class TextAgent(SessionAgent):
    """Writes the words of one of the session's texts."""

    def __init__(self, args):
        super().__init__(args)
        self.mark = "▁" if joins_subwords() else ""

    def reset(self):
        """A new recording begins."""
        super().reset()
        self.words = WordStream()

    def text(self) -> str:
        """What was written so far of the session's text that this agent writes."""
        raise NotImplementedError

    def act(self, events, finished):
        """Write the words that are complete, or read on."""
        words = " ".join(self.mark + word for word in self.words.take(self.text(), finished).split())
        return WriteAction(words, finished=finished) if words or finished else ReadAction()
