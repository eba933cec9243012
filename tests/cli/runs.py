"""What the tests of the command line share: a small recording, a short run, a standard input."""

import io
import sys

import soundfile

from echostream_plugin.cli import main
from tests.tiny_bundle import speechlike


def write_recording(folder):
    """Three seconds at 16 kHz in `folder`; its path."""
    soundfile.write(folder / "in.wav", speechlike(3.0, seed=3), 16000)
    return folder / "in.wav"


def translate(bundle, *arguments) -> int:
    """`echostream translate` with few tokens; its exit code."""
    return main(["translate", *map(str, arguments), "--bundle", str(bundle), "--max-tokens", "3"])


def standard_input(monkeypatch, data: bytes):
    """From now on the standard input holds these bytes."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
