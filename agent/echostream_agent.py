"""Simultaneous speech-to-speech translation for SimulEval:

simuleval --agent agent/echostream_agent.py --bundle FOLDER --source wav_list.txt --target target.txt \
    --source-segment-size 320 --output OUT --quality-metrics WHISPER_ASR_BLEU --latency-metrics AL LAAL ATD
"""

import numpy as np
from simuleval.agents import SpeechToSpeechAgent
from simuleval.agents.actions import ReadAction, WriteAction
from simuleval.data.segments import SpeechSegment
from simuleval.utils import entrypoint

from echostream_plugin.agents.session_agent import SessionAgent
from echostream_plugin.inference.events import Speech


@entrypoint
class EchoStreamS2STAgent(SessionAgent, SpeechToSpeechAgent):
    """Speech in, translated speech out."""

    speech = True

    def act(self, events, finished):
        parts = [event.samples for event in events if isinstance(event, Speech)]
        samples = np.concatenate(parts).tolist() if parts else []
        if not samples and not finished:
            return ReadAction()
        rate = self.bundle.vocoder.config.sampling_rate
        return WriteAction(SpeechSegment(content=samples, sample_rate=rate, finished=finished), finished=finished)
