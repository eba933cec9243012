"""The criterion `speech_to_unit_2pass_ctc_asr_st`: unit CTC, MT cross entropy, ASR CTC and ST CTC in one sum.

L = L_unit + sum of the tasks' losses times their `loss_weight` in the multitask yaml; sums over the batch, divided by
the number of target units as StreamSpeech does (section 3 of arXiv 2406.03049). With `--distill-from`, a teacher's
encoder adds a loss in training, with `--unlabelled` Whisper's does on recordings of its own.
"""

import math
from collections import defaultdict
from contextlib import nullcontext
from functools import partial

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.logging import metrics
from rapidfuzz.distance.Levenshtein import distance as edit_distance
from torch import Tensor

from echostream_plugin.adaptation.unlabelled import UnlabelledSpeech
from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS, PAD, UNK
from echostream_plugin.decoders.ctc import FIRST_FRAMES, greedy_collapse_batch
from echostream_plugin.decoders.masks import draw_unit_step
from echostream_plugin.fairseq_ext.alignable import infeasible
from echostream_plugin.fairseq_ext.criterion_options import TwoPassCTCConfig
from echostream_plugin.fairseq_ext.ctc_losses import ctc_loss, early_penalty, heard_share, prior_ctc_loss
from echostream_plugin.fairseq_ext.generator import text_of
from echostream_plugin.fairseq_ext.transfer import EncoderTeacher, distill_loss
from echostream_plugin.model import ModelOutput, WaitKLags
from echostream_plugin.modules.training_attention import quick_attention

# percent of the utterances with more targets than frames: metric -> loss
_INFEASIBLE = {"unit_infeasible": "unit", "asr_infeasible": "source_unigram", "st_infeasible": "ctc_target_unigram"}
# error rates people read: metric -> what its errors are divided by
_HEADS = {"asr": "source_unigram", "st": "ctc_target_unigram"}
_RATES = {"asr_wer": "asr_words", "asr_ter": "asr_tokens", "st_wer": "st_words", "st_ter": "st_tokens", "uer": "units"}


def _not_negative(**flags: float) -> None:
    """Raise ConfigError for the first that is."""
    for name, value in flags.items():
        if value < 0:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must not be negative")


@register_criterion("speech_to_unit_2pass_ctc_asr_st", dataclass=TwoPassCTCConfig)
class TwoPassCTCCriterion(FairseqCriterion):
    """Losses and validation error rates of the two-pass model.

    Every draw comes from torch's generator, which fairseq seeds with --seed and the update number: runs repeat, and a
    resumed run goes on as if it had not stopped."""

    def __init__(
        self, task, sentence_avg, label_smoothing, ignore_prefix_size=0, report_accuracy=False, rdrop_alpha=0.0,
        k1=0, n1=1, k2=0, n2=1, multichunk=False, multichunk_sizes="8,16,24,32,0",
        autocast="none", checkpoint_activations=False,
        distill_from="", distill_weight=10.0, distill_segment=-1,
        unlabelled="", unlabelled_teacher="auto", unlabelled_s=8.0, unlabelled_weight=10.0,
        ctc_blank_prior=0.0, ctc_early_weight=0.0, ctc_early_slack=1.0, mt_word_dropout=0.0,
        post_process="sentencepiece",
    ):  # fmt: skip
        super().__init__(task)
        if rdrop_alpha > 0:
            raise ConfigError("--rdrop-alpha: R-Drop is not supported by this criterion; use 0")
        self.sentence_avg = sentence_avg
        self.lags = WaitKLags(max(k1, 0), n1 if n1 > 0 else 1, max(k2, 0), n2 if n2 > 0 else None)
        self.segments = _sizes(multichunk_sizes) if multichunk else None
        self.unchecked_segments = self.segments or []
        self.autocast = str(autocast) == "bf16"
        self.checkpoint_activations = checkpoint_activations
        self.distill_weight, self.distill_segment = distill_weight, distill_segment
        self.blank_prior, self.early_weight, self.early_slack = ctc_blank_prior, ctc_early_weight, ctc_early_slack
        early = {"ctc_early_weight": ctc_early_weight, "ctc_early_slack": ctc_early_slack}
        _not_negative(distill_weight=distill_weight, ctc_blank_prior=ctc_blank_prior, **early)
        if not 0 <= mt_word_dropout < 1:
            raise ConfigError(f"--mt-word-dropout {mt_word_dropout}: from 0 to below 1")
        self.mt_word_dropout = mt_word_dropout
        self.teacher = self._teacher(task, distill_from) if distill_weight else None
        self.unlabelled_weight = unlabelled_weight
        self.unlabelled = self._unlabelled(unlabelled, unlabelled_s, unlabelled_teacher)
        tasks = task.multitask_tasks
        self.task_args = {name: item.args for name, item in tasks.items()}
        self.loss_weights = {name: args.get_loss_weight(0) for name, args in self.task_args.items()}
        self.smoothing = self._smoothing(task, label_smoothing)
        self.source_dictionary = tasks["source_unigram"].target_dictionary
        self.target_dictionary = tasks["target_unigram"].target_dictionary

    @staticmethod
    def _teacher(task, path: str) -> EncoderTeacher | None:
        return EncoderTeacher.read(path, getattr(task.args, "encoder_embed_dim", None)) if path else None

    def _unlabelled(self, path: str, seconds: float, teacher: str) -> partial | None:
        """`UnlabelledSpeech` that awaits the encoder, with the first batch of training."""
        _not_negative(unlabelled_weight=self.unlabelled_weight)
        if seconds <= 0:
            raise ConfigError(f"--unlabelled-s {seconds}: must be more than 0")
        return partial(UnlabelledSpeech, path, seconds, teacher) if path and self.unlabelled_weight else None

    @staticmethod
    def _smoothing(task, flag: float | None) -> float:
        """Label smoothing of the MT task, which its yaml sets and the flag may repeat."""
        wanted = task.multitask_tasks["target_unigram"].args.criterion_cfg.label_smoothing
        if flag is not None and flag != wanted:
            raise ConfigError(
                f"--label-smoothing {flag}: target_unigram.label_smoothing of {task.args.multitask_config_yaml} is "
                f"{wanted}, and it is the only loss that is smoothed; make them equal, or leave the flag out"
            )
        return wanted

    def set_multitask_loss_weight(self, task_name, weight=0.0):
        """Called by fairseq's task before every training step."""
        self.loss_weights[task_name] = weight

    def forward(self, model, sample, reduce=True):
        """(loss, sample size, logging output) of a batch; the loss is a sum, the sample size counts target units."""
        targets = {name: sample["multitask"][name]["target"] for name in self.task_args}
        prev_tokens = self.forget(sample["multitask"]["target_unigram"]["net_input"]["prev_output_tokens"])
        self.check_segments(model)
        self.prepare(model)
        lags, segment_frames = self.draw(prev_tokens.size(1))
        net_input = sample["net_input"]
        device = prev_tokens.device.type
        attention = quick_attention(device) if self.training else nullcontext()
        # entered only where asked: one that is not enabled would end the autocast of --amp around it
        precision = torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext()
        with precision, attention:
            output = model(
                net_input["src_tokens"],
                net_input["src_lengths"],
                prev_tokens,
                lags=lags,
                segment_frames=segment_frames,
            )
            taught = self.teach(model, net_input, segment_frames)
            strayed = self.stray(model, segment_frames)
        losses = self.losses(output, sample["target"], targets)
        early = self.early(output, net_input, targets)
        loss = losses["unit"] + sum(self.loss_weights[name] * losses[name] for name in self.task_args)
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logging = {"loss": loss.data, "sample_size": sample_size, **self.describe(output, sample, losses, targets)}
        if taught is not None:
            distilled = distill_loss(output.encoder, taught, output.lengths)
            logging["distill_loss"], logging["distill_frames"] = distilled.data, int(output.lengths.sum())
            if self.training:  # the loss by which checkpoints are chosen is that of the task alone
                loss = loss + self.distill_weight * distilled
                logging["loss"] = loss.data
        if strayed is not None:
            loss = loss + self.unlabelled_weight * sample_size * strayed
            logging["loss"] = loss.data
            logging["unlabelled_distance"] = sample_size * strayed.data
        if early is not None:
            loss = loss + early
            logging["loss"], logging["early_loss"] = loss.data, early.data
        return loss, sample_size, logging

    def forget(self, tokens: Tensor) -> Tensor:
        """In training, the tokens that the MT decoder is fed, [B, N], with a part of the subwords unknown: what they
        would tell of the next ones it has to find in the source (word dropout, Bowman et al., arXiv 1511.06349)."""
        if not (self.training and self.mt_word_dropout):
            return tokens
        gone = torch.rand(tokens.shape, device=tokens.device) < self.mt_word_dropout
        return tokens.masked_fill(gone & tokens.gt(UNK), UNK)

    def describe(self, output: ModelOutput, sample, losses: dict[str, Tensor], targets: dict[str, Tensor]) -> dict:
        """What is logged of a batch besides its whole loss: sums, and what they are divided by."""
        logging = {"ntokens": sample["ntokens"], "nsentences": sample["target"].size(0)}
        logging["unit_loss"] = losses["unit"].data
        for name in self.task_args:
            logging[f"{name}_loss"] = losses[name].data
            logging[f"{name}_ntokens"] = sample["multitask"][name]["ntokens"]
        frames = {name: output.lengths for name in targets} | {"unit": output.unit_lengths}
        for metric, name in _INFEASIBLE.items():
            logging[metric] = infeasible(targets.get(name, sample["target"]), frames[name])
        if not self.training:
            logging.update(self.errors(output, sample["target"], targets))
            logging.update(first_tokens(output))
        return logging

    def check_segments(self, model):
        """Before the first batch that draws one: ConfigError for a segment that the model's encoder cannot take."""
        for segment_frames in self.unchecked_segments:
            try:
                model.encoder.check_training_segment(segment_frames)
            except ConfigError as error:
                sizes = ",".join(map(str, self.segments))
                raise ConfigError(f"--multichunk-sizes {sizes}: a segment of {segment_frames}: {error}") from error
        self.unchecked_segments = []

    def prepare(self, model):
        """Before the first batch: what the model is to do differently in training. ConfigError where it cannot."""
        if self.checkpoint_activations:
            if not hasattr(model.encoder, "checkpoint_activations"):
                raise ConfigError("--checkpoint-activations: only the Emformer can; leave it out for another encoder")
            model.encoder.checkpoint_activations()
            self.checkpoint_activations = False

    def draw(self, target_tokens: int) -> tuple[WaitKLags, int | None]:
        """Wait-k lags and segment of this batch: drawn in training where asked, fixed in validation."""
        lags, segment_frames = self.lags, None
        if lags.n2 is None:
            n2 = draw_unit_step(-1, target_tokens) if self.training else 1
            lags = WaitKLags(lags.k1, lags.n1, lags.k2, n2)
        if self.training and self.segments:
            segment_frames = self.segments[int(torch.randint(len(self.segments), ()))]
        return lags, segment_frames

    def teach(self, model, net_input: dict, segment_frames: int | None) -> Tensor | None:
        """The teacher's encoder outputs [B, S, C] for a batch, where there is a teacher. It sees as much of the future
        as the student unless --distill-segment says otherwise, so that nothing is asked that cannot be known."""
        if self.teacher is None:
            return None
        if self.distill_segment >= 0:
            segment_frames = self.distill_segment
        elif segment_frames is None:
            segment_frames = model.encoder.segment_frames
        return self.teacher(net_input["src_tokens"], net_input["src_lengths"], segment_frames)

    def stray(self, model, segment_frames: int | None) -> Tensor | None:
        """In training, where asked: how far the encoder has gone from Whisper on speech without transcripts."""
        if self.unlabelled is None or not self.training:
            return None
        if isinstance(self.unlabelled, partial):
            self.unlabelled = self.unlabelled(model.encoder)
        return self.unlabelled.distance(model.encoder, segment_frames)

    def losses(self, output: ModelOutput, units: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Summed losses by name: 'unit' and the tasks'."""
        blank = output.unit_logits.size(-1) - 1
        losses = {"unit": ctc_loss(output.unit_logits, output.unit_lengths, units, blank)}
        for head, name in _HEADS.items():
            logits = getattr(output, f"{head}_logits")
            if self.training and self.blank_prior:
                losses[name] = prior_ctc_loss(logits, output.lengths, targets[name], 0, self.blank_prior)
            else:
                losses[name] = ctc_loss(logits, output.lengths, targets[name], 0)
        losses["target_unigram"], _ = label_smoothed_nll_loss(
            output.mt_logits.float().log_softmax(-1).flatten(0, 1),
            targets["target_unigram"].flatten().unsqueeze(-1),
            self.smoothing,
            ignore_index=PAD,
        )
        return losses

    def early(self, output: ModelOutput, net_input: dict, targets: dict[str, Tensor]) -> Tensor | None:
        """In training, where asked: what it costs that the text heads write before it was said."""
        if not (self.training and self.early_weight):
            return None
        features, frames = (net_input["src_tokens"], net_input["src_lengths"]), output.asr_logits.size(1)
        heard = heard_share(*features, output.lengths, frames)
        cost = 0.0
        for head, name in _HEADS.items():
            logits = getattr(output, f"{head}_logits")
            penalty = early_penalty(logits, output.lengths, targets[name], 0, heard, self.early_slack)
            cost = cost + self.loss_weights[name] * penalty
        return self.early_weight * cost

    @torch.no_grad()
    def errors(self, output: ModelOutput, units: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
        """Edit distances of the greedy CTC outputs, the lengths they are divided by, and correct MT tokens."""
        counts = defaultdict(float)
        heads = (
            ("asr", output.asr_logits, targets["source_unigram"], self.source_dictionary),
            ("st", output.st_logits, targets["ctc_target_unigram"], self.target_dictionary),
        )
        for name, logits, target, dictionary in heads:
            collapsed = greedy_collapse_batch(logits, output.lengths)
            for (tokens, _), reference in zip(collapsed, target.tolist(), strict=True):
                reference = [token for token in reference if token not in (PAD, EOS)]
                words, reference_words = text_of(tokens, dictionary).split(), text_of(reference, dictionary).split()
                counts[f"{name}_ter"] += edit_distance(reference, tokens)
                counts[f"{name}_tokens"] += len(reference)
                counts[f"{name}_wer"] += edit_distance(reference_words, words)
                counts[f"{name}_words"] += len(reference_words)
        blank = output.unit_logits.size(-1) - 1
        collapsed = greedy_collapse_batch(output.unit_logits, output.unit_lengths, blank)
        for (predicted, _), reference in zip(collapsed, units.tolist(), strict=True):
            reference = [unit for unit in reference if unit > UNK]
            counts["uer"] += edit_distance(reference, [unit for unit in predicted if unit > UNK])
            counts["units"] += len(reference)
        valid = targets["target_unigram"].ne(PAD)
        counts["mt_correct"] = (output.mt_logits.argmax(-1).eq(targets["target_unigram"]) & valid).sum().item()
        counts["mt_tokens"] = valid.sum().item()
        return dict(counts)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Logs `loss` per unit, each task's loss per token (base 2), the distillation's per encoder frame, in percent
        the utterances with more targets than frames, and in validation the error rates and the tokens that the text
        heads write in an utterance's first `FIRST_FRAMES` frames, where hardly anything was said."""
        total = defaultdict(float)
        for log in logging_outputs:
            for key, value in log.items():
                total[key] += float(value)
        base = math.log(2)
        metrics.log_scalar("loss", total["loss"] / total["sample_size"] / base, total["sample_size"], round=3)
        metrics.log_scalar("unit_loss", total["unit_loss"] / total["ntokens"] / base, total["ntokens"], round=3)
        for key in [key for key in total if key.endswith("_ntokens")]:
            name, tokens = key.removesuffix("_ntokens"), max(total[key], 1)
            metrics.log_scalar(f"multitask_{name}_loss", total[f"{name}_loss"] / tokens / base, tokens, round=3)
        if total["distill_frames"]:
            frames = total["distill_frames"]
            metrics.log_scalar("distill_loss", total["distill_loss"] / frames, frames, round=4)
        if "unlabelled_distance" in total:
            distance = total["unlabelled_distance"] / total["sample_size"]
            metrics.log_scalar("unlabelled_distance", distance, total["sample_size"], round=4)
        for metric in _INFEASIBLE:
            share = 100 * total[metric] / max(total["nsentences"], 1)
            metrics.log_scalar(metric, share, total["nsentences"], round=2)
        if total["early_loss"]:
            metrics.log_scalar("early_loss", total["early_loss"] / total["sample_size"] / base, round=3)
        for head in _HEADS:
            if f"{head}_first" in total:  # in validation
                metrics.log_scalar(f"{head}_first", total[f"{head}_first"] / max(total["nsentences"], 1), round=2)
        for rate, count in _RATES.items():
            if total[count]:
                metrics.log_scalar(rate, 100 * total[rate] / total[count], total[count], round=2)
        if total["mt_tokens"]:
            accuracy = 100 * total["mt_correct"] / total["mt_tokens"]
            metrics.log_scalar("mt_accuracy", accuracy, total["mt_tokens"], round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@torch.no_grad()
def first_tokens(output: ModelOutput) -> dict[str, int]:
    """How many tokens the text heads write in the first `FIRST_FRAMES` frames of the utterances of a batch."""
    found = {}
    for head in _HEADS:
        logits, lengths = getattr(output, f"{head}_logits")[:, :FIRST_FRAMES], output.lengths.clamp(max=FIRST_FRAMES)
        found[f"{head}_first"] = sum(len(tokens) for tokens, _ in greedy_collapse_batch(logits, lengths))
    return found


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(size) for size in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--multichunk-sizes '{text}': expected numbers separated by commas") from error
    if not sizes or min(sizes) < 0:
        raise ConfigError(f"--multichunk-sizes '{text}': segments must not be negative")
    return sizes
