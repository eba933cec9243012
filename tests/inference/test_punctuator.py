"""The punctuator of a bundle: read when it is needed, named when it is missing or broken."""

import pytest
import torch

from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.digest import bundle_digest
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.punctuator import add_punctuator
from echostream_plugin.punctuation import Punctuator, PunctuatorConfig, save_punctuator
from tests.tiny_bundle import save_tiny_bundle


@pytest.fixture
def folder(tmp_path):
    return save_tiny_bundle(tmp_path)


@pytest.fixture
def punctuator(tmp_path):
    torch.manual_seed(0)
    sizes = dict(buckets=101, dim=16, layers=1, heads=2, ffn_dim=16, left_words=6, right_words=4, kernel=3)
    return save_punctuator(Punctuator(PunctuatorConfig(languages=("fr", "es", "en"), **sizes)), tmp_path / "p")


def test_a_bundle_without_one_serves_and_says_so_when_asked(folder):
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match="no punctuator .*echostream bundle --punctuator"):
        assert bundle.punctuator


def test_added_and_read_at_first_use(folder, punctuator, monkeypatch):
    before = bundle_digest(folder)
    add_punctuator(folder, punctuator, ("es", "en"))
    assert bundle_digest(folder) != before
    bundle = load_bundle(folder)
    assert "punctuator" not in vars(bundle)
    found = bundle.punctuator
    assert found is bundle.punctuator and found.languages == {"source": "es", "target": "en"}
    said = found.stream("source", 2).push(["uno", "dos", "tres"])
    assert [word.word for word in said] == ["uno"]
    assert found.stream("source", 2)._language == 1 and found.stream("target", 2)._language == 2


@pytest.mark.parametrize(
    "damage, why",
    [
        (lambda path: (path / "languages.json").unlink(), "languages.json: no such file; add"),
        (lambda path: (path / "languages.json").write_text("["), "languages.json: expected names"),
        (lambda path: (path / "languages.json").write_text('{"source": "es"}'), "languages.json: expected names"),
        (lambda path: (path / "languages.json").write_text('{"source": "de", "target": "en"}'), "punctuator: .*'de'"),
        (lambda path: (path / "punctuator.safetensors").unlink(), "punctuator.safetensors: no such file"),
        (lambda path: (path / "punctuator.json").write_text("{}"), "punctuator.json: no punctuator's configuration"),
    ],
)
def test_a_broken_one_is_told_when_it_is_used_and_not_before(folder, punctuator, damage, why):
    add_punctuator(folder, punctuator, ("es", "en"))
    damage(folder / "punctuator")
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match=why):
        assert bundle.punctuator


def test_languages_that_it_does_not_know_are_refused_and_nothing_is_written(folder, punctuator):
    with pytest.raises(BundleError, match="knows fr, es, en.* not 'es it'"):
        add_punctuator(folder, punctuator, ("es", "it"))
    with pytest.raises(BundleError, match="nowhere/punctuator.json: no such file"):
        add_punctuator(folder, folder / "nowhere")
    assert not (folder / "punctuator").exists()
