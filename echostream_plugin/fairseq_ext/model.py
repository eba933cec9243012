"""The registered fairseq model `echostream` and its architectures."""

from fairseq.models import register_model, register_model_architecture
from fairseq.models.speech_to_speech.s2s_transformer import S2STransformerMultitaskModelBase

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.flags import add_model_flags, config_from_args, fill_defaults
from echostream_plugin.model import S2STModel

TASKS = ("source_unigram", "ctc_target_unigram", "target_unigram")  # names of the multitask yaml, as in StreamSpeech


@register_model("echostream")
class EchoStreamModel(S2STModel, S2STransformerMultitaskModelBase):
    """`S2STModel` under fairseq's roof: built from the command line, saved in fairseq's checkpoints."""

    mt_task_name = "target_unigram"
    multitask_decoders = {}  # the heads are submodules, so train() and eval() reach them without the task's help

    def __init__(self, config, max_positions=(6000, 1024)):
        super().__init__(config)
        self._is_generation_fast = False  # what fairseq's base class keeps
        self._max_positions = max_positions

    @staticmethod
    def add_args(parser):
        add_model_flags(parser)

    @classmethod
    def build_model(cls, args, task):
        missing = [name for name in TASKS if name not in task.multitask_tasks]
        if missing:
            raise ConfigError(
                f"--multitask-config-yaml {args.multitask_config_yaml}: no task named {', '.join(missing)}; "
                f"the model needs {', '.join(TASKS)}"
            )
        fill_defaults(args)
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
        )
        return cls(config, task.max_positions())

    def max_positions(self):
        """(mel frames of 10 ms, units) that a sample may have."""
        return self._max_positions

    def max_decoder_positions(self):
        return self._max_positions[1]


@register_model_architecture("echostream", "echostream")
def echostream(args):
    """StreamSpeech's recipe with an Emformer encoder: 16 layers of 256, 4-layer MT, 512-wide decoders."""
    fill_defaults(args)


@register_model_architecture("echostream", "echostream_base")
def echostream_base(args):
    """All parts 256 wide, ST CTC with two causal layers, six unit decoder layers, upsampling 5."""
    fill_defaults(
        args,
        decoder_embed_dim=256,
        decoder_attention_heads=4,
        decoder_ffn_embed_dim=1024,
        decoder_layers=6,
        st_ctc_layers=2,
        ctc_upsample_rate=5,
    )


@register_model_architecture("echostream", "echostream_tiny")
def echostream_tiny(args):
    """The quickstart's model: small enough to be trained on two CPU cores."""
    fill_defaults(
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
