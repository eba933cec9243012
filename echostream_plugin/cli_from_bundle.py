"""`echostream from-bundle BUNDLE --out checkpoint.pt`: a bundle as a checkpoint of fairseq-train."""

import argparse

from echostream_plugin.cli_errors import DONE, check_free
from echostream_plugin.fairseq_ext.checkpoints import from_bundle

DESCRIPTION = """Makes a checkpoint of a bundle, which fairseq-generate, fairseq-train --finetune-from-model or
--restore-file, and echostream bundle read. Without --data, yamls, dictionaries and CMVN are written beside it
(CHECKPOINT_data/fbank2unit). A bundle holds half precision, so the parameters are those of the checkpoint it came from
to three digits."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("bundle", help="bundle folder")
    add("-o", "--out", required=True, help="checkpoint to write, such as checkpoint.pt")
    add("--data", help="data folder with the model's yamls (default: written beside the checkpoint)")
    add("--config-yaml", default="config_gcmvn.yaml", help="in the data folder (default %(default)s)")
    add("--multitask-config-yaml", default="config_mtl_asr_st_ctcst.yaml", help="in the data folder "
        "(default %(default)s)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the checkpoint that is there")
    parser.set_defaults(run=run_from_bundle)


def run_from_bundle(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    check_free(args.out, args.overwrite)
    data = from_bundle(args.bundle, args.out, args.data, args.config_yaml, args.multitask_config_yaml)
    print(f"{args.out}: reads {data}")
    return DONE
