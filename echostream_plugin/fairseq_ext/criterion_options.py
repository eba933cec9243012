"""The flags of the criterion, as fairseq reads them."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.criterions.label_smoothed_cross_entropy_with_rdrop import (
    RdropLabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.dataclass import ChoiceEnum


@dataclass
class TwoPassCTCConfig(RdropLabelSmoothedCrossEntropyCriterionConfig):
    """Options of `criterion.TwoPassCTCCriterion`, with those of its base that StreamSpeech's scripts give."""

    label_smoothing: Optional[float] = field(  # noqa: UP045  the spelling that fairseq's parser knows
        default=None, metadata={"help": "of the MT task; must be what the multitask yaml says (default: that)"}
    )
    k1: int = field(default=0, metadata={"help": "MT token i sees the source up to ST CTC token i + k1"})
    n1: int = field(default=1, metadata={"help": "MT tokens are released in steps of n1"})
    k2: int = field(default=0, metadata={"help": "units of token i see T2U states up to i + k2"})
    n2: int = field(
        default=1,
        metadata={"help": "T2U states are released in steps of n2; -1: drawn for every training batch"},
    )
    multichunk: bool = field(
        default=False, metadata={"help": "draw the encoder's segment for every training batch from --multichunk-sizes"}
    )
    multichunk_sizes: str = field(
        default="8,16,24,32,0",
        metadata={"help": "segments in encoder frames of 40 ms for --multichunk; 0 is the whole utterance"},
    )
    autocast: ChoiceEnum(["none", "bf16"]) = field(
        default="none",
        metadata={"help": "bf16: matrix products in bfloat16 with float32 weights, faster on CPUs with AVX-512 BF16"},
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "keep only each encoder layer's input and compute the rest again backward: less memory"},
    )
    distill_from: str = field(
        default="",
        metadata={"help": "pull the encoder's outputs to those of this StreamSpeech (or EchoStream) checkpoint"},
    )
    distill_weight: float = field(
        default=10.0, metadata={"help": "weight of the distillation loss, a sum over encoder frames, in training"}
    )
    distill_segment: int = field(
        default=-1,
        metadata={"help": "encoder frames that the teacher sees at once; -1: what the student sees, 0: everything"},
    )
    unlabelled: str = field(
        default="",
        metadata={
            "help": "recordings of people without transcripts, in any language (a tsv with a column wav, or a folder): "
            "of these, the features of an encoder that was Whisper's stay near Whisper's"
        },
    )
    unlabelled_teacher: str = field(
        default="auto",
        metadata={"help": "Whisper's weights for --unlabelled: a model.bin or its folder, 'auto' for whisper-base's"},
    )
    unlabelled_s: float = field(
        default=8.0, metadata={"help": "seconds of --unlabelled in every update of every process"}
    )
    unlabelled_weight: float = field(
        default=10.0,
        metadata={"help": "weight of the squared distance to Whisper's features, relative to their own, in training"},
    )
    ctc_blank_prior: float = field(
        default=0.0,
        metadata={"help": "train the text heads on posteriors divided by the priors of blank and tokens to this power"},
    )
    ctc_early_weight: float = field(
        default=0.0,
        metadata={"help": "cost of a token that a text head writes before it can have been said, per encoder frame"},
    )
    ctc_early_slack: float = field(
        default=1.0, metadata={"help": "tokens that a text head may be ahead of the speech at no cost"}
    )
    mt_word_dropout: float = field(
        default=0.0,
        metadata={"help": "part of the tokens before that the MT decoder does not see in training: it must listen"},
    )
    post_process: str = field(
        default="sentencepiece", metadata={"help": "accepted for StreamSpeech's scripts; subwords are always joined"}
    )
