"""The example client, run as its page says."""

import subprocess
import sys
from pathlib import Path

import soundfile

from tests.serve.running import running
from tests.tiny_bundle import speechlike, tiny_bundle

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "live" / "client.py"


def test_the_example_client_prints_the_translation_and_keeps_the_voice(tmp_path):
    soundfile.write(tmp_path / "talk.wav", speechlike(1.2, 22050, seed=2), 22050)
    with running(tiny_bundle(), tmp_path) as server:
        command = [sys.executable, str(CLIENT), str(tmp_path / "talk.wav"), server.ws, str(tmp_path / "voice.wav")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("t") and soundfile.info(tmp_path / "voice.wav").duration > 0
