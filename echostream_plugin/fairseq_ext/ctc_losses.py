"""CTC losses, and two remedies for heads that write before they can know.

CTC does not care where on the frames a token lies. An encoder that sees the whole utterance, or the whole segment, can
write all of it in its first frames at no cost, and what it learns there it does in a stream too, by guessing. Both
remedies are training losses only: the heads, their greedy decoding and the loss in validation stay as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from echostream_plugin.constants import FEATURES_PER_FRAME, PAD

LOUD_SHARE = 0.4  # of the way from an utterance's quietest feature frame to its loudest: louder ones are speech


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, blank: int) -> Tensor:
    """Summed CTC loss of logits [B, S, V] with `lengths` [B] against targets [B, N] right-padded with 1.

    An utterance with more targets than frames gives zero loss and no gradient; `alignable` counts them."""
    return _ctc(logits.float().log_softmax(-1), lengths, targets, blank, "sum")


def _ctc(log_probs: Tensor, lengths: Tensor, targets: Tensor, blank: int, reduction: str) -> Tensor:
    """Of normalised log_probs [B, S, V]."""
    given = log_probs.transpose(0, 1), targets, lengths, targets.ne(PAD).sum(1)
    return F.ctc_loss(*given, blank=blank, reduction=reduction, zero_infinity=True)


def prior_ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, blank: int, alpha: float) -> Tensor:
    """`ctc_loss` over posteriors divided by the prior of blank and of the other symbols to the power of `alpha` (R.
    Huang et al., "Less Peaky and More Accurate CTC Forced Alignment by Label Priors", arXiv 2406.02560; there with a
    prior of each symbol). A path gains by frames with tokens: they cover what is heard instead of one frame somewhere.

    The prior is that of the batch, so nothing has to be kept for a training that resumes. 0 is `ctc_loss`."""
    log_probs = logits.float().log_softmax(-1)
    prior = _prior(log_probs.detach(), lengths, blank)
    weighed = log_probs - alpha * prior
    # torch's gradient is that of normalised input: a path takes one symbol of every frame, so the norms come out
    norms = weighed.logsumexp(-1)
    losses = _ctc(weighed - norms.unsqueeze(-1), lengths, targets, blank, "none")
    norms = (norms * within(lengths, log_probs.size(1))).sum(1)
    return torch.where(losses > 0, losses - norms, torch.zeros_like(losses)).sum()


def _prior(log_probs: Tensor, lengths: Tensor, blank: int) -> Tensor:
    """[V] log-priors: of blank, and of all other symbols alike."""
    valid = within(lengths, log_probs.size(1))
    blanks = (log_probs[..., blank].exp() * valid).sum() / valid.sum().clamp(min=1)
    blanks = blanks.clamp(1e-3, 1 - 1e-3)
    prior = ((1 - blanks) / (log_probs.size(-1) - 1)).log().repeat(log_probs.size(-1))
    prior[blank] = blanks.log()
    return prior


def heard_share(features: Tensor, feature_lengths: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Which share of the speech of an utterance has been heard at each encoder frame, [B, S], 0 to 1, growing.

    features: [B, T, F] log-mel, normalised in any way; feature_lengths: [B]; lengths: [B] encoder frames, S = `frames`
    at most. Feature frames count where they are loud: silence before, inside and after holds no words."""
    valid = within(feature_lengths, features.size(1))
    levels = features.float().mean(-1)
    low = levels.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
    high = levels.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
    loud = (levels >= low + LOUD_SHARE * (high - low)) & valid
    heard = loud.float().cumsum(1)
    heard = heard / heard[:, -1:].clamp(min=1)
    newest = torch.arange(1, frames + 1, device=features.device) * FEATURES_PER_FRAME - 1
    heard = heard[:, newest.clamp(max=features.size(1) - 1)]
    return heard.masked_fill(torch.arange(frames, device=lengths.device) >= lengths.unsqueeze(1) - 1, 1.0)


def early_penalty(logits: Tensor, lengths: Tensor, targets: Tensor, blank: int, heard: Tensor, slack: float) -> Tensor:
    """By how many tokens a head is ahead of the speech, summed over encoder frames and utterances.

    By encoder frame s a head has written some expected number of tokens; of the N targets, no more than the heard share
    of the speech and `slack` tokens can have been said. A token that is written ten frames too early costs about ten.
    logits: [B, S, V]; heard: of `heard_share`."""
    probs = logits.float().softmax(-1)
    before = F.pad(probs, (0, 0, 1, 0))[:, :-1]
    begins = probs * (1 - before)  # a symbol that was not there the frame before
    written = (begins.sum(-1) - begins[..., blank]).cumsum(1)
    said = targets.ne(PAD).sum(1, keepdim=True) * heard + slack
    return (F.relu(written - said) * within(lengths, logits.size(1))).sum()


def within(lengths: Tensor, frames: int) -> Tensor:
    """Bool [B, frames]: which frames are real."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)
