"""The registered fairseq models, one for each encoder (`echostream`, `streamspeech`, ...), and their architectures."""

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.speech_to_speech.s2s_transformer import S2STransformerMultitaskModelBase

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.flags import add_model_flags, apply_architecture, config_from_args, fill_defaults
from echostream_plugin.fairseq_ext.transfer import add_first_values_flags, start_warm
from echostream_plugin.model import S2STModel, padding_mask
from echostream_plugin.modules.weights import misfits

TASKS = ("source_unigram", "ctc_target_unigram", "target_unigram")  # names of the multitask yaml, as in StreamSpeech


class FairseqSide(S2STransformerMultitaskModelBase):
    """What fairseq asks of a model beyond the network, which the class before this one in the order of bases is."""

    encoder_kind = "emformer"
    defaults: dict = {}  # of flags, where they are not those of the configuration
    mt_task_name = "target_unigram"
    multitask_decoders = {}  # the heads are submodules, so train() and eval() reach them without the task's help
    num_updates = 0  # of the training so far

    def set_num_updates(self, num_updates):
        """Called before every training step."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """Called by fairseq too; raises ConfigError that names what is missing, unknown or of another shape."""
        self.upgrade_state_dict(state_dict)
        problems = misfits(self.state_dict(), state_dict) if strict else []
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise ConfigError(
                f"the checkpoint does not fit its options and dictionaries: {'; '.join(problems[:4])}{more}. "
                "Was it trained with these dictionaries?"
            )
        return super().load_state_dict(state_dict, strict, model_cfg, args)

    def forward_encoder(self, src_tokens, src_lengths, speaker=None, **_):
        """The encoder's output as fairseq's models give it: a dict of lists, frames first.

        src_tokens: [B, T, 80] mel frames of 10 ms; src_lengths: [B]; there is no speaker. `encoder_out` [[S, B, C]],
        `encoder_padding_mask` [[B, S]], or [] where nothing is padded."""
        frames, lengths = self.encoder(src_tokens, src_lengths)
        padding = padding_mask(lengths, frames.size(1))
        return {
            "encoder_out": [frames.transpose(0, 1)],
            "encoder_padding_mask": [padding] if padding.any() else [],
            "encoder_embedding": [],
            "encoder_states": [],
            "src_tokens": [],
            "src_lengths": [],
        }

    def max_positions(self):
        """(mel frames of 10 ms, units) that a sample may have."""
        return self._max_positions

    def max_decoder_positions(self):
        return self._max_positions[1]


def target_dictionaries(args, task, names) -> dict:
    """The dictionaries of these multitask tasks by name. Raises ConfigError that names those that are missing."""
    missing = [name for name in names if name not in task.multitask_tasks]
    if missing:
        raise ConfigError(
            f"--multitask-config-yaml {args.multitask_config_yaml}: no task named {', '.join(missing)}; "
            f"the model needs {', '.join(names)}"
        )
    return {name: task.multitask_tasks[name].target_dictionary for name in names}


@register_model("echostream")
class EchoStreamModel(S2STModel, FairseqSide):
    """`S2STModel` under fairseq's roof: built from the command line, saved in fairseq's checkpoints."""

    def __init__(self, config, max_positions=(6000, 1024)):
        super().__init__(config)
        self._is_generation_fast = False  # what fairseq's base class keeps
        self._max_positions = max_positions

    @classmethod
    def add_args(cls, parser):
        add_model_flags(parser, cls.encoder_kind)
        add_first_values_flags(parser, ENCODERS[cls.encoder_kind])

    @classmethod
    def build_model(cls, args, task):
        dictionaries = target_dictionaries(args, task, TASKS)
        fill_defaults(args, cls.encoder_kind, **cls.defaults)
        if len(dictionaries["target_unigram"]) != len(dictionaries["ctc_target_unigram"]):
            raise ConfigError("target_unigram and ctc_target_unigram must use the same dictionary")
        decoder_args = task.multitask_tasks["target_unigram"].args.decoder_args
        config = config_from_args(
            args,
            source_vocab=len(dictionaries["source_unigram"]),
            target_vocab=len(dictionaries["target_unigram"]),
            unit_vocab=len(task.target_dictionary),
            mt_ffn_dim=getattr(decoder_args, "decoder_ffn_embed_dim", 2048),
            kind=cls.encoder_kind,
        )
        model = cls(config, task.max_positions())
        start_warm(model, args, dictionaries)
        return model


@register_model("streamspeech")
class StreamSpeechModel(EchoStreamModel):
    """StreamSpeech (arXiv 2406.03049): the same model with its chunk-based Conformer. Its checkpoints load, and what is
    saved here has exactly its names and shapes."""

    encoder_kind = "chunk_conformer"
    defaults = ENCODERS["chunk_conformer"].architectures["streamspeech"]

    def __init__(self, config, max_positions=(6000, 1024)):
        super().__init__(config, max_positions)
        for decoder in (self.decoder, self.target_unigram_decoder):
            decoder.register_buffer("version", torch.tensor([3.0]))  # fairseq's mark of a decoder's age

    def upgrade_state_dict_named(self, state_dict, name):
        """Called by `load_state_dict`: drop the marks that fairseq once saved with sinusoidal positions, and add that
        of the decoders' age where a file has none."""
        for key in [key for key in state_dict if key.rsplit(".", 1)[-1] == "_float_tensor"]:
            del state_dict[key]
        for decoder in ("decoder", "target_unigram_decoder"):
            state_dict.setdefault(f"{decoder}.version", torch.tensor([3.0]))


def model_of(encoder) -> type[EchoStreamModel]:
    """The registered model with this encoder; made here where there is none yet."""
    made = {cls.encoder_kind: cls for cls in (EchoStreamModel, StreamSpeechModel)}
    if encoder.Config.kind in made:
        return made[encoder.Config.kind]
    name, flags = next(iter(encoder.architectures.items()))
    facts = {"encoder_kind": encoder.Config.kind, "defaults": flags}
    return register_model(name)(type(f"{encoder.__name__}Model", (EchoStreamModel,), facts))


def _register_architectures(encoder) -> None:
    model, name = model_of(encoder), next(iter(encoder.architectures))
    for architecture, flags in encoder.architectures.items():

        def apply(args, flags=flags):
            apply_architecture(args, model.encoder_kind, **flags)

        register_model_architecture(name, architecture)(apply)


for _encoder in ENCODERS.values():
    _register_architectures(_encoder)
