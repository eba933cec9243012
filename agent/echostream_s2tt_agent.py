"""Simultaneous speech-to-text translation for SimulEval:

simuleval --agent agent/echostream_s2tt_agent.py --bundle FOLDER --source wav_list.txt --target target.txt \
    --source-segment-size 320 --output OUT --quality-metrics BLEU --latency-metrics AL LAAL
"""

import sys
from pathlib import Path

from simuleval.agents import SpeechToTextAgent
from simuleval.utils import entrypoint

sys.path.insert(0, str(Path(__file__).resolve().parent))
from echostream_common import TextAgent  # noqa: E402


@entrypoint
class EchoStreamS2TTAgent(TextAgent, SpeechToTextAgent):
    """Speech in, translated words out."""

    def text(self) -> str:
        return self.session.target_text
