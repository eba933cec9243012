"""Checkpoints as StreamSpeech and fairseq pickled them are read, and no file runs code."""

import io
import logging
import shutil
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle, read_checkpoint
from echostream_plugin.fairseq_ext.unpickling import Inert, check_parameters, load_trusted
from tests.fairseq_ext.miniature import ROOT, run_cli, task_arguments, train


class Ruin:
    """What a hostile pickle does: call a function of its choosing."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def old_module(monkeypatch, name, **content):
    """A module that exists while the file is written and is gone when it is read."""
    module = types.ModuleType(name)
    for key, value in content.items():
        value.__module__ = name
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class LabelSmoothingConfig:
    pass


class AverageMeter(dict):
    pass


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """What fairseq-train writes after one update, as a dict."""
    return train(corpus, tmp_path_factory.mktemp("save"), "--disable-validation", updates=1)


@pytest.fixture
def trained(checkpoint, tmp_path):
    """The checkpoint, and a function that saves it changed."""
    path = tmp_path / "changed.pt"

    def save(**changes):
        torch.save({**checkpoint, **changes}, path)
        return path

    return checkpoint, save


def test_streamspeech_checkpoint_of_old_namespaces(corpus, trained, tmp_path, monkeypatch, caplog, capsys):
    """Options in `args`, numpy numbers, enumerations, omegaconf, and classes that nobody has any more: the agents'
    loading and fairseq-generate both read it, and both say what was left out."""
    from fairseq.data import Dictionary
    from fairseq.dataclass.configs import CheckpointConfig
    from omegaconf import OmegaConf

    checkpoint, save = trained
    old_module(monkeypatch, "ctc_unity", LabelSmoothingConfig=LabelSmoothingConfig)
    old_module(monkeypatch, "fairseq.meters", AverageMeter=AverageMeter)
    args = Namespace(**vars(checkpoint["cfg"]["model"]))
    args.criterion_config, args.root, args.lr = LabelSmoothingConfig(), Path("/data"), np.float64(0.5)
    args.criterion_config.alpha = 0.1
    extra = {
        **checkpoint["extra_state"],
        "best": np.float32(3.5),
        "history": np.arange(4),
        "train_meters": OrderedDict(train_loss=AverageMeter(value=1.0)),
        "checkpoint": CheckpointConfig(),
        "cfg": OmegaConf.create({"model": {"layers": 4, "names": ["a"]}}),
        "dictionary": Dictionary(),
    }
    path = save(args=args, cfg=None, extra_state=extra)
    monkeypatch.delitem(sys.modules, "ctc_unity")
    monkeypatch.delitem(sys.modules, "fairseq.meters")
    with caplog.at_level(logging.WARNING):
        options, state = read_checkpoint(path)
    assert "ctc_unity.LabelSmoothingConfig" in caplog.text and "AverageMeter" in caplog.text
    assert options.root == Path("/data") and options.lr == 0.5 and isinstance(options.criterion_config, Inert)
    for name, tensor in checkpoint["model"].items():
        assert torch.equal(state[name], tensor)
    whole = load_trusted(path)["extra_state"]
    assert whole["best"] == 3.5 and whole["history"].tolist() == [0, 1, 2, 3]
    assert whole["cfg"].model.layers == 4 and whole["checkpoint"] == CheckpointConfig()
    assert whole["dictionary"].symbols == Dictionary().symbols
    assert load_checkpoint_bundle(path, corpus).target_dictionary.symbols[4] == "▁one"
    capsys.readouterr()
    generate(corpus, path)
    assert sum(line.startswith("A-") for line in capsys.readouterr().out.splitlines()) == 4


def generate(corpus, path):
    run_cli(
        "fairseq_cli.generate",
        [
            *task_arguments(corpus),
            "--path",
            str(path),
            "--gen-subset",
            "dev",
            "--cpu",
            "--max-len-b-mt",
            "3",
            "--num-workers",
            "0",
        ],
    )


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["args", "task_state"])
def test_a_hostile_checkpoint_runs_nothing(corpus, checkpoint, tmp_path, place, legacy):
    """Whoever reads it, and wherever the trap lies."""
    mark = tmp_path / "ran"
    traps = [
        Ruin(exec, f"open({str(mark)!r}, 'w')"),
        Ruin(io.open, str(mark), "w"),
        Ruin(__import__, "this"),
        Ruin(getattr, Ruin, "__init__"),
        Ruin(torch.hub.load, "someone/something", "model"),
    ]
    changed = {**checkpoint, place: {"trap": traps}}
    path = tmp_path / "hostile.pt"
    torch.save(changed, path, _use_new_zipfile_serialization=not legacy)
    for reads in (load_trusted, read_checkpoint, *([] if legacy else [lambda file: generate(corpus, file)])):
        try:
            reads(path)
        except (ConfigError, RuntimeError, AttributeError):
            pass  # inert options are no options; what counts is the next line
        assert not mark.exists() and "this" not in sys.modules
    with open(path, "rb") as file:
        assert isinstance(load_trusted(file)[place]["trap"][0], Inert)


def test_state_for_a_class_is_refused(tmp_path):
    """A pickle may not change the classes that the program itself uses."""
    script = b"\x80\x02cargparse\nNamespace\nN}X\x06\x00\x00\x00__eq__K\x01s\x86b."
    (tmp_path / "hostile.pt").write_bytes(script)
    with pytest.raises(ConfigError, match="sets attributes"):
        load_trusted(tmp_path / "hostile.pt")
    assert Namespace() == Namespace()


def test_parameters_that_are_no_tensors_are_named(trained):
    checkpoint, save = trained
    model = {**checkpoint["model"], "encoder.trap": Ruin(sys.exit, 1)}
    with pytest.raises(ConfigError, match=r"changed.pt: parameter encoder.trap is a sys.exit, not a tensor"):
        read_checkpoint(save(model=model))
    with pytest.raises(ConfigError, match="'model' is a list"):
        read_checkpoint(save(model=[1]))
    with pytest.raises(ConfigError, match="no training options"):
        read_checkpoint(save(cfg=None))
    check_parameters(checkpoint["model"], "here")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 not a zip", "cannot be read"),
        (b"text", "cannot be read"),
        (None, "no such"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, message):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"model.pt: {message}"):
        read_checkpoint(path)


def test_a_training_may_write_over_a_checkpoint_that_is_being_read(trained, monkeypatch):
    """As fairseq-train does with its best and last; what has been read must not lie in the file any more."""
    path = trained[1]()

    def written_over(states):
        (_, state), *_ = states
        path.write_bytes(bytes(path.stat().st_size))
        return state

    monkeypatch.setattr("echostream_plugin.fairseq_ext.loading.mean_of", written_over)
    assert read_checkpoint(path)[1]["source_unigram_decoder.proj.weight"].abs().sum() > 0


def test_truncated_scripted_and_tensors_only_files(trained, tmp_path):
    path = trained[1]()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ConfigError, match="is the file whole"):
        read_checkpoint(path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "scripted.pt"))
    with pytest.raises(ConfigError, match="TorchScript program"):
        read_checkpoint(tmp_path / "scripted.pt")
    parity = ROOT / "tests" / "data" / "streamspeech_parity" / "state_dict.pt"
    assert all(isinstance(tensor, torch.Tensor) for tensor in load_trusted(parity).values())
    with pytest.raises(ConfigError, match="not a checkpoint of fairseq-train"):
        read_checkpoint(parity)
    with pytest.raises(ConfigError, match="give the bundle"):
        read_checkpoint("model.safetensors")


@pytest.mark.parametrize(
    "change, known, message",
    [
        (
            lambda text: text + "▁cinco 1\n",
            {"task_state": {}},
            r"source_unigram_decoder.*trained with these dictionaries",
        ),
        (lambda text: "▁due 1".join(text.split("▁dos 1")), {}, r"another dictionary of source_unigram \(.*dict.txt\)"),
    ],
    ids=["other size", "other words"],
)
def test_other_dictionaries_are_told_by_fairseq_generate_too(corpus, trained, tmp_path, change, known, message):
    """By their sizes where the file is StreamSpeech's, else by their words."""
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    dictionary = tmp_path / "corpus" / "src_unigram" / "dict.txt"
    dictionary.write_text(change(dictionary.read_text(encoding="utf-8")), encoding="utf-8")
    data = tmp_path / "corpus" / "fbank2unit"
    for reads in (lambda file: generate(data, file), lambda file: load_checkpoint_bundle(file, data)):
        with pytest.raises(ConfigError, match=message):
            reads(trained[1](**known))
