"""Checkpoints of fairseq-train made without training: from a bundle, or averaged from others.

What is written holds the options in a Namespace and the parameters, as fairseq-train's own files do, so that
`--restore-file`, `--finetune-from-model`, `--load-streamspeech-decoders` and fairseq-generate read it. It has no
optimizer state: a training that goes on from it begins with a fresh optimizer.
"""

import dataclasses
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath

import numpy as np
import torch
import yaml
from fairseq import options
from fairseq.checkpoint_utils import checkpoint_paths
from tqdm import tqdm

from echostream_plugin.config import ConfigError, ModelConfig
from echostream_plugin.data.subwords import write_configs
from echostream_plugin.data.whisper_weights import halfway_back
from echostream_plugin.decoders.speechllm import SpeechLLMModelConfig
from echostream_plugin.encoders import ENCODERS, encoder_of
from echostream_plugin.fairseq_ext.flags import (
    TRANSFORMER,
    config_from_args,
    fill_defaults,
    flags_of_config,
    speechllm_config,
)
from echostream_plugin.fairseq_ext.loading import load_parameters, mean_of, read_checkpoint
from echostream_plugin.fairseq_ext.task import SpeechToSpeechCTCTask
from echostream_plugin.fairseq_ext.unpickling import load_trusted
from echostream_plugin.files import whole_file, write_text
from echostream_plugin.inference.bundle import Bundle, load_bundle

CONFIG_YAML, MULTITASK_YAML = "config_gcmvn.yaml", "config_mtl_asr_st_ctcst.yaml"
# how fairseq-train names what it saves at the end of epochs, and every so many updates
_SAVED = {"epoch": r"checkpoint(\d+)\.pt", "update": r"checkpoint_\d+_(\d+)\.pt"}
_CRITERION = "speech_to_unit_2pass_ctc_asr_st"


def from_bundle(
    folder, out, data=None, config_yaml: str = CONFIG_YAML, multitask_config_yaml: str = MULTITASK_YAML
) -> Path:
    """Write the checkpoint of a bundle's model; returns its data folder.

    data: a data folder whose yamls and dictionaries are the model's; None: one is written beside the checkpoint from
    what the bundle has (it lacks manifests). Raises ConfigError or BundleError for what does not fit together."""
    bundle, out = load_bundle(folder), Path(out)
    if bundle.config.in_chunks:
        raise ConfigError(f"{folder}: writes text in chunks; a training takes its encoder by --load-bundle-encoder")
    if data is None:
        config_yaml, multitask_config_yaml = CONFIG_YAML, MULTITASK_YAML
        data = write_data(bundle, Path(folder), out.with_name(f"{out.stem}_data"))
    args = training_args(bundle.config, data, config_yaml, multitask_config_yaml)
    task = SpeechToSpeechCTCTask.setup_task(args)
    for side, name in (("source", "source_unigram"), ("target", "target_unigram")):
        symbols = tuple(task.multitask_tasks[name].target_dictionary.symbols)
        if symbols != tuple(getattr(bundle, f"{side}_dictionary").symbols):
            raise ConfigError(
                f"{data}: the dictionary of {name} ({len(symbols)} symbols) is not {Path(folder) / f'{side}.dict.txt'} "
                "of the bundle; give the data folder it was trained with, or none to have one written"
            )
    model = task.build_model(args)
    if model.config != bundle.config:
        differing = ", ".join(_differences(model.config, bundle.config))
        raise ConfigError(f"{folder}: flags and yamls of a training cannot say {differing}; it stays a bundle")
    load_parameters(model, bundle.model.state_dict(), folder)
    args.made_from_bundle = str(folder)
    save_checkpoint(out, args, model.state_dict())
    return Path(data)


def write_data(bundle: Bundle, source: Path, folder: Path) -> Path:
    """The yamls, dictionaries, SentencePiece models and CMVN of a bundle in the layout of a training's data."""
    data = folder / "fbank2unit"
    dictionaries = []
    for side, short in (("source", "src"), ("target", "tgt")):
        unigram = folder / f"{short}_unigram"
        unigram.mkdir(parents=True, exist_ok=True)
        dictionaries.append(shutil.copyfile(source / f"{side}.dict.txt", unigram / "spm_unigram.txt"))
        if (source / f"{side}.spm.model").is_file():
            shutil.copyfile(source / f"{side}.spm.model", unigram / "spm_unigram.model")
    data.mkdir(exist_ok=True)
    np.savez(folder / "gcmvn.npz", mean=bundle.cmvn_mean, std=bundle.cmvn_std)
    write_configs(data, *dictionaries)
    tasks = yaml.safe_load((data / MULTITASK_YAML).read_text(encoding="utf-8"))
    if hasattr(bundle.config.mt, "ffn_dim"):
        tasks["target_unigram"]["decoder_args"]["decoder_ffn_embed_dim"] = bundle.config.mt.ffn_dim
    write_text(data / MULTITASK_YAML, yaml.safe_dump(tasks, sort_keys=False))
    return data


def training_args(config: ModelConfig, data, config_yaml: str, multitask_config_yaml: str) -> Namespace:
    """What fairseq-train's command line of a model would give, all defaults included."""
    architecture = next(iter(ENCODERS[config.encoder.kind].architectures))
    command = [
        str(data), "--task", "speech_to_speech_ctc", "--target-is-code", "--vocoder", "code_hifigan",
        "--target-code-size", str(config.unit.units), "--arch", architecture,
        "--criterion", _CRITERION, "--config-yaml", config_yaml, "--multitask-config-yaml", multitask_config_yaml,
    ]  # fmt: skip
    args = options.parse_args_and_arch(options.get_training_parser("speech_to_speech_ctc"), command)
    for flag, value in flags_of_config(config).items():
        setattr(args, flag, value)
    return args


def average(paths, out, adapted=None) -> Path:
    """Write the mean of the parameters of several checkpoints, with the options of the last one. adapted: an adapted
    Whisper encoder (.safetensors) that its encoder goes halfway back to."""
    paths, out = [Path(path) for path in paths], Path(out)
    if not paths:
        raise ConfigError("no checkpoint to average: name some, or give --last N --dir FOLDER")
    options_of_last, updates = None, []

    def states():
        nonlocal options_of_last
        for path in tqdm(paths, unit="checkpoint", disable=len(paths) < 3):
            options_of_last, state = read_checkpoint(path)
            updates.append(training_updates(path) or 0)
            yield path, state

    state = mean_of(states())
    if adapted is not None:
        state = halfway_back(state, adapted)
    return save_checkpoint(out, options_of_last, state, max(updates))


def last_checkpoints(folder, count: int, by: str = "epoch") -> list[Path]:
    """The newest `count` checkpoints of a folder, saved after epochs or (`by` update) after updates, oldest first."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of checkpoints")
    found = checkpoint_paths(str(folder), pattern=_SAVED[by])
    if count < 1 or len(found) < count:
        other = "update" if by == "epoch" else "epoch"
        more = len(checkpoint_paths(str(folder), pattern=_SAVED[other]))
        hint = f"; there are {more} saved by {other} (--by {other})" if more else ""
        raise ConfigError(f"{folder}: {len(found)} checkpoints saved by {by}, {count} wanted{hint}")
    return [Path(path) for path in reversed(found[:count])]


def save_checkpoint(path: Path, args: Namespace, state: dict, updates: int = 0) -> Path:
    """Write a checkpoint without optimizer state; nothing is left half-written under its name."""
    options_ = Namespace(**{name: _plain(value) for name, value in vars(args).items()})
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": updates}
    checkpoint = {
        "args": options_,
        "cfg": None,
        "model": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    with whole_file(path) as partial:
        torch.save(checkpoint, partial)
    return path


def checkpoint_config(args: Namespace, state: dict, where) -> ModelConfig | SpeechLLMModelConfig:
    """The configuration of the model that a checkpoint holds, from its options and its shapes; no data needed."""
    encoder = encoder_of(state)
    kind, args = encoder.Config.kind, Namespace(**vars(args))
    in_chunks = any(name.startswith("chunk_decoder.") for name in state)
    fill_defaults(args, kind, in_chunks, **next(iter(encoder.architectures.values())))
    try:
        if in_chunks:
            heads = ("source_unigram_decoder", "ctc_target_unigram_decoder")
            sizes = (state[f"{head}.proj.weight"].size(0) for head in heads)
            return speechllm_config(args, *sizes, kind)
        ffn = "target_unigram_decoder.layers.0.fc1.weight"  # what the multitask yaml sets, of a Transformer
        return config_from_args(
            args,
            source_vocab=state["source_unigram_decoder.proj.weight"].size(0),
            target_vocab=state["target_unigram_decoder.embed_tokens.weight"].size(0),
            unit_vocab=state["decoder.embed_tokens.weight"].size(0),
            mt_ffn_dim=state[ffn].size(0) if args.mt_decoder == TRANSFORMER or ffn in state else 0,
            kind=kind,
        )
    except KeyError as error:
        raise ConfigError(
            f"{where}: no parameter {error}: not a checkpoint of a StreamSpeech or EchoStream speech-to-speech model"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{where}: the options saved in it: {error}") from error


def training_updates(path) -> int | None:
    """After how many updates a checkpoint was saved; None where the file does not say."""
    try:
        return load_trusted(path)["optimizer_history"][-1]["num_updates"] or None
    except (KeyError, IndexError):
        return None


def _differences(one: ModelConfig, other: ModelConfig) -> list[str]:
    """Options by name, with the second configuration's value, where two differ."""
    one, other = dataclasses.asdict(one), dataclasses.asdict(other)
    return [
        f"{part}.{name} {value}"
        for part, values in other.items()
        for name, value in values.items()
        if one[part].get(name) != value
    ]


def _plain(value):
    """An option as a plain value, which is read back without running code; what cannot be one is None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, Enum | PurePath):
        return str(value)
    return value if type(value) in (bool, int, float, str) else None
