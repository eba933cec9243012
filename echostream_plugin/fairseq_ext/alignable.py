"""Has CTC enough frames for its targets? An utterance with more targets than frames has no alignment (Graves et al.,
ICML 2006): its loss is set to zero and nothing is learnt from it. So the share of such utterances is counted in every
batch, and a training that would have too many of them does not begin."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import PAD

logger = logging.getLogger(__name__)

LIMIT_PERCENT = 2.0  # of the training utterances
_SCARCE = {  # task -> how its targets and the lack of frames are named
    "source_unigram": "source subwords",
    "ctc_target_unigram": "target subwords",
}


def frames_needed(targets: Tensor) -> Tensor:
    """The fewest frames [B] that CTC can spell targets [B, N], right-padded with 1, in: one each, and a blank between
    two that are equal."""
    repeats = targets[:, 1:].eq(targets[:, :-1]) & targets[:, 1:].ne(PAD)
    return targets.ne(PAD).sum(1) + repeats.sum(1)


def infeasible(targets: Tensor, lengths: Tensor) -> Tensor:
    """How many utterances of a batch have more targets [B, N] than `lengths` [B] frames can spell, a scalar."""
    return frames_needed(targets).gt(lengths).sum()


@dataclass(frozen=True)
class Needs:
    """What a data set needs, each [N]: frames for the units, target tokens with `</s>`, and by CTC task the frames for
    its subwords and the encoder frames that there are."""

    units: np.ndarray
    tokens: np.ndarray
    subwords: dict[str, np.ndarray]
    encoder_frames: np.ndarray

    def percent(self, upsample: int) -> float:
        """Of utterances whose units outnumber `upsample` frames a token."""
        return 100 * float(np.mean(self.units > self.tokens * upsample))

    def upsample_for(self, percent: float) -> int:
        """The smallest rate that leaves at most so many percent without an alignment."""
        rates = np.sort(-(-self.units // self.tokens))
        left_out = int(len(rates) * percent / 100)
        return int(rates[len(rates) - 1 - left_out])


def needs_of(dataset, output_lengths, targets_are_units: bool = True) -> Needs:
    """Read from the columns of a manifest and the multitask tables, without opening any features.

    output_lengths: feature frames of 10 ms -> encoder frames; targets_are_units: else units and tokens are left
    empty."""
    tables = {name: table.data for name, table in dataset.multitask_data.items()}
    units = tokens = np.zeros(0, dtype=int)
    if targets_are_units:
        units = np.array([_needed(text.split()) + 1 for text in dataset.tgt_audio_paths])  # and </s>
        tokens = np.array([len(tables["target_unigram"][name].split()) + 1 for name in dataset.ids])
    tasks = [task for task in _SCARCE if task in tables]
    subwords = {task: np.array([_needed(tables[task][name].split()) for name in dataset.ids]) for task in tasks}
    return Needs(units, tokens, subwords, output_lengths(np.array(dataset.n_frames)))


def _needed(symbols: Iterable[str]) -> int:
    symbols = list(symbols)
    return len(symbols) + sum(map(str.__eq__, symbols, symbols[1:]))


def require_alignments(dataset, upsample: int, output_lengths) -> None:
    """Raise ConfigError where over 2 % of a training set have no alignment, and say what would do; log what is less."""
    needs = needs_of(dataset, output_lengths)
    percent, count = needs.percent(upsample), len(needs.units)
    if percent > LIMIT_PERCENT:
        enough, all_ = needs.upsample_for(LIMIT_PERCENT), needs.upsample_for(0)
        raise ConfigError(
            f"--ctc-upsample-rate {upsample}: {percent:.1f} % of the {count:,} training utterances have more units "
            f"than the unit decoder has frames ({upsample} for each target subword), so nothing would be learnt from "
            f"them; --ctc-upsample-rate {enough} leaves {needs.percent(enough):.1f} %, {all_} none"
        )
    _log_shares([f"units {percent:.2f} %", *_shares_of_subwords(needs, count)])


def require_subword_frames(dataset, output_lengths) -> None:
    """As `require_alignments`, for a model without units."""
    needs = needs_of(dataset, output_lengths, targets_are_units=False)
    _log_shares(_shares_of_subwords(needs, len(dataset.ids)))


def _log_shares(said: list[str]) -> None:
    logger.info(f"training utterances with more targets than frames: {', '.join(said)}")


def _shares_of_subwords(needs: Needs, count: int) -> list[str]:
    """What share of `count` utterances has more subwords than frames, in words. Raises ConfigError for over 2 %."""
    said = []
    for task, needed in needs.subwords.items():
        share = 100 * float(np.mean(needed > needs.encoder_frames))
        if share > LIMIT_PERCENT:
            raise ConfigError(
                f"{task}: {share:.1f} % of the {count:,} training utterances have more {_SCARCE[task]} than encoder "
                "frames of 40 ms, so nothing would be learnt from them; are src_n_frames frames of 10 ms, and the "
                "texts those of the recordings? A larger --subwords makes fewer subwords"
            )
        said.append(f"{_SCARCE[task]} {share:.2f} %")
    return said
