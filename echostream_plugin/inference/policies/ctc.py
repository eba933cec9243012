"""StreamSpeech's policy: the CTC heads say how much there is to write (section 3.2 of arXiv 2406.03049)."""

from dataclasses import dataclass

from echostream_plugin.config import option
from echostream_plugin.inference.policies.base import Policy, PolicyState, register_policy


@dataclass(frozen=True)
class CTCOptions:
    """How far the translation stays behind what the CTC heads found."""

    lagging_k1: int = option(
        0,
        "policy ctc: k1, target tokens that the MT decoder stays behind the CTC translation",
        minimum=0,
        maximum=10_000,
    )
    stride_n: int = option(
        1, "policy ctc: n, CTC tokens by which transcript and translation must both grow between two writes"
    )


@register_policy
class CTCPolicy(Policy):
    """Writes when transcript and CTC translation have both grown, up to k1 tokens behind the CTC translation."""

    name = "ctc"
    Options = CTCOptions
    SAVED = ("asr", "st")

    def __init__(self, options):
        super().__init__(options)
        self.asr = self.st = 0  # counts at the newest write

    def decide(self, state: PolicyState) -> int:
        if not self._has_grown(state):
            return 0
        return self.up_to(target_length(state.st_count, self.options.lagging_k1, self.options.stride_n), state)

    def wrote(self, state: PolicyState) -> None:
        if self._has_grown(state):
            self.asr, self.st = max(state.asr_count, self.asr), max(state.st_count, self.st)

    def _has_grown(self, state: PolicyState) -> bool:
        return has_grown(state.asr_count, state.st_count, self.asr, self.st, self.options.stride_n)


def has_grown(asr_count: int, st_count: int, last_asr: int, last_st: int, stride_n: int) -> bool:
    """Have both CTC prefixes grown by `stride_n` tokens since the last write?"""
    return asr_count >= last_asr + stride_n and st_count >= last_st + stride_n


def target_length(st_count: int, k1: int, stride_n: int) -> int:
    """How many target tokens the CTC translation allows: k1 behind it, in steps of `stride_n`."""
    return max(0, (st_count - k1) // stride_n * stride_n)
