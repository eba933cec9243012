"""Simultaneous speech-to-speech translation for SimulEval:

simuleval --agent agent/echostream_agent.py --bundle FOLDER --source wav_list.txt --target target.txt \
    --source-segment-size 320 --output OUT --quality-metrics WHISPER_ASR_BLEU --latency-metrics AL LAAL ATD
"""

import sys
from pathlib import Path

import numpy as np
from simuleval.agents import SpeechToSpeechAgent
from simuleval.agents.actions import ReadAction, WriteAction
from simuleval.data.segments import SpeechSegment
from simuleval.utils import entrypoint

sys.path.insert(0, str(Path(__file__).resolve().parent))
from echostream_common import SessionAgent, Speech  # noqa: E402


@entrypoint
class EchoStreamS2STAgent(SessionAgent, SpeechToSpeechAgent):
    """Speech in, translated speech out."""

    speech = True

    def act(self, events, finished):
        pieces = [event.samples for event in events if isinstance(event, Speech)]
        samples = np.concatenate(pieces).tolist() if pieces else []
        if not samples and not finished:
            return ReadAction()
        rate = self.bundle.vocoder.config.sampling_rate
        return WriteAction(SpeechSegment(content=samples, sample_rate=rate, finished=finished), finished=finished)
