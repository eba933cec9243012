"""The policy sweep: one row a policy, and a wrong one is told."""

import soundfile

from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

sweep = load_script("sweep_policy")


def test_each_policy_has_a_row(bundle_folder, tmp_path, capsys):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speechlike(1.5, seed=number), 16000)
    (tmp_path / "wav_list.txt").write_text("0.wav\n1.wav\n")
    (tmp_path / "target.txt").write_text("t1 t2 t3 t4\nt5 t6 t7 t8\n")
    common = ["--bundle", str(bundle_folder), "--data", str(tmp_path)]
    assert sweep.main([*common, "chunk_ms=320", "chunk_ms=0"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| chunk_ms")]
    simultaneous, offline = (float(row[3]) for row in rows)
    assert [row[1].strip() for row in rows] == ["chunk_ms=320", "chunk_ms=0"] and simultaneous < offline
    for wrong in ("chunk_ms", "chunk_ms=330", "lag=2"):
        assert sweep.main([*common, wrong]) == 2
        assert capsys.readouterr().err


def test_lists_that_do_not_fit_are_told(bundle_folder, tmp_path, capsys):
    soundfile.write(tmp_path / "0.wav", speechlike(1.5), 16000)
    (tmp_path / "wav_list.txt").write_text("0.wav\n")
    (tmp_path / "target.txt").write_text("t1\nt2\n")
    assert sweep.main(["--bundle", str(bundle_folder), "--data", str(tmp_path), "chunk_ms=320"]) == 2
    assert "target.txt: 2 lines for 1 recordings" in capsys.readouterr().err
