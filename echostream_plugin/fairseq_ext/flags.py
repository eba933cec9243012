"""Flags of `fairseq-train` for the model: StreamSpeech's names where it has one, help and types from `config.py`."""

import argparse
import dataclasses
import logging

import torch

from echostream_plugin.config import ConfigError, CTCHeadConfig, ModelConfig, UnitDecoderConfig
from echostream_plugin.decoders import DECODERS
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMModelConfig
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.launch import join_torchrun
from echostream_plugin.inference.arguments import reading, words

logger = logging.getLogger(__name__)

# flag -> the options it sets; those that an encoder or an MT decoder does not have are left out for it, and a flag
# without any is not declared. Dimensions that must agree are set by one flag. Options of an encoder that stand here
# under no name of StreamSpeech are flags under their own, those of an MT decoder with `mt_` before it, those of a
# decoder that writes in chunks with `llm_`.
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
    "mt_decoder": ("mt.kind",),
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

# of a model that writes in chunks, what is set by flags above
_LLM = {"encoder_embed_dim": ("llm.encoder_dim",), "dropout": ("llm.dropout",)}

# said by --arch, the data yaml, the multitask yaml and the task
_NO_FLAGS = {
    "encoder": ("kind", "input_dim"),
    "mt": ("kind", "vocab", "source_vocab", "ffn_dim"),
    "llm": ("vocab", "target"),
}
_PREFIXES = {"encoder": "", "mt": "mt_", "llm": "llm_"}  # of flags that are options of only one part
TRANSFORMER = "transformer"  # the MT decoder where none is named
IN_CHUNKS = SpeechLLMModelConfig.kind  # in place of an MT decoder: the model writes in chunks and has none

# StreamSpeech's flags that choose among variants of which only one exists here; accepted so that its scripts run.
_ACCEPTED = {
    "share_decoder_input_output_embed": (True, "input and output embeddings are always shared"),
    "attn_type": (str, "attention of the Conformer, 'espnet'; the Emformer has its own"),
    "pos_enc_type": (str, "position of the Conformer, 'rel_pos'; the Emformer's is --rotary"),
    "conv_version": (str, "subsampling of the Conformer, 's2t_transformer'"),
    "conv_kernel_sizes": (str, "kernels of the Conformer's subsampling, '5,5'"),
    "synthesizer": (str, "only 'transformer'"),
}


def add_model_flags(parser, kind: str = "emformer", in_chunks: bool = False) -> None:
    """Declare every model flag of an encoder kind; one that is not given is absent from the namespace, and the
    architecture fills it in. in_chunks: of models that write in chunks."""
    kinds = (IN_CHUNKS,) if in_chunks else reversed(DECODERS)
    flags = {flag: (options[0], mt) for mt in kinds for flag, options in model_flags(kind, mt).items()}
    for flag, (first, mt) in flags.items():
        field = _field(kind, mt, first)
        names = ["--" + flag.replace("_", "-")]
        if flag == "activation_dropout":
            names.append("--relu-dropout")
        keywords = {"dest": flag, "help": field.metadata["help"], "default": argparse.SUPPRESS}
        parser.add_argument(*names, **keywords, **_reading(field.default))
    for flag, (accepted, help_text) in _ACCEPTED.items():
        keywords = {"action": "store_true"} if accepted is True else {"type": accepted}
        parser.add_argument("--" + flag.replace("_", "-"), help=f"accepted: {help_text}", **keywords)


def fill_defaults(args, kind: str = "emformer", in_chunks: bool = False, **defaults) -> None:
    """Give every model flag that the user left out its value of the architecture, else of the configuration."""
    mt = getattr(args, "mt_decoder", None) or defaults.get("mt_decoder", TRANSFORMER)
    mt = IN_CHUNKS if in_chunks else mt
    for flag, options in model_flags(kind, mt).items():
        if getattr(args, flag, None) is None:
            default = mt if flag == "mt_decoder" else _field(kind, mt, options[0]).default
            setattr(args, flag, defaults.get(flag, default))


def apply_architecture(args, kind: str = "emformer", in_chunks: bool = False, **defaults) -> None:
    """What a registered architecture does with the command line, which it sees whole: fill in its values, join
    torchrun's other processes, and train in float32 where there is no GPU: fairseq's half precision asks for one."""
    fill_defaults(args, kind, in_chunks, **defaults)
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
    values = _values(args, source_vocab, target_vocab, kind, args.mt_decoder)
    values["mt"]["vocab"] = target_vocab
    values["unit"]["vocab"] = unit_vocab
    if _exists(kind, args.mt_decoder, "mt.source_vocab"):
        values["mt"]["source_vocab"] = source_vocab
    if _exists(kind, args.mt_decoder, "mt.ffn_dim"):
        values["mt"]["ffn_dim"] = mt_ffn_dim
    return ModelConfig.from_dict(values)


def speechllm_config(args, source_vocab: int, target_vocab: int, kind: str = "emformer") -> SpeechLLMModelConfig:
    """The configuration of a model that writes `args.target` in chunks; raises as `config_from_args`."""
    values = _values(args, source_vocab, target_vocab, kind, IN_CHUNKS)
    values["llm"]["target"] = args.target
    values["llm"]["vocab"] = source_vocab if args.target == "source_text" else target_vocab
    return SpeechLLMModelConfig.from_dict(values)


def _values(args, source_vocab: int, target_vocab: int, kind: str, mt: str) -> dict[str, dict]:
    """Options by part, as a command line and the text dictionaries say them."""
    encoder = ENCODERS[kind]
    encoder.check_flags(args)
    values = {part: {} for part in _parts(kind, mt)}
    for flag, options in model_flags(kind, mt).items():
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
    for flag, options in model_flags(config.encoder.kind, IN_CHUNKS if config.in_chunks else config.mt.kind).items():
        found = {option: getattr(getattr(config, option.split(".")[0]), option.split(".")[1]) for option in options}
        if len(set(found.values())) > 1:
            differing = ", ".join(f"{option} {value}" for option, value in found.items())
            raise ConfigError(f"--{flag.replace('_', '-')} sets options that differ here: {differing}")
        values[flag] = found[options[0]]
    return values


def encoder_words(config: ModelConfig | SpeechLLMModelConfig) -> list[str]:
    """The words of a command line of `speechllm_xl` that give the encoder of a configuration."""
    flags = {}
    for flag, options in model_flags(config.encoder.kind, IN_CHUNKS).items():
        part, name = options[0].split(".")
        if part == "encoder" and "dropout" not in flag:
            flags[flag] = getattr(config.encoder, name)
    return words(flags)


def _reading(default) -> dict:
    """How argparse reads an option of this default."""
    how = reading(type(default), default)
    return how if isinstance(default, bool | tuple) else {**how, "metavar": "N" if type(default) is int else "VALUE"}


def model_flags(kind: str, mt: str) -> dict[str, tuple]:
    """FLAGS with the options that exist for a kind of encoder and of MT decoder, and those that only these have."""
    parts = _parts(kind, mt)
    declared = {flag: (*options, *_LLM.get(flag, ())) for flag, options in FLAGS.items()} if "llm" in parts else FLAGS
    known = {flag: tuple(name for name in options if _exists(kind, mt, name)) for flag, options in declared.items()}
    known = {flag: options for flag, options in known.items() if options}
    named = {option for options in known.values() for option in options}
    for part, prefix in _PREFIXES.items():
        fields = dataclasses.fields(parts[part]) if part in parts else ()
        names = (field.name for field in fields if field.name not in _NO_FLAGS[part])
        known |= {f"{prefix}{name}": (f"{part}.{name}",) for name in names if f"{part}.{name}" not in named}
    return known


def _exists(kind: str, mt: str, option: str) -> bool:
    (part, name), parts = option.split("."), _parts(kind, mt)
    return part in parts and name in {field.name for field in dataclasses.fields(parts[part])}


def _field(kind: str, mt: str, option: str) -> dataclasses.Field:
    part, name = option.split(".")
    return {field.name: field for field in dataclasses.fields(_parts(kind, mt)[part])}[name]


def _parts(kind: str, mt: str) -> dict:
    """The configuration classes of a model by part, with these kinds of encoder and MT decoder, or IN_CHUNKS."""
    parts = {"encoder": ENCODERS[kind].Config, "asr": CTCHeadConfig, "st": CTCHeadConfig}
    if mt == IN_CHUNKS:
        return {**parts, "llm": SpeechLLMConfig}
    if mt not in DECODERS:
        raise ConfigError(f"--mt-decoder {mt}: use one of {', '.join(DECODERS)}")
    return {**parts, "mt": DECODERS[mt].Config, "unit": UnitDecoderConfig}
