"""Simultaneous speech-to-text translation for SimulEval:

simuleval --agent agent/echostream_s2tt_agent.py --bundle FOLDER --source wav_list.txt --target target.txt \
    --source-segment-size 320 --output OUT --quality-metrics BLEU --latency-metrics AL LAAL
"""

from simuleval.agents import SpeechToTextAgent
from simuleval.utils import entrypoint

from echostream_plugin.agents.session_agent import TextAgent


@entrypoint
class EchoStreamS2TTAgent(TextAgent, SpeechToTextAgent):
    """Speech in, translated words out."""

    def text(self) -> str:
        return self.session.target_text
