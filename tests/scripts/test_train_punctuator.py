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


SMALL = "--steps 3 --batch 2 --dim 16 --buckets 300 --layers 1 --languages es --no-bible".split()


@pytest.mark.parametrize("kind", ["", ":document"])
@pytest.mark.parametrize(
    "content, words",
    [
        ("Hola, ¿qué tal?\r\nMuy bien.\r\n".encode(), "hola qué tal muy bien"),
        ("\ufeffHola. Sí.".encode(), "hola sí"),
        (b"hola que tal", "hola que tal"),
        (b"Hola.", "hola"),
    ],
)
def test_any_text_of_ones_own_is_learnt(tmp_path, content, words, kind):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "es.txt").write_bytes(content)
    flags = [flag for name in ("empty", "es") for flag in ("--text", f"es:{tmp_path / name}.txt{kind}")]
    read = texts_of(tmp_path, *SMALL, *flags)["es"]
    assert [" ".join(text.words) for text, _ in read] == ["", words]
    assert script.main(["--out", str(tmp_path / "p"), *SMALL, *flags]) == 0
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["punctuator.json", "punctuator.safetensors"]


@pytest.mark.parametrize(
    "content, why",
    [
        (b"Se\xf1or, hola.", "not a text in UTF-8"),
        (b"", "no text in language 'es'"),
        (b"... !\n", "no text in language"),
    ],
)
def test_a_text_that_cannot_be_is_named(tmp_path, content, why, capsys):
    (tmp_path / "es.txt").write_bytes(content)
    assert script.main(["--out", str(tmp_path / "p"), *SMALL, "--text", f"es:{tmp_path / 'es.txt'}"]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "flags", [["--steps", "0"], ["--batch", "0"], ["--save-every", "0"], ["--threads", "0"], ["--seed", "-1"]]
)
def test_numbers_that_cannot_be_are_refused(tmp_path, flags, capsys):
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path / "p"), *flags])
    assert "must be at least 1" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / "es.txt").write_text("Hola. Sí.")
    text = str(tmp_path / "es.txt")
    assert script.main(["--out", text, *SMALL, "--text", f"es:{text}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error
