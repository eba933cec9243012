"""What cannot be measured is named before anything is."""

import pytest
import torch

from echostream_plugin.punctuation import Punctuator, PunctuatorConfig, save_punctuator
from tests.scripts.conftest import load_script

script = load_script("measure_punctuator")


@pytest.fixture
def flags(tmp_path):
    torch.manual_seed(0)
    config = PunctuatorConfig(buckets=50, dim=16, layers=1, heads=2, ffn_dim=8, left_words=4, kernel=3)
    save_punctuator(Punctuator(config), tmp_path / "p")
    return ["--punctuator", str(tmp_path / "p"), "--no-bible"]


@pytest.mark.parametrize(
    "content, more, why",
    [
        (b"", [], "es.txt: no words"),
        (b"Se\xf1or.", [], "es.txt: not a text in UTF-8"),
        (b"Hola. Adi\xc3\xb3s.", ["--streams", "5"], "need a text of at least 24 words"),
        (b"Hola. Adi\xc3\xb3s.", ["--endless", "50"], "need a text of at least 24 words"),
    ],
)
def test_a_text_that_cannot_be_is_named(tmp_path, flags, content, more, why, capsys):
    (tmp_path / "es.txt").write_bytes(content)
    assert script.main([*flags, "--text", f"es:{tmp_path / 'es.txt'}", *more]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--limit", "0"], ["--endless", "9"], ["--streams", "-1"], ["--errors", "0", "13"]])
def test_numbers_that_cannot_be_are_refused(flags, more, capsys):
    with pytest.raises(SystemExit):
        script.main([*flags, *more])
    assert more[0] in capsys.readouterr().err


def test_random_streams_and_an_endless_one_are_measured(tmp_path, flags, capsys):
    (tmp_path / "es.txt").write_text("uno dos, tres cuatro.\n" * 10)
    more = ["--delays", "0", "2", "--errors", "0", "--streams", "5", "--endless", "40"]
    assert script.main([*flags, "--text", f"es:{tmp_path / 'es.txt'}", *more]) == 0
    printed = capsys.readouterr().out
    assert "5 random streams: 0 marks changed." in printed and "40 words: " in printed
