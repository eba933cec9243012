"""A SimulEval agent without a model: a beep and a word for every second push. For tests of the runner."""

import json
from pathlib import Path

from simuleval.agents import SpeechToSpeechAgent
from simuleval.agents.actions import ReadAction, WriteAction
from simuleval.data.segments import SpeechSegment
from simuleval.utils import entrypoint


@entrypoint
class ToyAgent(SpeechToSpeechAgent):
    def __init__(self, args):
        super().__init__(args)
        self.folder = Path(args.extra_output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fail_at = args.fail_at
        self.pushes = self.utterances = 0

    @staticmethod
    def add_args(parser):
        parser.add_argument("--extra-output-dir", default=None)
        parser.add_argument("--fail-at", type=int, default=-1, help="raise at this utterance of the process")

    def reset(self):
        super().reset()
        self.pushes = 0

    def policy(self):
        if self.utterances == self.fail_at:
            raise RuntimeError("asked to fail")
        self.pushes += 1
        finished = self.states.source_finished
        self.utterances += finished
        if self.pushes % 2 and not finished:
            return ReadAction()
        now = 1000 * len(self.states.source) / max(self.states.source_sample_rate, 1)
        if not self.states.source:
            return WriteAction(SpeechSegment(content=[], sample_rate=16000, finished=True), finished=True)
        with open(self.folder / "events.jsonl", "a") as log:
            for kind in ("source_text", "target_text"):
                log.write(json.dumps({"kind": kind, "source_ms": now, "added": f" word{self.pushes}"}) + "\n")
        beep = [0.1, -0.1] * 1600
        return WriteAction(SpeechSegment(content=beep, sample_rate=16000, finished=finished), finished=finished)
