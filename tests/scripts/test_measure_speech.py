"""The measurement of text to speech: one row a way of speaking; the scoring ASR is one that hears lengths alone."""

import pytest
import soundfile

from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

script = load_script("measure_speech")
WAYS = ("source=none,lead=0", "lead=9", "source=recording", "source=silence,lead=2.5", "source=mean,seconds=1")


class HearsOneWord:
    def transcribe_all(self, recordings, cache=None, progress=None):
        assert all(recording.ndim == 1 for recording in recordings)
        return ["t1" if len(recording) else "" for recording in recordings]


@pytest.fixture
def command(bundle_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ScoringASR", HearsOneWord)
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speechlike(0.8, seed=number), 16000)
    (tmp_path / "wav_list.txt").write_text("0.wav\n1.wav\n")
    (tmp_path / "target.txt").write_text("t1 t2y3 t3 t4\nt1 t6 t7y0 t8\n")
    return ["--bundle", str(bundle_folder), "--data", str(tmp_path)]


def test_each_way_has_a_row(command, capsys):
    assert script.main([*command, *WAYS]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith(("| source", "| lead"))]
    assert [row[1].strip() for row in rows] == list(WAYS)
    errors, seconds = ([float(row[column]) for row in rows] for column in (2, 3))
    assert max(errors) <= 100 and 0 < min(errors) < 100 and max(seconds) > 0


@pytest.mark.parametrize("way", ["source=echo", "lead=high", "lead", "lead=-1", "volume=3"])
def test_a_wrong_way_is_told(command, capsys, way):
    assert script.main([*command, way]) == 2
    assert "error: " in capsys.readouterr().err
