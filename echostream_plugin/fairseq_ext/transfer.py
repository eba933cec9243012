"""Training that starts from a StreamSpeech checkpoint: its decoders as first values, its encoder as a teacher.

`--load-streamspeech-decoders CKPT` copies the decoders and the CTC heads once, before the first update,
`--load-mt-decoder FILE` the MT decoder alone, and an encoder's own flag (`--load-whisper-encoder`) the encoder.
`--distill-from CKPT` keeps the checkpoint's encoder beside the training and pulls the student's outputs to its.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from echostream_plugin.config import ConfigError, ModelConfig
from echostream_plugin.data.whisper_weights import load_whisper_encoder
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.bundle_values import load_bundle_encoder
from echostream_plugin.fairseq_ext.checkpoints import checkpoint_config
from echostream_plugin.fairseq_ext.flags import TRANSFORMER, model_flags
from echostream_plugin.fairseq_ext.loading import read_checkpoint
from echostream_plugin.fairseq_ext.mt_values import load_decoder
from echostream_plugin.fairseq_ext.task import read_multitask_config
from echostream_plugin.inference.arguments import words
from echostream_plugin.model import S2STModel, padding_mask
from echostream_plugin.modules.weights import misfits, there_and_here

logger = logging.getLogger(__name__)

WARM_PARTS = {
    "source_unigram_decoder": "ASR CTC head",
    "ctc_target_unigram_decoder": "ST CTC head",
    "target_unigram_decoder": "MT decoder",
    "synthesizer_encoder": "T2U encoder",
    "decoder": "unit decoder",
}
# parameters that one side may have and the other not: what EchoStream adds, and fairseq's marks
_CTC_LAYERS = tuple(f"{head}_decoder.layer" for head in ("source_unigram", "ctc_target_unigram"))
_OPTIONAL = ("decoder.embed_offsets.", *_CTC_LAYERS)
_MARKS = ("version", "_float_tensor")
_TEXTS = ("source_unigram", "target_unigram")  # the tasks whose dictionaries an MT decoder reads and writes
_ENCODERS = {"load_whisper_encoder": load_whisper_encoder}  # flags whose files `data` reads; others an encoder's class
_LAST = "checkpoint_last.pt"  # fairseq's default of --restore-file, looked for in --save-dir


def add_first_values_flags(parser, encoder, decoders: bool = True) -> None:
    """Declare `--load-streamspeech-decoders` and what an encoder's class has instead of random first values. decoders:
    the model has those of a speech-to-speech model; else it may take a bundle's encoder."""
    if not decoders:
        parser.add_argument(
            "--load-bundle-encoder",
            metavar="BUNDLE",
            help="first values of the encoder from a bundle, and of the CTC heads whose dictionary is the bundle's; "
            "not read again when the training resumes or its checkpoints are used",
        )
    if encoder.warm_start and decoders:
        parser.add_argument(
            "--load-streamspeech-decoders",
            metavar="CKPT",
            help="first values of decoders and CTC heads from a StreamSpeech (or EchoStream) checkpoint; not read "
            "again when the training resumes or its checkpoints are used",
        )
    if decoders:
        parser.add_argument(
            "--load-mt-decoder",
            metavar="FILE",
            help="first values of the MT decoder, of scripts/pretrain_mt.py, which trains it to translate text; not "
            "read again when the training resumes or its checkpoints are used",
        )
    parser.add_argument(
        "--encoder-lr-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="what an encoder's first values hold learns X times as fast as the rest, which is new; 0: not at all",
    )
    if encoder.weights_flag:
        flag, help_text = encoder.weights_flag
        parser.add_argument(_as_flag(flag), metavar="PATH", help=help_text)
        parser.add_argument(
            "--freeze-encoder-layers",
            type=int,
            default=0,
            metavar="N",
            help="the encoder's front end and its first N layers keep their first values: what they learnt of voices "
            "stays, and an update is quicker; 0: all learn",
        )


def start_warm(model: S2STModel, args, dictionaries: dict) -> None:
    """Called when a model is built: apply the flags of first values that were given, if this training is new, and hold
    still what is to keep them.

    Afterwards the flags are empty and `warm_started_from` says what was used, and so it stands in the checkpoints: a
    model that is loaded never looks for the files. dictionaries: fairseq's, by task."""
    loaders = {
        "load_streamspeech_decoders": lambda path: load_decoders(model, path, dictionaries),
        "load_bundle_encoder": lambda path: load_bundle_encoder(model, path, dictionaries),
        "load_mt_decoder": lambda path: [
            load_decoder(model.target_unigram_decoder, path, tuple(dictionaries[name].symbols for name in _TEXTS))
        ],
    }
    if model.encoder.weights_flag:
        flag = model.encoder.weights_flag[0]
        loaders[flag] = lambda path: [_ENCODERS.get(flag, type(model.encoder).load_weights)(model.encoder, path)]
    used, resumed = [], _restored_file(args)
    for flag, load in loaders.items():
        path = getattr(args, flag, None)
        if not path:
            continue
        setattr(args, flag, None)
        used.append(str(path))
        if resumed:
            logger.info(f"{_as_flag(flag)} {path}: not read, the training goes on from {resumed}")
            continue
        if getattr(args, "finetune_from_model", None):
            raise ConfigError(
                f"--finetune-from-model replaces every parameter that {_as_flag(flag)} sets: give only one"
            )
        for line in load(path):
            logger.info(line)
    if used:
        args.warm_started_from = ", ".join(used)
    if getattr(args, "freeze_encoder_layers", 0):
        for part in model.encoder.lowest(args.freeze_encoder_layers):
            part.requires_grad_(False)


def load_decoders(model: S2STModel, path, dictionaries: dict | None = None) -> list[str]:
    """Copy decoders and CTC heads of a checkpoint into a model; returns lines that say what was taken.

    dictionaries: fairseq's dictionaries of the model by task, compared with the checkpoint's where its options lead to
    them. Raises ConfigError where parameters, attention heads or dictionaries do not match."""
    if not Path(path).is_file():
        raise ConfigError(f"--load-streamspeech-decoders {path}: no such checkpoint; only a new training reads it")
    args, state = read_checkpoint(path)
    source = checkpoint_config(args, state, path)
    if source.in_chunks:
        raise ConfigError(f"--load-streamspeech-decoders {path}: it writes text in chunks, and has no such decoders")
    own = {name: tensor for name, tensor in model.state_dict().items() if _part(name)}
    theirs = {name: tensor for name, tensor in state.items() if _part(name)}
    sides = ({name: tensor for name, tensor in part.items() if not _is_mark(name)} for part in (own, theirs))
    problems = there_and_here(*sides, _OPTIONAL)
    flags = different_flags(source, model.config)
    if "decoder_attention_heads" in flags:  # invisible in the shapes
        problems.append("the decoders' attention heads differ")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(
            f"--load-streamspeech-decoders {path}: {'; '.join(problems[:3])}{more}. {_fix(source, model.config, flags)}"
        )
    compared = _compare_dictionaries(args, dictionaries or {}, path)

    taken = [name for name in own if name in theirs]
    with torch.no_grad():
        for name in taken:
            own[name].copy_(theirs[name])
    lines = [_summary(path, own, theirs, taken, state)]
    if not compared:
        lines.append(f"{path}: its dictionaries are not on this machine; only their sizes were compared")
    return lines + _warnings(source, model.config, flags)


class EncoderTeacher:
    """A frozen encoder in evaluation mode.

    Not a module, so that whoever holds one does not have its parameters: they are in no optimizer, no state dict and
    no checkpoint."""

    def __init__(self, encoder):
        self._encoder = encoder.eval().requires_grad_(False)

    @classmethod
    def read(cls, path, student_dim: int | None = None) -> "EncoderTeacher":
        """The encoder of a checkpoint; student_dim: encoder dimension it must have."""
        if not Path(path).is_file():
            raise ConfigError(
                f"--distill-from {path}: no such checkpoint; fairseq-validate goes without the teacher by "
                "--model-overrides \"{'distill_weight': 0}\""
            )
        args, state = read_checkpoint(path)
        config = checkpoint_config(args, state, path).encoder
        if student_dim not in (None, config.dim):
            raise ConfigError(
                f"--distill-from {path}: the teacher's encoder is {config.dim} wide and the student's {student_dim}; "
                f"train with --encoder-embed-dim {config.dim}"
            )
        with torch.random.fork_rng(devices=[]):  # first values that are replaced at once take none of the seed's draws
            encoder = ENCODERS[config.kind](config)
        wanted = encoder.state_dict()
        given = {name.removeprefix("encoder."): state[name] for name in state if name.startswith("encoder.")}
        given = {name: tensor for name, tensor in given.items() if not _is_mark(name)}
        if problems := misfits(wanted, given, "they give"):
            raise ConfigError(
                f"--distill-from {path}: its encoder does not fit the options saved with it: {'; '.join(problems[:3])}"
                f"{' and more' if len(problems) > 3 else ''}; is it a whole checkpoint of fairseq-train?"
            )
        encoder.load_state_dict(given)
        return cls(encoder)

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor, segment_frames: int) -> Tensor:
        """features: [B, T, 80]; lengths: [B]; segment_frames: encoder frames seen at once, 0 for the whole utterance.

        Returns [B, ceil(T / 4), C] on the features' device and in their precision."""
        self._encoder.to(features.device, features.dtype)
        return self._encoder(features, lengths, segment_frames)[0]


def distill_loss(student: Tensor, teacher: Tensor, lengths: Tensor) -> Tensor:
    """Sum over valid frames of the mean absolute difference and one minus the cosine; zero where they are equal.

    student, teacher: [B, S, C] encoder outputs; lengths: [B] valid frames. The two terms are those of DistilHuBERT
    (arXiv 2110.01900), the cosine without its logarithm: the first asks for the teacher's values, which decoders from
    the same checkpoint read, and the second gives a direction while the student is still far away."""
    valid = ~padding_mask(lengths, student.size(1))
    student, teacher = student[valid].float(), teacher[valid].float()
    return ((student - teacher).abs().mean(-1) + 1 - F.cosine_similarity(student, teacher, dim=-1)).sum()


def different_flags(theirs: ModelConfig, ours: ModelConfig) -> dict[str, tuple]:
    """Flags of heads and decoders by name, where two configurations differ: (their value, our value)."""
    flags = {}
    for flag, options in model_flags(ours.encoder.kind, ours.mt.kind).items():
        for part, name in (option.split(".") for option in options):
            if part == "encoder" or "dropout" in name or not hasattr(getattr(theirs, part), name):
                continue
            values = tuple(getattr(getattr(config, part), name) for config in (theirs, ours))
            if values[0] != values[1]:
                flags[flag] = values
    return flags


def _as_flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _part(name: str) -> str | None:
    """What a parameter belongs to, None if it is not a decoder's."""
    return WARM_PARTS.get(name.split(".", 1)[0])


def _is_mark(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in _MARKS


def _restored_file(args) -> Path | None:
    """The checkpoint that fairseq-train will load into the new model, None if it starts from the beginning."""
    name = getattr(args, "restore_file", None) or _LAST
    path = Path(getattr(args, "save_dir", None) or "checkpoints") / name if name == _LAST else Path(name)
    return path if path.is_file() else None


def _summary(path, own: dict, theirs: dict, taken: list, state: dict) -> str:
    values = sum(tensor.numel() for tensor in {own[name].data_ptr(): own[name] for name in taken}.values())
    parts = list(dict.fromkeys(_part(name) for name in taken))
    kept = [name for name in own if name not in theirs]
    ignored = [name for name in theirs if name not in own]
    encoder = sum(name.startswith("encoder.") for name in state)
    return (
        f"warm start from {path}: taken {values / 1e6:.2f} M values ({', '.join(parts)}); "
        f"not in it, initial values kept: {', '.join(kept) or 'none'}; "
        f"in it, not taken: its encoder ({encoder} tensors){''.join(', ' + name for name in ignored)}"
    )


def _warnings(source: ModelConfig, config: ModelConfig, flags: dict) -> list[str]:
    """Lines on options without parameters that make the taken decoders compute something else than they did."""
    lines = []
    if "unit_time_positions" in flags and config.unit.time_positions:
        offsets = " and offset embeddings" if config.unit.offset_embedding and not source.unit.offset_embedding else ""
        lines.append(
            f"unit decoder: trained without positions in time, gets them{offsets} here: a good start, but its units "
            "are wrong until it is trained (--no-unit-time-positions --no-unit-offset-embedding starts with the very "
            "units of the checkpoint, and stays without positions)"
        )
    for flag in ("uni_encoder", "ctc_upsample_rate"):
        if flag in flags:
            there, here = flags[flag]
            lines.append(f"--{flag.replace('_', '-')}: {there} in the checkpoint and {here} here; the taken values fit")
    return lines


def _fix(source: ModelConfig, config: ModelConfig, flags: dict) -> str:
    """What the user can do about parameters that do not match."""
    fixes = []
    sizes = [
        ("the source dictionary", source.asr.vocab, config.asr.vocab, "use its dictionary"),
        ("the target dictionary", source.mt.vocab, config.mt.vocab, "use its dictionary"),
        ("the unit dictionary", source.unit.vocab, config.unit.vocab, "give its --target-code-size"),
    ]
    fixes += [
        f"{name} has {theirs} symbols there and {ours} here: {fix}"
        for name, theirs, ours, fix in sizes
        if theirs != ours
    ]
    if source.mt.kind == config.mt.kind == TRANSFORMER and source.mt.ffn_dim != config.mt.ffn_dim:
        fixes.append(f"set decoder_ffn_embed_dim of target_unigram to {source.mt.ffn_dim} in the multitask yaml")
    shaping = {
        flag: theirs
        for flag, (theirs, _) in flags.items()
        if flag not in ("unit_time_positions", "unit_batch_positions", "unit_offset_embedding", "uni_encoder")
        and not flag.endswith("_ctc_layers")
    }
    if shaping:
        fixes.append(f"train with {' '.join(words(shaping))}")
    return "Fix: " + "; ".join(fixes or ["is it a whole checkpoint of fairseq-train?"])


def _compare_dictionaries(args, ours: dict, where) -> bool:
    """Raise ConfigError where a dictionary of a checkpoint differs from ours; False if they cannot be found."""
    try:
        config = read_multitask_config(Path(args.data) / args.multitask_config_yaml)
    except (ConfigError, AttributeError, TypeError):
        return False
    theirs = {name: task.tgt_dict for name, task in config.get_all_tasks().items()}
    for name, dictionary in ours.items():
        if name not in theirs:
            continue
        pairs = zip(theirs[name].symbols, dictionary.symbols, strict=False)
        different = next(((i, a, b) for i, (a, b) in enumerate(pairs) if a != b), None)
        if different:
            index, there, here = different
            raise ConfigError(
                f"--load-streamspeech-decoders {where}: the dictionary of {name} differs: symbol {index} is "
                f"'{there}' in {args.data} and '{here}' here. Fix: use the dictionaries that it was trained with"
            )
    return True
