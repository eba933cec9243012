"""The registered models that write text in chunks: `speechllm_xl` with an Emformer, and one for every other encoder."""

from fairseq.models import register_model, register_model_architecture

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.flags import add_model_flags, apply_architecture, fill_defaults, speechllm_config
from echostream_plugin.fairseq_ext.model import FairseqSide, target_dictionaries
from echostream_plugin.fairseq_ext.transfer import add_first_values_flags, start_warm
from echostream_plugin.model import SpeechLLMModel

HEADS = {"source_text": "source_unigram", "target_text": "ctc_target_unigram"}  # text -> CTC task of the multitask yaml
# of the quickstart's size: 3.2 M parameters and the embeddings
_TINY = {"llm_layers": 4, "llm_dim": 256, "llm_heads": 4, "llm_ffn_dim": 688}


class SpeechLLMFairseqModel(SpeechLLMModel, FairseqSide):
    """`SpeechLLMModel` under fairseq's roof: built from the command line, saved in fairseq's checkpoints."""

    def __init__(self, config, max_positions=(6000, 1024)):
        super().__init__(config)
        self._is_generation_fast = False  # what fairseq's base class keeps
        self._max_positions = max_positions

    @classmethod
    def add_args(cls, parser):
        add_model_flags(parser, cls.encoder_kind, in_chunks=True)
        add_first_values_flags(parser, ENCODERS[cls.encoder_kind], decoders=False)

    @classmethod
    def build_model(cls, args, task):
        dictionaries = target_dictionaries(args, task, HEADS.values())
        if not hasattr(args, "target"):
            raise ConfigError(f"--arch {args.arch} writes text: train it with --task speech_to_text_chunks")
        fill_defaults(args, cls.encoder_kind, in_chunks=True, **cls.defaults)
        sizes = (len(dictionaries[name]) for name in HEADS.values())
        model = cls(speechllm_config(args, *sizes, cls.encoder_kind), task.max_positions())
        start_warm(model, args, dictionaries)
        return model


def architecture_name(architecture: str) -> str:
    """The architecture with the encoder of another: `echostream_zipformer_small` is `speechllm_xl_zipformer_small`
    here."""
    rest = architecture.removeprefix("echostream").strip("_")
    return f"speechllm_xl_{rest}" if rest else "speechllm_xl"


def architecture_of(kind: str) -> str:
    """The first architecture with an encoder of this kind."""
    return architecture_name(next(iter(ENCODERS[kind].architectures)))


def encoder_of_architecture(architecture: str | None):
    """The encoder of one of the architectures here; an Emformer where nothing is known."""
    for encoder in ENCODERS.values():
        if architecture in map(architecture_name, encoder.architectures):
            return encoder
    return ENCODERS["emformer"]


def _register(encoder) -> None:
    flags = {
        architecture_name(name): {**own, **(_TINY if name.endswith("tiny") else {})}
        for name, own in encoder.architectures.items()
    }
    first = next(iter(flags))
    facts = {"encoder_kind": encoder.Config.kind, "defaults": flags[first]}
    register_model(first)(type(f"{encoder.__name__}SpeechLLM", (SpeechLLMFairseqModel,), facts))
    for name, defaults in flags.items():

        def apply(args, defaults=defaults):
            apply_architecture(args, encoder.Config.kind, in_chunks=True, **defaults)

        register_model_architecture(first, name)(apply)


for _encoder in ENCODERS.values():
    _register(_encoder)
