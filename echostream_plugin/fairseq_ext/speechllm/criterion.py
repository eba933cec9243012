"""The criterion `speechllm_ctc`: cross entropy of text and ends of chunks, and CTC (arXiv 2410.03752, section 2)."""

import math
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from rapidfuzz.distance.Levenshtein import distance as edit_distance
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.ctc import greedy_collapse_batch
from echostream_plugin.fairseq_ext.alignable import infeasible
from echostream_plugin.fairseq_ext.ctc_losses import ctc_loss
from echostream_plugin.fairseq_ext.generator import text_of
from echostream_plugin.fairseq_ext.speechllm.model import HEADS
from echostream_plugin.model import SpeechLLMOutput
from echostream_plugin.modules.training_attention import quick_attention


@dataclass
class SpeechLLMCTCConfig(FairseqDataclass):
    """Options of `SpeechLLMCTCCriterion`."""

    ctc_weight: float = field(
        default=0.3, metadata={"help": "weight of the CTC losses of both heads beside the decoder's cross entropy"}
    )
    ctc_only_updates: int = field(
        default=0,
        metadata={
            "help": "updates in which the CTC heads learn alone, until the one that aligns the text knows something; "
            "0: from a trained head on, as --load-bundle-encoder gives it"
        },
    )
    alignment_delay: int = field(
        default=0,
        metadata={
            "help": "encoder frames of 40 ms by which the alignment is shifted: a token's chunk is that of its end "
            "frame so much later; for a translation, multiples of --llm-chunk-frames make it wait whole chunks"
        },
    )
    autocast: ChoiceEnum(["none", "bf16"]) = field(
        default="none",
        metadata={"help": "bf16: matrix products in bfloat16 with float32 weights, faster on CPUs with AVX-512 BF16"},
    )


@register_criterion("speechllm_ctc", dataclass=SpeechLLMCTCConfig)
class SpeechLLMCTCCriterion(FairseqCriterion):
    """loss = sum of the decoder's cross entropies + ctc_weight * sum of the CTC losses, divided by the number of
    tokens, ends of chunks included. The chunk of each token comes from a forced alignment by the model's own CTC head,
    through which no gradient flows."""

    def __init__(self, task, ctc_weight, ctc_only_updates=0, alignment_delay=0, autocast="none"):
        super().__init__(task)
        if ctc_weight < 0:
            raise ConfigError(f"--ctc-weight {ctc_weight}: must not be negative")
        for flag, value in (("ctc-only-updates", ctc_only_updates), ("alignment-delay", alignment_delay)):
            if value < 0:
                raise ConfigError(f"--{flag} {value}: must not be negative")
        self.ctc_weight, self.ctc_only_updates, self.delay = ctc_weight, ctc_only_updates, alignment_delay
        self.autocast = str(autocast) == "bf16"
        self.written = task.text_task
        self.dictionary = task.target_dictionary

    def set_multitask_loss_weight(self, task_name, weight=0.0):
        """Called by fairseq's task; the weights of the yaml are those of speech to speech."""

    def forward(self, model, sample, reduce=True):
        """(loss, sample size, logging output) of a batch; the loss is a sum, the sample size counts tokens."""
        targets = {name: sample["multitask"][name]["target"] for name in HEADS.values()}
        ctc_alone = self.training and model.num_updates < self.ctc_only_updates
        text, net_input = targets[self.written], sample["net_input"]
        device = text.device.type
        attention = quick_attention(device) if self.training else nullcontext()
        precision = torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext()
        with precision, attention:
            asked = None if ctc_alone else text
            output = model(net_input["src_tokens"], net_input["src_lengths"], asked, self.delay)
        logits = dict(zip(HEADS.values(), (output.asr_logits, output.st_logits), strict=True))
        losses = {name: ctc_loss(logits[name], output.lengths, targets[name], 0) for name in logits}
        loss, size = sum(losses.values()), int(text.ne(PAD).sum())
        logging = {"ntokens": size, "nsentences": len(text)}
        if ctc_alone:  # processes that train together wait for a gradient of every parameter
            loss = loss + 0.0 * sum(each.sum() for each in model.chunk_decoder.parameters())
        else:
            loss, size = self.ctc_weight * loss, len(output.tokens)
            entropy = F.cross_entropy(output.logits.float(), output.tokens, reduction="sum")
            loss = loss + entropy
            right = output.logits.argmax(-1).eq(output.tokens)
            logging |= {"llm_loss": entropy.data, "llm_tokens": size, "llm_right": int(right.sum())}
        for name in logits:
            logging |= {f"{name}_loss": losses[name].data, f"{name}_ntokens": int(targets[name].ne(PAD).sum())}
        logging |= {"loss": loss.data, "sample_size": size, "infeasible": infeasible(text, output.lengths)}
        if not self.training:
            logging |= self.errors(output, logits[self.written], text)
        return loss, size, logging

    @torch.no_grad()
    def errors(self, output: SpeechLLMOutput, logits: Tensor, text: Tensor) -> dict[str, int]:
        """Edit distances in words of the aligning head's greedy output, and the words that they are divided by."""
        counts = {"ctc_wer": 0, "ctc_words": 0}
        collapsed = greedy_collapse_batch(logits, output.lengths)
        for (tokens, _), reference in zip(collapsed, text.tolist(), strict=True):
            words = text_of(tokens, self.dictionary).split()
            wanted = text_of([token for token in reference if token not in (PAD, EOS)], self.dictionary).split()
            counts["ctc_wer"] += edit_distance(wanted, words)
            counts["ctc_words"] += len(wanted)
        return counts

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Logs `loss` and `llm_loss` per token, ends of chunks included, the CTC losses per token of their text (base
        2), the share of tokens that the decoder predicts with the text before them given, in percent the utterances
        that cannot be aligned, and in validation the word error rate of the head that aligns."""
        total = defaultdict(float)
        for log in logging_outputs:
            for key, value in log.items():
                total[key] += float(value)
        base = math.log(2)
        metrics.log_scalar("loss", total["loss"] / max(total["sample_size"], 1) / base, total["sample_size"], round=3)
        if total["llm_tokens"]:
            tokens = total["llm_tokens"]
            metrics.log_scalar("llm_loss", total["llm_loss"] / tokens / base, tokens, round=3)
            metrics.log_scalar("llm_accuracy", 100 * total["llm_right"] / tokens, tokens, round=2)
        for name in HEADS.values():
            tokens = max(total[f"{name}_ntokens"], 1)
            metrics.log_scalar(f"multitask_{name}_loss", total[f"{name}_loss"] / tokens / base, tokens, round=3)
        share = 100 * total["infeasible"] / max(total["nsentences"], 1)
        metrics.log_scalar("infeasible", share, total["nsentences"], round=2)
        if total["ctc_words"]:
            metrics.log_scalar("ctc_wer", 100 * total["ctc_wer"] / total["ctc_words"], total["ctc_words"], round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
