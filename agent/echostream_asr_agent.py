"""Streaming speech recognition for SimulEval; the targets are source transcripts:

simuleval --agent agent/echostream_asr_agent.py --bundle FOLDER --source wav_list.txt --target src.txt \
    --source-segment-size 320 --output OUT --quality-metrics BLEU --latency-metrics AL LAAL
"""

import sys
from pathlib import Path

from simuleval.agents import SpeechToTextAgent
from simuleval.utils import entrypoint

sys.path.insert(0, str(Path(__file__).resolve().parent))
from echostream_common import TextAgent  # noqa: E402


@entrypoint
class EchoStreamASRAgent(TextAgent, SpeechToTextAgent):
    """Speech in, its words out."""

    translate = False

    def text(self) -> str:
        return self.session.source_text
