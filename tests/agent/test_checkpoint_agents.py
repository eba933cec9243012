"""The agents on a fairseq checkpoint: paths of the yamls that lead nowhere are named, and dictionaries must fit."""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("fairseq")
pytest.importorskip("simuleval")

from echostream_plugin.agents.flags import add_flags  # noqa: E402
from echostream_plugin.agents.loading import load_model  # noqa: E402
from echostream_plugin.config import ConfigError  # noqa: E402
from tests.fairseq_ext.miniature import UNITS, train, write_corpus  # noqa: E402
from tests.tiny_bundle import tiny_vocoder  # noqa: E402


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data folder, and a checkpoint trained on it."""
    data = write_corpus(tmp_path_factory.mktemp("corpus"))
    save = tmp_path_factory.mktemp("save")
    train(data, save, "--disable-validation", updates=1)
    return data, save / "checkpoint_last.pt"


@pytest.fixture
def data(trained, tmp_path):
    shutil.copytree(trained[0].parent, tmp_path / "corpus")
    return tmp_path / "corpus" / "fbank2unit"


@pytest.fixture
def load(trained, data):
    """Load the checkpoint with the copied data folder, as an agent does."""

    def load(*flags, speech=False):
        parser = argparse.ArgumentParser()
        add_flags(parser)
        parser.add_argument("--device", default="cpu")
        flags = ("--model-path", trained[1], "--data-bin", data, "--multitask-config-yaml", "config_mtl.yaml", *flags)
        return load_model(parser.parse_args([str(flag) for flag in flags]), speech)

    return load


def change(path, **values):
    """Set `a.b` of a yaml; None removes it."""
    content = yaml.safe_load(path.read_text())
    for name, value in values.items():
        *parents, key = name.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place.pop(key) if value is None else place.update({key: value})
    path.write_text(yaml.safe_dump(content))


def test_relative_and_absolute_paths(data, load):
    assert load().vocoder is None  # text agents need none
    change(data / "config_gcmvn.yaml", global_cmvn__stats_npz_path=str(data.parent / "gcmvn.npz"))
    change(data / "config_mtl.yaml", source_unigram__dict=str(data.parent / "src_unigram" / "dict.txt"))
    assert load().source_dictionary.symbols[4] == "▁uno"


@pytest.mark.parametrize(
    "file, values, message",
    [
        ("config_gcmvn.yaml", {"global_cmvn__stats_npz_path": "/data/someone/gcmvn.npz"},
         r"config_gcmvn.yaml: global_cmvn.stats_npz_path: no such file '/data/someone/gcmvn.npz'; correct the path"
         r".*build_features.py. There is '../gcmvn.npz', relative to the data folder"),
        ("config_gcmvn.yaml", {"global_cmvn": None}, r"config_gcmvn.yaml: global_cmvn.stats_npz_path is missing"),
        ("config_mtl.yaml", {"target_unigram__dict": "/data/someone/tgt_unigram/dict.txt"},
         r"config_mtl.yaml: target_unigram.dict: no such file '/data/someone/tgt_unigram/dict.txt'; correct the path"
         r".*There is '../tgt_unigram/dict.txt'"),
        ("config_mtl.yaml", {"source_unigram__dict": "none.txt"}, r"no such file 'none.txt'; correct.*build_text.py$"),
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere_are_named(data, load, file, values, message):
    change(data / file, **values)
    with pytest.raises(ConfigError, match=message):
        load()


def test_a_missing_yaml_says_which_lie_there(load):
    with pytest.raises(ConfigError, match=r"none.yaml: no such configuration; --config-yaml.*has config_gcmvn.yaml, "):
        load("--config-yaml", "none.yaml")


def test_vocoder_of_the_yaml(data, load):
    """A speaking agent without --vocoder takes the yaml's, whose paths are checked like the others."""
    with pytest.raises(ConfigError, match="give --vocoder and --vocoder-cfg"):
        load(speech=True)
    change(data / "config_gcmvn.yaml", vocoder={"type": "code_hifigan", "checkpoint": "/data/g_1", "config": "v.json"})
    assert load().vocoder is None
    with pytest.raises(
        ConfigError, match=r"config_gcmvn.yaml: vocoder.checkpoint: no such file '/data/g_1'.*--vocoder"
    ):
        load(speech=True)
    vocoder = tiny_vocoder(UNITS)
    torch.save({"generator": vocoder.state_dict()}, data / "g_1")
    (data / "v.json").write_text(json.dumps(vocoder.config.__dict__))
    change(data / "config_gcmvn.yaml", vocoder__checkpoint="g_1")
    assert load(speech=True).vocoder.config.num_embeddings == UNITS


def test_damaged_statistics_and_other_dictionaries(data, load):
    dictionary = data.parent / "tgt_unigram" / "dict.txt"
    before = dictionary.read_text(encoding="utf-8")
    dictionary.write_text(before + "▁five 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="trained with these dictionaries"):
        load()
    dictionary.write_text(before, encoding="utf-8")
    np.savez(data.parent / "gcmvn.npz", mean=np.zeros(80))
    with pytest.raises(ValueError, match="gcmvn.npz: expected arrays 'mean' and 'std'"):
        load()


def test_training_names_the_task_table_that_is_missing(trained, data, tmp_path):
    (data.parent / "src_unigram" / "train.tsv").unlink()
    with pytest.raises(ConfigError, match=r"config_mtl.yaml: source_unigram.data: no 'train.tsv' in .*src_unigram"):
        train(data, tmp_path / "save", updates=1)
