"""The measurement of the end-pointer: a row for each policy and noise, and what is wrong is told."""

import numpy as np
import soundfile

from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

measure = load_script("measure_endpointer")


def write_list(folder, recordings: list, rate: int = 16000):
    for number, samples in enumerate(recordings):
        soundfile.write(folder / f"{number}.wav", samples, rate)
    (folder / "wav_list.txt").write_text("".join(f"{number}.wav\n" for number in range(len(recordings))))
    (folder / "target.txt").write_text("t1 t2 t3 t4\n" * len(recordings))


def test_a_row_for_each_policy_and_noise(bundle_folder, tmp_path, capsys):
    write_list(tmp_path, [speechlike(1.2, seed=number) + 0.05 for number in range(3)])
    common = ["--bundle", str(bundle_folder), "--data", str(tmp_path)]
    flags = [*common, "--noise-db", "none", "30", "--", "pause_ms=400,max_tokens=3", "pause_ms=400,endpointer=ctc"]
    assert measure.main(flags) == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2] for row in rows] == ["none", "-30 dB"] * 2 and {row[3] for row in rows} == {"2"}
    for wrong in ("endpointer=ear", "pause=2", "pause_ms=x"):
        assert measure.main([*common, wrong]) == 2
        assert capsys.readouterr().err


def test_recordings_that_do_not_serve(bundle_folder, tmp_path, capsys):
    write_list(tmp_path, [np.zeros(8000, dtype=np.float32)], 16000)
    assert measure.main(["--bundle", str(bundle_folder), "--data", str(tmp_path), "pause_ms=400"]) == 2
    assert "0.wav: nothing but silence" in capsys.readouterr().err


def test_recordings_of_other_rates_are_resampled(tmp_path):
    write_list(tmp_path, [speechlike(0.5, 8000)], 8000)
    (samples,) = measure.read_recordings([tmp_path / "0.wav"])
    assert len(samples) == 8000
