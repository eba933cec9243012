"""`echostream bundle`: which recordings, languages and punctuator a bundle takes; nothing is replaced unasked."""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from echostream_plugin import cli_bundle
from echostream_plugin.cli import main
from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.inference.languages import differs
from echostream_plugin.punctuation import Punctuator, PunctuatorConfig, save_punctuator
from tests.tiny_bundle import save_tiny_bundle, tiny_bundle

ROOT = Path(__file__).resolve().parents[2]


def chosen(tmp_path, *flags):
    parser = argparse.ArgumentParser()
    cli_bundle.configure(parser)
    return cli_bundle.chosen_samples(parser.parse_args(["--checkpoint", "c", "--out", str(tmp_path), *flags]))


def write_lists(folder, count):
    folder.mkdir()
    for name in ("wav_list", "src", "target"):
        (folder / f"{name}.txt").write_text("".join(f"{folder.name}{number}\n" for number in range(count)))
    for number in range(count):
        (folder / f"{folder.name}{number}").touch()
    return str(folder)


def test_lists_have_lines_of_their_own(tmp_path):
    one, two = write_lists(tmp_path / "one", 3), write_lists(tmp_path / "two", 5)
    people = str(ROOT / "examples" / "quickstart" / "recordings")
    found = chosen(tmp_path, "--samples", one, "--samples", f"{two}:4,1", "--sample-lines", "2", "--recordings", people)
    assert [sample.source for sample in found[:3]] == ["one2", "two4", "two1"] and all(s.human for s in found[3:])
    assert chosen(tmp_path) == []


@pytest.mark.parametrize("lines, error", [("7", DataError), ("a", ConfigError), ("1,,2", ConfigError)])
def test_lines_that_are_not_there_are_named(tmp_path, lines, error):
    with pytest.raises(error, match="counted from 0|are numbers from 0"):
        chosen(tmp_path, "--samples", f"{write_lists(tmp_path / 'one', 3)}:{lines}")


@pytest.fixture
def folder(tmp_path):
    return save_tiny_bundle(tmp_path, card={"name": "tiny"})


@pytest.fixture
def punctuator(tmp_path):
    torch.manual_seed(0)
    sizes = dict(buckets=101, dim=16, layers=1, heads=2, ffn_dim=16, left_words=6, right_words=4, kernel=3)
    return save_punctuator(Punctuator(PunctuatorConfig(languages=("fr", "es", "en"), **sizes)), tmp_path / "p")


def bundle(folder, *flags) -> int:
    return main(["bundle", "-o", str(folder), *map(str, flags)])


def test_a_bundle_gets_a_punctuator_and_its_languages(folder, punctuator, capsys):
    assert bundle(folder, "--punctuator", punctuator, "--languages", "es", "en") == 0
    assert json.loads((folder / "punctuator" / "languages.json").read_text()) == {"source": "es", "target": "en"}
    card = {"name": "tiny", "source_language": "es", "target_language": "en"}
    assert json.loads((folder / "card.json").read_text()) == card
    assert main(["info", str(folder), "--json"]) == 0
    assert '"languages": "es to en"' in capsys.readouterr().out


def test_what_is_there_is_replaced_only_where_that_is_asked(folder, punctuator, capsys):
    assert bundle(folder, "--punctuator", punctuator) == 0
    assert bundle(folder, "--punctuator", punctuator) == 2
    assert "punctuator: is there already; name another file, or give --overwrite" in capsys.readouterr().err
    assert bundle(folder, "--punctuator", punctuator, "--overwrite") == 0
    assert bundle(folder, "--checkpoint", "c.pt") == 2  # before the checkpoint is looked for
    assert "config.json: is there already" in capsys.readouterr().err


def test_a_new_model_takes_the_place_of_all_of_the_old_bundle(folder, punctuator, tmp_path, monkeypatch, capsys):
    """Whose vocoder and punctuator are of another model; what the user laid beside stays."""
    (tmp_path / "silent").mkdir()
    silent = save_tiny_bundle(tmp_path / "silent", dataclasses.replace(tiny_bundle(), vocoder=None))
    export = lambda made, *rest: shutil.copytree(silent, made, dirs_exist_ok=True)  # noqa: E731
    monkeypatch.setattr(cli_bundle, "export_bundle", export)
    assert bundle(folder, "--punctuator", punctuator) == 0 and (folder / "vocoder").is_dir()
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    assert bundle(folder, "--checkpoint", "c.pt", "--overwrite", "--punctuator", folder / "nowhere") == 2
    assert contents(folder) == before and "nowhere" in capsys.readouterr().err
    assert bundle(folder, "--checkpoint", "c.pt", "--overwrite", "--languages", "fr", "en") == 0
    after = contents(folder)
    assert after["notes.txt"] == b"mine"
    assert not [name for name in after if name.startswith(("vocoder", "punctuator"))]
    assert json.loads(after["card.json"])["source_language"] == "fr"
    assert [path.name for path in folder.parent.glob("*.part")] == []


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--languages", "French", "en"], "language 'French': use a code"),
        (["--checkpoint", "c.pt", "--card", "nowhere.json", "--overwrite"], "--card nowhere.json: not a json file"),
        (["--checkpoint", "c.pt", "--session", "{", "--overwrite"], "--session {: not json"),
        (["--checkpoint", "c.pt", "--overwrite"], "c.pt"),
        (["--samples", "nowhere"], "nowhere/wav_list.txt: no such list"),
    ],
)
def test_errors_are_one_line(folder, flags, why, capsys):
    assert bundle(folder, *flags) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_what_is_no_bundle_is_not_begun(tmp_path, punctuator, capsys):
    assert bundle(tmp_path / "none", "--punctuator", punctuator) == 2
    assert "none: no such bundle folder" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_regions_of_a_language_do_not_differ():
    assert not differs("en-GB", "en") and not differs("EN", "en-US") and not differs("", "en") and not differs("fr", "")
    assert differs("fr", "en") and differs("fil", "fi")


def test_the_bundled_model_tells_its_languages_as_clients_ask_for_them():
    card = json.loads((ROOT / "examples" / "quickstart" / "bundle" / "card.json").read_text(encoding="utf-8"))
    assert not differs("es", card["source_language"]) and not differs("en", card["target_language"])
