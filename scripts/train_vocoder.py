#!/usr/bin/env python3
"""Train a unit vocoder (code_hifigan or code_vocos, with durations) from waveforms and their units.

    python scripts/train_vocoder.py --preset small --units train.txt --dev-units dev.txt --wav-dir wav --out vocoder

Unit lists have lines `name|u u u ...` at full rate (50 Hz: one unit for every 320 samples at 16 kHz). The folder gets
vocoder.safetensors and vocoder.json (usable at every checkpoint), log.jsonl, a tensorboard log and state.pt; the same
command again resumes where it was stopped.
"""

import argparse
import ast
import dataclasses
import shutil
import sys
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data.units import UNITS_NOTE, units_digest
from echostream_plugin.vocoder.data import UnitCorpus, read_unit_list
from echostream_plugin.vocoder.files import KINDS
from echostream_plugin.vocoder.recipes import TrainingConfig, preset
from echostream_plugin.vocoder.training import VocoderTrainer
from echostream_plugin.vocoder.vocos_config import VocosConfig


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", required=True, help="training unit list, lines 'name|u u u ...' at full rate")
    parser.add_argument("--dev-units", help="dev unit list; its mel distance is measured at every checkpoint")
    parser.add_argument("--wav-dir", required=True, help="folder with name.wav of every line")
    parser.add_argument("--dev-wav-dir", help="folder of the dev wavs (default: --wav-dir)")
    parser.add_argument("--out", required=True, help="folder of the vocoder and of what resumes it")
    parser.add_argument("--kind", choices=tuple(KINDS), default="code_hifigan", help="default %(default)s")
    parser.add_argument("--preset", choices=("full", "small"), default="small", help="sizes of model and training")
    parser.add_argument("--num-units", type=int, help="K (default: highest training unit + 1)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--limit", type=int, default=0, help="use only the first so many training utterances")
    group = parser.add_argument_group("training options (default: the preset's)")
    for field in dataclasses.fields(TrainingConfig):
        kind = ast.literal_eval if isinstance(field.default, tuple) else type(field.default)
        group.add_argument("--" + field.name.replace("_", "-"), type=kind, help=field.metadata["help"])
    group = parser.add_argument_group("vocoder options (default: the preset's)")
    group.add_argument("--dim", type=int, help="width of code_vocos")
    group.add_argument("--hidden-dim", type=int, help="inner width of a block of code_vocos")
    group.add_argument("--upsample-initial-channel", type=int, help="channels before the first upsampling")
    group.add_argument("--resblock-kernel-sizes", type=ast.literal_eval, help="for instance 3,7")
    group.add_argument("--embedding-dim", type=int, help="size of a unit's embedding")
    return parser.parse_args(argv)


def configs(args):
    """The preset with the flags given on top."""
    num_units = args.num_units or max(max(units) for _, units in read_unit_list(args.units) if units) + 1
    vocoder, training = preset(args.preset, num_units, args.kind)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainingConfig)}
    training = dataclasses.replace(training, **{k: v for k, v in given.items() if v is not None})
    if args.kind == "code_vocos":
        sizes = {f.name: getattr(args, f.name, None) for f in dataclasses.fields(VocosConfig)}
        return dataclasses.replace(vocoder, **{k: v for k, v in sizes.items() if v is not None}), training
    changes = {}
    if args.upsample_initial_channel:
        changes["upsample_initial_channel"] = args.upsample_initial_channel
    if args.resblock_kernel_sizes:
        changes["resblock_kernel_sizes"] = args.resblock_kernel_sizes
        changes["resblock_dilation_sizes"] = ((1, 3, 5),) * len(args.resblock_kernel_sizes)
    if args.embedding_dim:
        size = args.embedding_dim
        changes.update(embedding_dim=size, model_in_dim=size)
        changes["dur_predictor_params"] = {**vocoder.dur_predictor_params, "encoder_embed_dim": size}
    return dataclasses.replace(vocoder, **changes), training


def main(argv=None):
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    vocoder, training = configs(args)
    shape = (vocoder.hop_samples, vocoder.sampling_rate, vocoder.num_embeddings)
    pitch = isinstance(vocoder, VocosConfig)
    train = UnitCorpus(args.units, args.wav_dir, *shape, limit=args.limit, pitch=pitch)
    dev = None
    if args.dev_units:
        folder = args.dev_wav_dir or args.wav_dir
        dev = UnitCorpus(args.dev_units, folder, *shape, limit=training.dev_utterances, pitch=pitch)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    note_units(Path(args.units).parent, Path(args.out))
    trainer = VocoderTrainer(vocoder, training, args.out, args.device)
    if trainer.resume():
        print(f"resumed from step {trainer.step} ({trainer.seconds / 60:.1f} minutes done)")
    sizes = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (trainer.generator, trainer.discriminators)]
    hours = sum(len(u.samples) for u in train.utterances) / vocoder.sampling_rate / 3600
    print(
        f"{len(train.utterances)} utterances, {hours:.2f} h, K = {vocoder.num_embeddings}; "
        f"generator {sizes[0]:.2f} M parameters, discriminators {sizes[1]:.2f} M"
    )
    trainer.fit(train, dev, _tensorboard(Path(args.out) / "tensorboard"))
    print(f"done at step {trainer.step}: {args.out}")


def note_units(units: Path, out: Path) -> None:
    """Keep which units the vocoder speaks, where they say it; a vocoder of other units is not trained on."""
    known, here = units_digest(units), units_digest(out)
    if known and here and known != here:
        raise ConfigError(f"{out}: holds a vocoder of other units than those of {units}; name another --out")
    if known:
        shutil.copyfile(units / UNITS_NOTE, out / UNITS_NOTE)


def _tensorboard(folder):
    """A log function, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer = SummaryWriter(str(folder))

    def log(values, step):
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
