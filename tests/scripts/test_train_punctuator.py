"""The texts that a punctuator is trained on."""

import pytest

from echostream_plugin.data import DataError
from tests.scripts.conftest import load_script

script = load_script("train_punctuator")


def texts_of(tmp_path, *flags):
    return script.texts_of(script.build_parser().parse_args(["--out", str(tmp_path), *flags]))


def test_a_language_without_verses_needs_texts_alone(tmp_path):
    (tmp_path / "pt.txt").write_text("Olá, tudo bem? Sim.\n", encoding="utf-8")
    ((text, consecutive),) = texts_of(tmp_path, "--languages", "pt", "--text", f"pt:{tmp_path / 'pt.txt'}")["pt"]
    assert text.words == ["olá", "tudo", "bem", "sim"] and not consecutive
    with pytest.raises(DataError, match="no bible for language 'pt'"):
        texts_of(tmp_path, "--languages", "pt")
