"""The example of a client: a recording goes out at the speed of speech, words are printed, the voice is kept."""

import asyncio
import runpy
from pathlib import Path

import pytest
import soundfile

pytest.importorskip("aiohttp")

from tests.serve.running import running  # noqa: E402
from tests.tiny_bundle import speechlike, tiny_bundle  # noqa: E402

CLIENT = Path(__file__).resolve().parents[2] / "examples" / "live" / "client.py"


def test_the_client_prints_words_and_keeps_the_voice(tmp_path, capsys):
    soundfile.write(tmp_path / "talk.wav", speechlike(1.5), 16000)
    with running(tiny_bundle(), tmp_path) as server:
        main = runpy.run_path(str(CLIENT))["main"]
        asyncio.run(main(tmp_path / "talk.wav", server.ws, tmp_path / "translated.wav"))
    assert capsys.readouterr().out.strip()
    assert soundfile.info(tmp_path / "translated.wav").frames > 0
