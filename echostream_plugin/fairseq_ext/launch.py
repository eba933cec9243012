"""How fairseq's programs are started with this plugin: `--help` that knows its flags, and training under torchrun."""

import functools
import os
import sys
from pathlib import Path

import torch
from fairseq import checkpoint_utils, options

from echostream_plugin.config import ConfigError

PLUGIN = Path(__file__).resolve().parents[1]
_ASKED = ("-h", "--help")
# whose flags `--help` shows where the command line does not say
_SHOWN = {
    "--task": "speech_to_speech_ctc",
    "--arch": "echostream",
    "--criterion": "speech_to_unit_2pass_ctc_asr_st",
}


def explain_plugin() -> None:
    """Let `fairseq-train --help --user-dir echostream_plugin` show the plugin's flags. fairseq prints its help before
    it declares the flags of task, model and criterion."""
    parse = options.parse_args_and_arch
    if hasattr(parse, "__wrapped__"):
        return

    @functools.wraps(parse)
    def parse_or_explain(parser, input_args=None, *more, **keywords):
        words = list(sys.argv[1:] if input_args is None else input_args)
        if not set(_ASKED) & set(words):
            return parse(parser, input_args, *more, **keywords)
        words = [word for word in words if word not in _ASKED]
        for flag, value in _SHOWN.items():
            if flag in parser._option_string_actions and not {flag, flag.replace("--arch", "-a")} & set(words):
                words += [flag, value]

        def explain(*_):
            parser.print_help()
            parser.exit()

        parser.parse_args = explain  # which comes when all flags are declared
        return parse(parser, words, *more, **keywords)

    options.parse_args_and_arch = parse_or_explain


def train(words: list[str]) -> None:
    """fairseq-train with these words, in this process; the plugin is registered."""
    from fairseq_cli.train import cli_main  # sets up logging

    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # of another training in this process
    before, sys.argv = sys.argv, ["fairseq-train", "--user-dir", str(PLUGIN), *words]
    try:
        cli_main()
    finally:
        sys.argv = before


def join_torchrun(args) -> None:
    """Called with a training's whole command line. Under torchrun, make this process one of its training.

    fairseq itself looks at torchrun's variables only where it sees several GPUs; without them every process would train
    alone and write over the others' checkpoints. Raises ConfigError where the command line asks for other processes
    than torchrun has started."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if "TORCHELASTIC_RUN_ID" not in os.environ or processes == 1 or not hasattr(args, "distributed_world_size"):
        return
    asked = args.distributed_world_size
    if asked not in (1, torch.cuda.device_count(), processes):
        raise ConfigError(f"--distributed-world-size {asked}: torchrun has started {processes} processes; leave it out")
    if args.distributed_init_method is not None:
        return  # the command line says how the processes meet
    on_cpu = getattr(args, "cpu", False) or not torch.cuda.is_available()
    args.distributed_world_size, args.distributed_rank = processes, int(os.environ["RANK"])
    args.distributed_init_method, args.distributed_no_spawn = "env://", True
    args.device_id = 0 if on_cpu else int(os.environ["LOCAL_RANK"])
    if on_cpu:
        args.distributed_backend, args.ddp_backend = "gloo", "legacy_ddp"
