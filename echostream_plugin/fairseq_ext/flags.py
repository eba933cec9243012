"""Flags of `fairseq-train` for the model: StreamSpeech's names where it has one, help and types from `config.py`."""

import argparse
import dataclasses
import logging

import torch

from echostream_plugin.config import ConfigError, CTCHeadConfig, ModelConfig, TextDecoderConfig, UnitDecoderConfig
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMModelConfig
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.launch import join_torchrun

logger = logging.getLogger(__name__)

# the parts of a whole model besides its encoder, by the kind of model
_PARTS = {
    ModelConfig.kind: {"asr": CTCHeadConfig, "st": CTCHeadConfig, "mt": TextDecoderConfig, "unit": UnitDecoderConfig},
    SpeechLLMModelConfig.kind: {"asr": CTCHeadConfig, "st": CTCHeadConfig, "llm": SpeechLLMConfig},
}

# flag -> the options it sets; those that an encoder does not have are left out for it, and a flag without any is not
# declared. Dimensions that must agree are set by one flag. Options of an encoder that stand here under no name of
# StreamSpeech are flags under their own.
FLAGS = {
    "encoder_layers": ("encoder.layers",),
    "encoder_embed_dim": ("encoder.dim", "asr.dim", "st.dim", "mt.encoder_dim"),
    "encoder_ffn_embed_dim": ("encoder.ffn_dim",),
    "encoder_attention_heads": ("encoder.heads",),
    "chunk_size": ("encoder.segment_frames",),
    "encoder_conv_kernel": ("encoder.conv_kernel",),
    "depthwise_conv_kernel_size": ("encoder.depthwise_kernel",),
    "asr_ctc_layers": ("asr.layers",),
    "st_ctc_layers": ("st.layers",),
    "translation_decoder_layers": ("mt.layers",),
    "translation_window_tokens": ("mt.window_tokens",),
    "decoder_embed_dim": ("mt.dim", "unit.dim"),
    "decoder_attention_heads": ("mt.heads", "unit.heads"),
    "decoder_ffn_embed_dim": ("unit.ffn_dim",),
    "synthesizer_encoder_layers": ("unit.encoder_layers",),
    "decoder_layers": ("unit.layers",),
    "ctc_upsample_rate": ("unit.upsample",),
    "unit_window_tokens": ("unit.window_tokens",),
    "uni_encoder": ("unit.causal_encoder",),
    "unit_time_positions": ("unit.time_positions",),
    "unit_batch_positions": ("unit.batch_positions",),
    "unit_offset_embedding": ("unit.offset_embedding",),
    "dropout": ("encoder.dropout", "asr.dropout", "st.dropout", "mt.dropout", "unit.dropout"),
    "attention_dropout": ("encoder.attention_dropout", "mt.attention_dropout", "unit.attention_dropout"),
    "activation_dropout": ("encoder.activation_dropout", "mt.activation_dropout", "unit.activation_dropout"),
}

_NO_FLAGS = ("kind", "input_dim")  # said by --arch and the data yaml

# of models that write in chunks: what is set with another flag or said by dictionary and task, and what has its own
_LLM_SHARED = {"encoder_embed_dim": ("llm.encoder_dim",), "dropout": ("llm.dropout",)}
_LLM_NO_FLAGS = ("vocab", "target", "encoder_dim", "dropout")
_LLM_FLAGS = {
    f"llm_{field.name}": (f"llm.{field.name}",)
    for field in dataclasses.fields(SpeechLLMConfig)
    if field.name not in _LLM_NO_FLAGS
}

# StreamSpeech's flags that choose among variants of which only one exists here; accepted so that its scripts run.
_ACCEPTED = {
    "share_decoder_input_output_embed": (True, "input and output embeddings are always shared"),
    "attn_type": (str, "attention of the Conformer, 'espnet'; the Emformer has its own"),
    "pos_enc_type": (str, "position of the Conformer, 'rel_pos'; the Emformer's is --rotary"),
    "conv_version": (str, "subsampling of the Conformer, 's2t_transformer'"),
    "conv_kernel_sizes": (str, "kernels of the Conformer's subsampling, '5,5'"),
    "synthesizer": (str, "only 'transformer'"),
}


def add_model_flags(parser, kind: str = "emformer", model: str = ModelConfig.kind) -> None:
    """Declare every flag of a kind of model with an encoder kind; one that is not given is absent from the namespace,
    and the architecture fills it in."""
    for flag, options in _flags(kind, model).items():
        field = _field(kind, options[0], model)
        names = ["--" + flag.replace("_", "-")]
        if flag == "activation_dropout":
            names.append("--relu-dropout")
        keywords = {"dest": flag, "help": field.metadata["help"], "default": argparse.SUPPRESS}
        parser.add_argument(*names, **keywords, **_reading(field.default))
    for flag, (accepted, help_text) in _ACCEPTED.items():
        keywords = {"action": "store_true"} if accepted is True else {"type": accepted}
        parser.add_argument("--" + flag.replace("_", "-"), help=f"accepted: {help_text}", **keywords)


def fill_defaults(args, kind: str = "emformer", model: str = ModelConfig.kind, **defaults) -> None:
    """Give every model flag that the user left out its value of the architecture, else of the configuration."""
    for flag, options in _flags(kind, model).items():
        if getattr(args, flag, None) is None:
            setattr(args, flag, defaults.get(flag, _field(kind, options[0], model).default))


def apply_architecture(args, kind: str = "emformer", model: str = ModelConfig.kind, **defaults) -> None:
    """What a registered architecture does with the command line, which it sees whole: fill in its values, join
    torchrun's other processes, and train in float32 where there is no GPU: fairseq's half precision asks for one."""
    fill_defaults(args, kind, model, **defaults)
    join_torchrun(args)
    asked = [flag for flag in ("fp16", "memory_efficient_fp16", "amp") if getattr(args, flag, False)]
    if asked and (getattr(args, "cpu", False) or not torch.cuda.is_available()):
        logger.warning(
            f"--{asked[0].replace('_', '-')}: half precision needs a GPU and none is used; training in float32"
        )
        for flag in asked:
            setattr(args, flag, False)


def config_from_args(
    args, source_vocab: int, target_vocab: int, unit_vocab: int, mt_ffn_dim: int, kind: str = "emformer"
) -> ModelConfig:
    """The model's configuration; raises ConfigError on values that do not fit together."""
    values = _values(args, source_vocab, target_vocab, kind, ModelConfig.kind)
    values["mt"]["vocab"] = target_vocab
    values["unit"]["vocab"] = unit_vocab
    values["mt"]["ffn_dim"] = mt_ffn_dim
    return ModelConfig.from_dict(values)


def speechllm_config(args, source_vocab: int, target_vocab: int, kind: str = "emformer") -> SpeechLLMModelConfig:
    """The configuration of a model that writes `args.target` in chunks; raises as `config_from_args`."""
    values = _values(args, source_vocab, target_vocab, kind, SpeechLLMModelConfig.kind)
    values["llm"]["target"] = args.target
    values["llm"]["vocab"] = source_vocab if args.target == "source_text" else target_vocab
    return SpeechLLMModelConfig.from_dict(values)


def _values(args, source_vocab: int, target_vocab: int, kind: str, model: str) -> dict[str, dict]:
    """Options by part, as a command line and the dictionaries say them."""
    encoder = ENCODERS[kind]
    encoder.check_flags(args)
    values = {part: {} for part in ("encoder", *_PARTS[model])}
    for flag, options in _flags(kind, model).items():
        for option in options:
            part, name = option.split(".")
            values[part][name] = getattr(args, flag)
    values["encoder"]["segment_frames"] = encoder.segment_of_chunk(args.chunk_size)
    values["encoder"]["kind"] = kind
    values["encoder"]["input_dim"] = getattr(args, "input_feat_per_channel", 80)
    values["asr"]["vocab"], values["st"]["vocab"] = source_vocab, target_vocab
    return values


def flags_of_config(config: ModelConfig | SpeechLLMModelConfig) -> dict:
    """The model flags that give a configuration: what `config_from_args` reads. Raises ConfigError where one flag sets
    options that differ in it."""
    values = {}
    for flag, options in _flags(config.encoder.kind, config.kind).items():
        found = {option: getattr(getattr(config, option.split(".")[0]), option.split(".")[1]) for option in options}
        if len(set(found.values())) > 1:
            differing = ", ".join(f"{option} {value}" for option, value in found.items())
            raise ConfigError(f"--{flag.replace('_', '-')} sets options that differ here: {differing}")
        values[flag] = found[options[0]]
    return values


def encoder_words(config: ModelConfig | SpeechLLMModelConfig) -> list[str]:
    """The words of a command line of `speechllm_xl` that give the encoder of a configuration."""
    kind, words = config.encoder.kind, []
    for flag, options in _flags(kind, SpeechLLMModelConfig.kind).items():
        part, name = options[0].split(".")
        if part == "encoder" and "dropout" not in flag:
            value, named = getattr(config.encoder, name), flag.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{named}" if value else f"--no-{named}")
            else:
                words += [f"--{named}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def _reading(default) -> dict:
    """How argparse reads an option of this default; a tuple is written with commas."""
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(default, tuple):
        return {"type": lambda text: tuple(type(default[0])(item) for item in text.split(",")), "metavar": "A,B,.."}
    return {"type": type(default), "metavar": "N" if isinstance(default, int) else "VALUE"}


def _flags(kind: str, model: str = ModelConfig.kind) -> dict[str, tuple]:
    """FLAGS with the options that exist for a kind of model with an encoder kind, and those that only these have."""
    declared = FLAGS
    if model == SpeechLLMModelConfig.kind:
        declared = {flag: (*options, *_LLM_SHARED.get(flag, ())) for flag, options in FLAGS.items()} | _LLM_FLAGS
    known = {flag: tuple(each for each in options if _exists(kind, each, model)) for flag, options in declared.items()}
    known = {flag: options for flag, options in known.items() if options}
    named = {option for options in known.values() for option in options}
    names = (field.name for field in dataclasses.fields(ENCODERS[kind].Config) if field.name not in _NO_FLAGS)
    own = {name: (f"encoder.{name}",) for name in names if f"encoder.{name}" not in named}
    return {**known, **own}


def _exists(kind: str, option: str, model: str) -> bool:
    part, name = option.split(".")
    known = part == "encoder" or part in _PARTS[model]
    return known and name in {field.name for field in dataclasses.fields(_part(kind, part, model))}


def _field(kind: str, option: str, model: str = ModelConfig.kind) -> dataclasses.Field:
    part, name = option.split(".")
    return {field.name: field for field in dataclasses.fields(_part(kind, part, model))}[name]


def _part(kind: str, part: str, model: str):
    return ENCODERS[kind].Config if part == "encoder" else _PARTS[model][part]
