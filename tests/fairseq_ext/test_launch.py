"""fairseq's programs as they are started: help with the plugin's flags, and one training of several processes."""

import os
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext import launch
from tests.fairseq_ext.miniature import CRITERION, ROOT, TINY, run_cli, task_arguments, train


@pytest.mark.parametrize(
    "program, flags, shown",
    [
        ("train", [], ["--memory-size", "--multichunk-sizes", "--target-code-size", "--k1"]),
        ("train", ["--task", "speech_to_speech_ctc", "--arch", "streamspeech"], ["--depthwise-conv-kernel-size"]),
        ("generate", [], ["--beam-mt", "--target-code-size"]),
    ],
)
def test_help_shows_the_plugins_flags(capsys, program, flags, shown):
    with pytest.raises(SystemExit) as end:
        run_cli(f"fairseq_cli.{program}", ["--help", "--user-dir", str(ROOT / "echostream_plugin"), *flags])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in [*shown, "--max-tokens"])


def test_two_processes_of_torchrun_are_one_training(corpus, tmp_path):
    """Two processes with a batch each do what one process does with two batches an update; one of them saves."""
    flags = ["--dropout", "0", "--attention-dropout", "0", "--relu-dropout", "0", "--disable-validation"]
    alone = train(corpus, tmp_path / "alone", *flags, "--update-freq", "2", updates=3)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
        "fairseq_cli.train", *task_arguments(corpus), *TINY, *CRITERION, *flags, "--train-subset", "train",
        "--save-dir", str(tmp_path / "both"), "--no-epoch-checkpoints", "--optimizer", "adam", "--lr", "0.003",
        "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "5", "--clip-norm", "1.0", "--max-tokens", "600",
        "--seed", "1", "--cpu", "--num-workers", "0", "--max-update", "3", "--log-format", "simple",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def run(*more):
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-9000:]
        return done.stdout + done.stderr

    said = run()
    assert "training on 2 devices" in said
    assert said.count("Saved checkpoint") == 2  # at the end of two epochs
    both = torch.load(tmp_path / "both" / "checkpoint_last.pt", weights_only=False)
    assert both["optimizer_history"][-1]["num_updates"] == 3
    for name, weights in alone["model"].items():
        assert torch.allclose(weights, both["model"][name], atol=2e-4), name
    assert "checkpoint_last.pt (epoch" in run("--max-update", "4")  # the second process gets it from the first
    after = torch.load(tmp_path / "both" / "checkpoint_last.pt", weights_only=False)
    assert after["optimizer_history"][-1]["num_updates"] == 4


def test_processes_that_torchrun_did_not_start_are_refused(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="--distributed-world-size 3: torchrun has started 2"):
        launch.join_torchrun(Namespace(distributed_world_size=3, distributed_init_method=None))
    own = Namespace(distributed_world_size=2, distributed_init_method="tcp://somewhere:1")
    launch.join_torchrun(own)
    assert own == Namespace(distributed_world_size=2, distributed_init_method="tcp://somewhere:1")


def test_processes_of_torchrun_have_a_gpu_each(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = Namespace(distributed_world_size=2, distributed_init_method=None, ddp_backend="pytorch_ddp", cpu=False)
    launch.join_torchrun(args)
    assert (args.distributed_world_size, args.distributed_rank, args.device_id) == (4, 3, 1)
    assert args.distributed_init_method == "env://" and args.distributed_no_spawn and args.ddp_backend == "pytorch_ddp"


def test_the_root_logger_is_left_alone():
    """One of fairseq's models sets it to DEBUG, and then matplotlib reports every font in the middle of a table."""
    program = """if True:
        import logging
        import echostream_plugin.fairseq_ext
        root = logging.getLogger()
        print(root.level == logging.WARNING, root.handlers)
        logging.basicConfig(level=logging.INFO)
        print(root.level == logging.INFO)
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "True []\nTrue\n"), done.stderr
