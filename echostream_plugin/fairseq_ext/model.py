"""The registered fairseq models `echostream` and `streamspeech`, and their architectures."""

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq.models.speech_to_speech.s2s_transformer import S2STransformerMultitaskModelBase

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.flags import add_model_flags, apply_architecture, config_from_args, fill_defaults
from echostream_plugin.fairseq_ext.transfer import add_warm_start_flag, start_warm
from echostream_plugin.model import S2STModel, padding_mask

TASKS = ("source_unigram", "ctc_target_unigram", "target_unigram")  # names of the multitask yaml, as in StreamSpeech


@register_model("echostream")
class EchoStreamModel(S2STModel, S2STransformerMultitaskModelBase):
    """`S2STModel` under fairseq's roof: built from the command line, saved in fairseq's checkpoints."""

    encoder_kind = "emformer"
    defaults: dict = {}  # of flags, where they are not those of config.py
    mt_task_name = "target_unigram"
    multitask_decoders = {}  # the heads are submodules, so train() and eval() reach them without the task's help

    def __init__(self, config, max_positions=(6000, 1024)):
        super().__init__(config)
        self._is_generation_fast = False  # what fairseq's base class keeps
        self._max_positions = max_positions

    @classmethod
    def add_args(cls, parser):
        add_model_flags(parser, cls.encoder_kind)
        if cls.encoder_kind == "emformer":
            add_warm_start_flag(parser)

    @classmethod
    def build_model(cls, args, task):
        missing = [name for name in TASKS if name not in task.multitask_tasks]
        if missing:
            raise ConfigError(
                f"--multitask-config-yaml {args.multitask_config_yaml}: no task named {', '.join(missing)}; "
                f"the model needs {', '.join(TASKS)}"
            )
        fill_defaults(args, cls.encoder_kind, **cls.defaults)
        dictionaries = {name: task.multitask_tasks[name].target_dictionary for name in TASKS}
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

    def load_state_dict(self, state_dict, strict=True, model_cfg=None, args=None):
        """Called by fairseq too; raises ConfigError that names what is missing, unknown or of another shape."""
        self.upgrade_state_dict(state_dict)
        problems = _misfits(self.state_dict(), state_dict) if strict else []
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


def _misfits(wanted: dict, given: dict) -> list[str]:
    """How two state dicts differ, in words."""
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unknown {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {list(given[name].shape)}, the options give {list(wanted[name].shape)}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    return problems


@register_model("streamspeech")
class StreamSpeechModel(EchoStreamModel):
    """StreamSpeech (arXiv 2406.03049): the same model with its chunk-based Conformer. Its checkpoints load, and what is
    saved here has exactly its names and shapes."""

    encoder_kind = "chunk_conformer"
    defaults = {
        "uni_encoder": False,
        "unit_time_positions": False,
        "unit_batch_positions": True,
        "unit_offset_embedding": False,
    }

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


@register_model_architecture("streamspeech", "streamspeech")
def streamspeech(args):
    """StreamSpeech's recipe: a chunk-based Conformer of 12 layers of 256, 4-layer MT, 512-wide decoders."""
    apply_architecture(args, StreamSpeechModel.encoder_kind, **StreamSpeechModel.defaults)


@register_model_architecture("echostream", "echostream")
def echostream(args):
    """StreamSpeech's recipe with an Emformer encoder: 16 layers of 256, 4-layer MT, 512-wide decoders."""
    apply_architecture(args)


@register_model_architecture("echostream", "echostream_base")
def echostream_base(args):
    """All parts 256 wide, ST CTC with two causal layers, six unit decoder layers.

    25 unit frames a target subword, as in StreamSpeech, fit CVSS-C whatever its units are: its English has some 17
    characters a second and a subword of 6000 some 5, so that even 50 units a second, none dropped as repeats, are 15
    a subword, and in 98 of 100 sentences fewer than 1.3 times the mean (what the quickstart's English shows)."""
    apply_architecture(
        args,
        decoder_embed_dim=256,
        decoder_attention_heads=4,
        decoder_ffn_embed_dim=1024,
        decoder_layers=6,
        st_ctc_layers=2,
    )


@register_model_architecture("echostream", "echostream_tiny")
def echostream_tiny(args):
    """The quickstart's model: small enough to be trained on two CPU cores. Of its 10 unit frames a target subword 4.8
    are needed in the mean, 6.3 in 98 of 100 sentences and 6.7 at most (its corpus with 600 training utterances)."""
    apply_architecture(
        args,
        encoder_layers=6,
        encoder_embed_dim=192,
        encoder_ffn_embed_dim=768,
        subsampling_channels=32,
        memory_size=4,
        left_context_frames=24,
        translation_decoder_layers=2,
        synthesizer_encoder_layers=1,
        decoder_layers=2,
        decoder_embed_dim=192,
        decoder_attention_heads=4,
        decoder_ffn_embed_dim=768,
        ctc_upsample_rate=10,
    )
