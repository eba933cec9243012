"""The task `speech_to_speech_ctc`: StreamSpeech's data layout, a CTC blank among the units, and clear errors."""

import hashlib
import logging
from pathlib import Path

import torch
import yaml
from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import MultitaskConfig, S2SDataConfig
from fairseq.tasks import LegacyFairseqTask, register_task
from fairseq.tasks.speech_to_speech import SpeechToSpeechTask
from fairseq.tasks.speech_to_text import DummyMultiTask

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.alignable import require_alignments
from echostream_plugin.fairseq_ext.dataset import load_split
from echostream_plugin.fairseq_ext.generator import TwoPassGenerator

logger = logging.getLogger(__name__)

_FIX_TEXT = "correct the path, or make the file with scripts/cvss/build_text.py"
_FIX_CMVN = "correct the path, or make the file with scripts/cvss/build_features.py"
# names that StreamSpeech's scripts use for a file that its recipe calls otherwise
_MISNAMED = {"config_unity_asr_st_ctcst.yaml": "config_mtl_asr_st_ctcst.yaml"}


@register_task("speech_to_speech_ctc")
class SpeechToSpeechCTCTask(SpeechToSpeechTask):
    """Speech to units by way of text; flags as in fairseq's `speech_to_speech` and StreamSpeech.

    Paths in the yamls may be absolute, relative to the data folder, or relative to the working directory."""

    blank_symbol = "<blank>"

    def __init__(self, args, tgt_dict, infer_tgt_lang_id=None):
        LegacyFairseqTask.__init__(self, args)
        if not args.target_is_code:
            raise ConfigError("speech_to_speech_ctc translates to units: add --target-is-code --target-code-size K")
        if not args.multitask_config_yaml:
            raise ConfigError("speech_to_speech_ctc needs --multitask-config-yaml (ASR, ST and MT tasks)")
        self.tgt_dict = tgt_dict
        self.blank_symbol_index = tgt_dict.add_symbol(self.blank_symbol)
        self.data_cfg = read_data_config(Path(args.data) / args.config_yaml)
        self.eval_gen_args = {}
        self._infer_tgt_lang_id = infer_tgt_lang_id
        self.features = _features_of(getattr(args, "arch", None))  # what the model reads, a key of FRONTENDS
        config = read_multitask_config(Path(args.data) / args.multitask_config_yaml)
        first_pass = config.first_pass_decoder_task_index
        self.multitask_tasks = {
            name: DummyMultiTask(task, task.tgt_dict, first_pass=i == first_pass)
            for i, (name, task) in enumerate(config.get_all_tasks().items())
        }
        for name, task in self.multitask_tasks.items():
            logger.info(f"task {name}: {task.args.decoder_type}, dictionary of {len(task.target_dictionary):,}")
        self.eos_token_mt = None
        self._alignments_seen = False
        self.tgt_dict_mt = next(
            (task.target_dictionary for task in self.multitask_tasks.values() if task.is_first_pass_decoder), None
        )

    @classmethod
    def setup_task(cls, args, **kwargs):
        if args.target_is_code and args.target_code_size is None:
            raise ConfigError("--target-code-size K is missing: how many units are there?")
        existing_config(Path(args.data) / args.config_yaml, "--config-yaml")
        return super().setup_task(args, **kwargs)

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        for name, task in self.multitask_tasks.items():
            if not (Path(task.args.data) / f"{split}.tsv").is_file():
                raise ConfigError(
                    f"{Path(self.args.data) / self.args.multitask_config_yaml}: {name}.data: no '{split}.tsv' in "
                    f"'{task.args.data}'; {_FIX_TEXT}"
                )
        self.datasets[split] = self.read_split(split)

    def read_split(self, split: str, **more):
        """The data set of a split, whose multitask tables are there; more: of `load_split`."""
        return load_split(
            self.args.data,
            split,
            self.data_cfg,
            self.target_dictionary,
            self.multitask_tasks,
            self.args.seed,
            self.features,
            **more,
        )

    def build_model(self, args, from_checkpoint=False):
        model = super().build_model(args, from_checkpoint)
        self.features = model.config.encoder.features
        return model

    def optimizer_step(self, optimizer, model, update_num):
        """An update, of which the encoder follows `--encoder-lr-scale`, its new parts whole: so does its learning rate,
        Adam's too."""
        scale = getattr(self.args, "encoder_lr_scale", 1.0)
        if scale == 1.0:
            return super().optimizer_step(optimizer, model, update_num)
        new = model.encoder.new_parts
        parameters = [p for name, p in model.encoder.named_parameters() if p.requires_grad and not name.startswith(new)]
        before = [parameter.detach().clone() for parameter in parameters]
        super().optimizer_step(optimizer, model, update_num)
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.lerp_(value, 1 - scale)

    def begin_epoch(self, epoch, model):
        """Called by fairseq-train. Before the first epoch: can CTC learn the training set at all?"""
        dataset = self.datasets.get(getattr(self.args, "train_subset", "train"))
        if dataset is not None and not self._alignments_seen:
            self._alignments_seen = True
            require_alignments(dataset, model.config.unit.upsample, model.encoder.output_lengths)

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """Utterances within the limits, as fairseq has it; raises ConfigError that says which limit where none is."""
        kept = super().filter_indices_by_size(indices, dataset, max_positions, ignore_invalid_inputs)
        if len(indices) and not len(kept):
            raise ConfigError(
                f"{dataset.split}: every one of its {len(indices)} utterances is left out: "
                f"{_limits(dataset, indices, max_positions)}"
            )
        return kept

    def state_dict(self) -> dict:
        """What a checkpoint says about the task: fingerprints of the dictionaries it was trained with."""
        return {**super().state_dict(), "dictionaries": self._fingerprints()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Called with what a checkpoint says; raises ConfigError where it knows other dictionaries. StreamSpeech's
        checkpoints say nothing, so that only a difference in size is seen in them."""
        state = dict(state_dict)
        own = self._fingerprints()
        trained = state.pop("dictionaries", None)
        trained = trained if isinstance(trained, dict) else {}
        other = [name for name in own if name in trained and trained[name] != own[name]]
        if other:
            named = ", ".join(f"{name} ({self.multitask_tasks[name].args.config['dict']})" for name in other)
            raise ConfigError(
                f"the checkpoint was trained with another dictionary of {named}; give its own data folder"
            )
        super().load_state_dict(state)

    def _fingerprints(self) -> dict[str, str]:
        return {name: fingerprint(task.target_dictionary.symbols) for name, task in self.multitask_tasks.items()}

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None):
        return TwoPassGenerator(
            models,
            source_dictionary=self.multitask_tasks["source_unigram"].target_dictionary,
            target_dictionary=self.target_dictionary_mt,
            beam_size=max(1, getattr(args, "beam_mt", 1)),
            max_len_a=getattr(args, "max_len_a_mt", 0.0),
            max_len_b=getattr(args, "max_len_b_mt", 200),
            length_penalty=getattr(args, "lenpen", 1),
        )


def _features_of(architecture: str | None) -> str:
    """The features that the encoder of an architecture reads; the Emformer's where nothing is known."""
    known = (encoder for encoder in ENCODERS.values() if architecture in encoder.architectures)
    return next(known, ENCODERS["emformer"]).Config.features


def _limits(dataset, indices, max_positions) -> str:
    """The limits that even the shortest of the utterances exceeds, in words."""
    limits = max_positions if isinstance(max_positions, tuple | list) else (max_positions, max_positions)
    sizes = [dataset.size(index) for index in indices]
    sides = (
        ("feature frames of the source", "--max-tokens, --max-source-positions"),
        ("units", "--max-tokens, --max-target-positions"),
    )
    said = [
        f"{what} {min(size[side] for size in sizes)} to {max(size[side] for size in sizes)}, "
        f"allowed {limits[side]} ({flags})"
        for side, (what, flags) in enumerate(sides)
        if limits[side] is not None and any(size[side] > limits[side] for size in sizes)
    ]
    return "; ".join(said) or f"sizes {sizes[0]}, limits {max_positions}"


def fingerprint(symbols: list[str]) -> str:
    """16 hexadecimal digits that tell dictionaries apart."""
    return hashlib.sha256("\n".join(symbols).encode()).hexdigest()[:16]


def read_data_config(path: Path) -> S2SDataConfig:
    """The data yaml with its paths resolved; raises ConfigError for a file that is missing."""
    path = existing_config(path, "--config-yaml")
    config = S2SDataConfig(path)
    cmvn = config.config.get("global_cmvn")
    if cmvn:
        cmvn["stats_npz_path"] = resolve(cmvn.get("stats_npz_path"), path, "global_cmvn.stats_npz_path", _FIX_CMVN)
    if config.config.get("audio_root"):
        config.config["audio_root"] = resolve(config.config["audio_root"], path, "audio_root", "correct the path")
    return config


def read_multitask_config(path: Path) -> MultitaskConfig:
    """The multitask yaml with its paths resolved and its dictionaries loaded."""
    path = existing_config(path, "--multitask-config-yaml")
    with open(path, encoding="utf-8") as file:
        tasks = yaml.safe_load(file)
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise ConfigError(f"{path}: expected one mapping of options per task")
    dictionaries = {name: resolve(task.get("dict"), path, f"{name}.dict", _FIX_TEXT) for name, task in tasks.items()}
    config = MultitaskConfig(path)
    for name, task in config.get_all_tasks().items():
        task.config["dict"] = dictionaries[name]
        task.config["data"] = resolve(task.config.get("data"), path, f"{name}.data", _FIX_TEXT, must_exist=False)
        task.tgt_dict = Dictionary.load(task.config["dict"])
    return config


def existing_config(path: Path, flag: str) -> Path:
    """The yaml itself, or the file that a script of StreamSpeech means by a name that its recipe does not have."""
    if path.is_file():
        return path
    meant = path.with_name(_MISNAMED.get(path.name, path.name))
    if meant.is_file():
        logger.warning(f"{path}: no such file; {flag} takes {meant.name}, which lies there")
        return meant
    there = ", ".join(sorted(other.name for other in path.parent.glob("*.yaml"))) or "no yaml"
    raise ConfigError(f"{path}: no such configuration; {flag} names a yaml in the data folder, which has {there}")


def resolve(value: str | None, config_path: Path, key: str, fix: str, must_exist: bool = True) -> str:
    """A path of a yaml: as it stands, else relative to the yaml's folder (the data folder)."""
    if not value:
        raise ConfigError(f"{config_path}: {key} is missing")
    for candidate in (config_path.parent / value, Path(value)):
        if candidate.exists():
            return str(candidate)
    if must_exist:
        raise ConfigError(f"{config_path}: {key}: no such file '{value}'; {fix}{_near(Path(value), config_path)}")
    return str(value)


def _near(missing: Path, config_path: Path) -> str:
    """A hint where a file of that name does lie in the data folder or beside it, as after a change of machines."""
    for tail in (Path(missing.name), Path(*missing.parts[-2:])):
        for folder in (Path(), Path("..")):
            if (config_path.parent / folder / tail).is_file():
                return f". There is '{folder / tail}', relative to the data folder"
    return ""
