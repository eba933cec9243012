"""The MT decoder is trained to translate text, before the training with speech.

A decoder that reads the transcript (`decoders.conditioned`) is shown source subwords as a CTC head would output them,
with its errors and its blanks between them, and no speech: as in JOIST (Sainath et al., arXiv 2210.07353), text makes
up for speech that nobody recorded.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import BLANK, EOS, PAD, SPECIALS, UNK
from echostream_plugin.decoders.conditioned import ConditionedDecoder
from echostream_plugin.inference.digest import value_digest
from echostream_plugin.modules.seeded_training import SeededTraining

POOL = 4  # batches that are drawn at once, so that texts of one length come together


@dataclass(frozen=True)
class TextRecipe:
    """How a decoder learns from text. rate: the highest, after `warmup` updates, from where it falls to nothing;
    most_errors: the share of subwords that a transcript has wrong, lacks or adds, up to which it is drawn for each;
    blanks: frames without a subword per subword, held: the share of subwords that last a second frame; word_dropout:
    the share of the decoder's own subwords that it is not shown."""

    updates: int = 2400
    batch: int = 128
    rate: float = 2e-3
    warmup: int = 400
    most_errors: float = 0.3
    blanks: float = 1.0
    held: float = 0.15
    word_dropout: float = 0.2
    label_smoothing: float = 0.1
    seed: int = 1


def ctc_frames(tokens: list, vocab: int, errors: float, recipe: TextRecipe, rng: np.random.Generator) -> list:
    """The greedy output of a CTC head, frame by frame, for a text: its subwords in order, a share `errors` of them
    wrong, missing or one too many, with blanks between."""
    said = []
    for token in tokens:
        draw, other = rng.random(), int(rng.integers(len(SPECIALS), vocab))
        if draw >= 0.4 * errors:  # else it is missing
            said += [other] if draw < 0.85 * errors else [other, token] if draw < errors else [token]
    frames = [BLANK] * int(rng.geometric(1 / (1 + recipe.blanks)))
    for token in said:
        between = int(rng.geometric(1 / (1 + recipe.blanks))) - 1
        frames += [BLANK] * max(between, int(frames[-1] == token))
        frames += [token] * (1 + int(rng.random() < recipe.held))
    return frames


@torch.no_grad()
def translated(decoder: ConditionedDecoder, source: list, recipe: TextRecipe, longest: int = 150) -> list:
    """The greedy translation of source subwords that a CTC head would output without an error."""
    decoder, draws = decoder.eval(), torch.Generator().manual_seed(recipe.seed)
    text = ctc_frames(source, decoder.config.source_vocab, 0.0, recipe, np.random.default_rng(recipe.seed))
    frames = torch.randn(1, len(text), decoder.config.encoder_dim, generator=draws)
    padding, shown = torch.zeros(1, len(text), dtype=torch.bool), [EOS]
    while len(shown) <= longest:
        logits = decoder.logits(decoder.forward_text(torch.tensor([shown]), torch.tensor([text]), frames, padding))
        logits[..., [BLANK, PAD, UNK]] = -torch.inf
        shown.append(int(logits[0, -1].argmax()))
        if shown[-1] == EOS:
            return shown[1:-1]
    return shown[1:]


def padded(rows: list, value: int) -> Tensor:
    """Lists of numbers as a tensor [B, longest]."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, value)


class TextTraining(SeededTraining):
    """The updates of a decoder.

    pairs: (source subwords, target subwords) of each sentence, as numbers of the dictionaries."""

    def __init__(self, decoder: ConditionedDecoder, pairs: list, recipe: TextRecipe, bf16: bool = False):
        if len(pairs) < recipe.batch:
            raise ConfigError(f"{len(pairs)} pairs of texts are fewer than an update takes: {recipe.batch}")
        self.decoder, self.pairs, self.recipe, self.bf16 = decoder, pairs, recipe, bf16
        decoder.transcript.gain.requires_grad_(False)  # there are no frames to learn it from
        learning = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learning, lr=recipe.rate, betas=(0.9, 0.98))
        made_by = value_digest([dataclasses.asdict(recipe), dataclasses.asdict(decoder.config), pairs])
        super().__init__(decoder, optimizer, recipe.updates, recipe.seed, made_by, clip_norm=2.0)

    def update(self) -> float:
        """One update in place; returns the loss before it, of a target subword."""
        recipe, rng = self.recipe, self._draw()
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate * min(self.done / recipe.warmup, 1 - self.done / (recipe.updates + 1))
        drawn = sorted(rng.integers(len(self.pairs), size=POOL * recipe.batch), key=lambda i: len(self.pairs[i][0]))
        first = int(rng.integers(POOL)) * recipe.batch
        pairs = [self.pairs[i] for i in drawn[first : first + recipe.batch]]
        logits, targets = self._logits(pairs, rng, recipe.most_errors, recipe.word_dropout)
        loss = F.cross_entropy(logits, targets, ignore_index=PAD, label_smoothing=recipe.label_smoothing)
        return self._learn(loss, loss)

    @torch.no_grad()
    def accuracy(self, pairs: list, errors: float = 0.0) -> float:
        """The share of target subwords that are found after those before them, where the transcript has such errors."""
        rng, right, count = np.random.default_rng(self.recipe.seed), 0, 0
        for start in range(0, len(pairs), self.recipe.batch):
            logits, targets = self._logits(pairs[start : start + self.recipe.batch], rng, errors, 0.0, train=False)
            kept = targets.ne(PAD)
            right, count = right + int((logits.argmax(-1) == targets)[kept].sum()), count + int(kept.sum())
        return right / max(count, 1)

    def _logits(self, pairs, rng, errors, dropped, train=True):
        """Logits [N, V] of all target places of a batch, and the subwords [N] there, PAD where there are none."""
        config, decoder = self.decoder.config, self.decoder.train(train)
        share = rng.uniform(0, errors, len(pairs)) if train else np.full(len(pairs), errors)
        texts = [
            ctc_frames(source, config.source_vocab, each, self.recipe, rng)
            for (source, _), each in zip(pairs, share, strict=True)
        ]
        lengths = torch.tensor([len(text) for text in texts])
        tokens = padded(texts, BLANK)
        padding = torch.arange(tokens.size(1)) >= lengths[:, None]
        targets = padded([[*target, EOS] for _, target in pairs], PAD)
        shown = padded([[EOS, *target] for _, target in pairs], PAD)
        gone = torch.from_numpy(rng.random(shown.shape) < dropped)
        shown = shown.masked_fill(gone & shown.gt(UNK), UNK)
        frames = torch.randn(*tokens.shape, config.encoder_dim)  # an encoder's end in a layer norm
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = decoder.logits(decoder.forward_text(shown, tokens, frames, padding))
        return logits.float().flatten(0, 1), targets.flatten()
