"""Streaming speech recognition for SimulEval; the targets are source transcripts:

simuleval --agent agent/echostream_asr_agent.py --bundle FOLDER --source wav_list.txt --target src.txt \
    --source-segment-size 320 --output OUT --quality-metrics BLEU --latency-metrics AL LAAL
"""

from simuleval.agents import SpeechToTextAgent
from simuleval.utils import entrypoint

from echostream_plugin.agents.session_agent import TextAgent


@entrypoint
class EchoStreamASRAgent(TextAgent, SpeechToTextAgent):
    """Speech in, its words out."""

    translate = False

    def text(self) -> str:
        return self.session.source_text
