"""A public checkpoint becomes a folder that speaks the same."""

import json

import torch

from echostream_plugin.vocoder import CodeHiFiGAN, load_vocoder
from tests.scripts.conftest import load_script
from tests.tiny_bundle import tiny_vocoder

convert = load_script("convert_vocoder")


def test_a_public_checkpoint_becomes_a_folder(tmp_path, capsys):
    config = tiny_vocoder().config
    original = CodeHiFiGAN(config)
    torch.save({"generator": original.state_dict()}, tmp_path / "g_1")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    arguments = ["--checkpoint", str(tmp_path / "g_1"), "--config", str(tmp_path / "config.json")]
    assert convert.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    units = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        wanted = original.eval().remove_weight_norm()(units, predict_durations=True)[0]
        found = load_vocoder(tmp_path / "out").eval()(units, predict_durations=True)[0]
    assert torch.allclose(wanted, found, atol=2e-2)
    assert convert.main(["--checkpoint", "none", "--config", "none.json", "--output", str(tmp_path / "x")]) == 1
    assert "none" in capsys.readouterr().err
