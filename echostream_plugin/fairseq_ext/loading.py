"""A checkpoint of fairseq-train, with its data folder, as a `Bundle` for the inference core."""

import logging
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path

from fairseq.tasks import TASK_REGISTRY

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.data.units import UNITS_NOTE, units_digest
from echostream_plugin.fairseq_ext.task import resolve
from echostream_plugin.fairseq_ext.unpickling import check_parameters, load_trusted
from echostream_plugin.inference.bundle import Bundle, save_bundle, statistics
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.frontends import FRONTENDS
from echostream_plugin.modules.weights import misfits
from echostream_plugin.vocoder import load_public_checkpoint, load_vocoder

logger = logging.getLogger(__name__)


def load_checkpoint_bundle(
    model_path,
    data_bin=None,
    config_yaml=None,
    multitask_config_yaml=None,
    vocoder=None,
    vocoder_cfg=None,
    speech: bool = False,
) -> Bundle:
    """Build the model that a checkpoint holds; options left out are those it was trained with.

    model_path: a checkpoint, or several separated by commas whose parameters are averaged; data_bin: the folder of the
    yamls; vocoder: a folder of ours, or a public checkpoint with its json in `vocoder_cfg`; speech: where no vocoder is
    given, take that of the data yaml. Raises ConfigError for files that are missing or do not fit together."""
    task, model = _task_and_model(
        model_path, data=data_bin, config_yaml=config_yaml, multitask_config_yaml=multitask_config_yaml
    )
    mean, std = statistics(model.config, _gcmvn(task))
    return Bundle(
        model=model,
        config=model.config,
        source_dictionary=_dictionary(task, "source_unigram"),
        target_dictionary=_dictionary(task, "target_unigram"),
        cmvn_mean=mean,
        cmvn_std=std,
        vocoder=_vocoder(task, vocoder, vocoder_cfg, speech),
        card={"checkpoint": Path(str(model_path)).name},
    )


def export_bundle(folder, model_path, data_bin=None, vocoder=None, card=None, session=None, int8=()) -> Path:
    """Write the bundle of a checkpoint into a folder; arguments as in `load_checkpoint_bundle` and `save_bundle`."""
    task, model = _task_and_model(model_path, data=data_bin)
    source, target = (
        Path(task.multitask_tasks[name].args.config["dict"]) for name in ("source_unigram", "target_unigram")
    )
    compare_units(Path(task.args.data), vocoder)
    session = {**suitable_options(model.config), **(session or {})}
    written = save_bundle(
        folder,
        model,
        source_dictionary=source,
        target_dictionary=target,
        gcmvn=_gcmvn(task),
        vocoder=vocoder,
        source_spm=_beside(source),
        target_spm=_beside(target),
        card=card,
        session=session,
        int8=int8,
    )
    note = Path(vocoder or "") / UNITS_NOTE
    if vocoder and note.is_file() and (written / "vocoder").resolve() != Path(vocoder).resolve():
        shutil.copyfile(note, written / "vocoder" / UNITS_NOTE)
    return written


def suitable_options(config) -> dict:
    """The session options without which a model does not work; none for speech to speech."""
    if not config.in_chunks:
        return {}
    segment_ms = config.encoder.segment_frames * FRAME_MS
    return {"chunk_ms": segment_ms, "decoding": "chunks", "speech": False, "translate": not config.transcribes}


def compare_units(data: Path, vocoder) -> None:
    """Raise ConfigError where a vocoder folder was made for the units of another k-means than a data folder's; log
    that it is not known where one of them does not say."""
    if vocoder is None or not Path(vocoder).is_dir():
        return
    spoken, wanted = units_digest(vocoder), units_digest(data)
    if spoken and wanted and spoken != wanted:
        raise ConfigError(
            f"{vocoder}: speaks the units of another k-means (kmeans.json: {spoken[:12]}) than {data} has "
            f"({wanted[:12]}), and would say other sounds; train one for these units with scripts/train_vocoder.py"
        )
    if not spoken or not wanted:
        silent = Path(vocoder) if not spoken else data
        logger.warning(f"{silent}: has no {UNITS_NOTE}, so nobody knows whether the vocoder is of the model's units")


def read_checkpoint(model_path) -> tuple[Namespace, dict]:
    """Training options and (averaged) parameters of one or several checkpoints of fairseq-train or StreamSpeech;
    what is read of them is written in `unpickling.TRUSTED`."""
    args, state, _ = _read(model_path)
    return args, state


def _read(model_path) -> tuple[Namespace, dict, dict]:
    """As `read_checkpoint`, and what the (last) file says about its task."""
    told = {}

    def states():
        for path in str(model_path).split(","):
            if path.endswith(".safetensors"):
                raise ConfigError(f"{path}: parameters without options; give the bundle that it lies in, its folder")
            checkpoint = load_trusted(path)
            if not isinstance(checkpoint, dict) or "model" not in checkpoint:
                raise ConfigError(f"{path}: not a checkpoint of fairseq-train")
            check_parameters(checkpoint["model"], path)
            told.update(args=_options(checkpoint, path), task=checkpoint.get("task_state"))
            yield path, checkpoint["model"]

    averaged = mean_of(states())
    return told["args"], averaged, told["task"] if isinstance(told["task"], dict) else {}


def mean_of(states: Iterable[tuple[object, dict]]) -> dict:
    """The mean of the parameters of checkpoints, given one after the other as (file, state dict), in float32. Raises
    ConfigError that names the first that is of another model."""
    total, first, count = {}, None, 0
    for path, state in states:
        problems = misfits(total, state, "the first") if count else []
        if problems:
            raise ConfigError(f"{path}: not the model of {first}: {problems[0]}; average checkpoints of one training")
        first, count = first or path, count + 1
        for name, tensor in state.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return {name: (tensor / count).float() for name, tensor in total.items()}


def _options(checkpoint: dict, where) -> Namespace:
    """The training options, of a checkpoint of before (`args`) or since fairseq 0.10.1 (`cfg`)."""
    options = checkpoint.get("args")
    if options is None:
        cfg = checkpoint.get("cfg")
        options = cfg.get("model") if isinstance(cfg, Mapping) else None
    if isinstance(options, Mapping):
        options = Namespace(**options)
    if not isinstance(options, Namespace):
        raise ConfigError(
            f"{where}: holds no training options ('args', or 'model' in 'cfg'); was it made by fairseq-train?"
        )
    return options


def load_parameters(model, state: dict, where) -> None:
    """Load a state dict; raises ConfigError that names what is missing, unknown or of another shape."""
    try:
        model.load_state_dict(dict(state))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _task_and_model(model_path, **options):
    """The task and the model of a checkpoint; options replace those that it was trained with, where given."""
    args, state, task_state = _read(model_path)
    for name, value in options.items():
        if value:
            setattr(args, name, str(value))
    name = "speech_to_text_chunks" if hasattr(args, "target") else "speech_to_speech_ctc"
    task = TASK_REGISTRY[name].setup_task(args)
    model = task.build_model(args)
    load_parameters(model, state, model_path)
    task.load_state_dict(task_state)
    return task, model


def _dictionary(task, name: str) -> Dictionary:
    return Dictionary(tuple(task.multitask_tasks[name].target_dictionary.symbols))


def _data_yaml(task) -> Path:
    return Path(task.args.data) / task.args.config_yaml


def _gcmvn(task) -> str | None:
    """The file of the features' statistics; None where the encoder's features come normalised."""
    values = task.data_cfg.config.get("global_cmvn")
    if FRONTENDS[task.features].NORMALISED:
        return None
    if not values:
        raise ConfigError(f"{_data_yaml(task)}: global_cmvn.stats_npz_path is missing; it names gcmvn.npz")
    return values["stats_npz_path"]


def _vocoder(task, vocoder, vocoder_cfg, speech: bool):
    if vocoder:
        return load_public_checkpoint(vocoder, vocoder_cfg) if vocoder_cfg else load_vocoder(vocoder)
    named = task.data_cfg.config.get("vocoder")
    if not speech or not isinstance(named, dict):
        return None
    path, fix = _data_yaml(task), "correct the path, or give --vocoder and --vocoder-cfg"
    return load_public_checkpoint(
        *(resolve(named.get(key), path, f"vocoder.{key}", fix) for key in ("checkpoint", "config"))
    )


def _beside(dictionary: Path) -> Path | None:
    """The SentencePiece model that lies beside its dictionary, where there is one."""
    path = dictionary.with_suffix(".model")
    return path if path.is_file() else None
