"""The policies by tables; no model in sight."""

import pytest

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.policies import POLICIES, PolicyState
from echostream_plugin.inference.policies.base import complete_words
from echostream_plugin.inference.policies.ctc import target_length


def policy(**options):
    return POLICIES[options["policy"]](SessionOptions(**options))


def tokens_to_write(asr, st, last_asr, last_st, written, k1=0, n=1, whole_word=False):
    """What the CTC policy says, whose newest write was at last_asr and last_st tokens of the two heads."""
    ctc = policy(policy="ctc", lagging_k1=k1, stride_n=n, whole_word=whole_word)
    ctc.asr, ctc.st = last_asr, last_st
    return ctc.decide(PolicyState(asr, st, written, frames=8))


TABLE = [
    # asr, st, last_asr, last_st, written, k1, n, whole_word, tokens
    (0, 0, 0, 0, 0, 0, 1, False, 0),
    (1, 1, 0, 0, 0, 0, 1, False, 1),
    (3, 1, 0, 0, 0, 0, 1, False, 1),
    (3, 5, 0, 0, 0, 0, 1, False, 5),
    (3, 0, 0, 0, 0, 0, 1, False, 0),  # the translation did not grow
    (0, 3, 0, 0, 0, 0, 1, False, 0),  # the transcript did not grow
    (4, 5, 4, 4, 4, 0, 1, False, 0),  # no new source token
    (5, 5, 4, 4, 4, 0, 1, False, 1),
    (5, 7, 4, 4, 5, 0, 1, False, 2),
    (5, 5, 4, 4, 6, 0, 1, False, 0),  # the MT decoder is ahead already
    (3, 3, 0, 0, 0, 3, 1, False, 0),  # k1 = 3 waits for a fourth
    (4, 4, 0, 0, 0, 3, 1, False, 1),
    (2, 1, 0, 0, 0, 3, 1, False, 0),  # never below zero
    (2, 2, 0, 0, 0, 0, 3, False, 0),  # stride 3
    (3, 3, 0, 0, 0, 0, 3, False, 3),
    (3, 5, 0, 0, 0, 0, 3, False, 3),
    (9, 7, 3, 3, 3, 1, 3, False, 3),
    (9, 7, 7, 3, 3, 1, 3, False, 0),  # the transcript grew by two only
    (1, 1, 0, 0, 0, 0, 1, True, 2),
    (5, 5, 4, 4, 4, 0, 1, True, 2),
    (5, 5, 4, 4, 6, 0, 1, True, 0),
]


@pytest.mark.parametrize("asr, st, last_asr, last_st, written, k1, n, whole_word, tokens", TABLE)
def test_tokens_to_write(asr, st, last_asr, last_st, written, k1, n, whole_word, tokens):
    assert tokens_to_write(asr, st, last_asr, last_st, written, k1, n, whole_word) == tokens


@pytest.mark.parametrize("st, k1, n, tokens", [(7, 0, 1, 7), (7, 2, 1, 5), (7, 0, 3, 6), (7, 2, 3, 3), (1, 5, 2, 0)])
def test_target_length(st, k1, n, tokens):
    assert target_length(st, k1, n) == tokens


@pytest.mark.parametrize(
    "starts, kept",
    [([], 0), ([True], 0), ([True, True], 1), ([True, False], 0), ([True, False, True, False], 2), ([False, False], 0)],
)
def test_complete_words_end_before_the_last_start(starts, kept):
    assert complete_words(starts) == kept


def test_more_source_never_lets_fewer_tokens_through():
    for count in range(12):
        allowed = [tokens_to_write(count, count, 0, 0, 0, 1, 2), tokens_to_write(count + 1, count + 1, 0, 0, 0, 1, 2)]
        assert allowed[0] <= allowed[1]


def test_the_ctc_policy_remembers_its_newest_write():
    ctc, look = policy(policy="ctc", stride_n=2), PolicyState(3, 4, 0, frames=8)
    assert ctc.decide(look) == ctc.decide(look) == 4  # asking changes nothing
    ctc.wrote(look)
    assert ctc.decide(PolicyState(4, 9, 4, frames=16)) == 0  # the transcript grew by one
    ctc.wrote(PolicyState(4, 9, 4, frames=16))  # a try that the counts did not allow
    assert (ctc.asr, ctc.st) == (3, 4) and ctc.decide(PolicyState(5, 6, 4, frames=24)) == 2


@pytest.mark.parametrize(
    "k, each, whole_word, frames, written, tokens",
    [
        (3, 1, False, 23, 0, 0),
        (3, 1, False, 24, 0, 1),  # the third segment of 8 frames is complete
        (3, 1, False, 31, 1, 0),
        (3, 1, False, 32, 1, 1),
        (1, 2, False, 40, 3, 7),
        (3, 1, True, 16, 0, 0),
        (3, 1, True, 24, 0, 2),  # one more shows that the word is complete
        (3, 1, False, 24, 5, 0),
    ],
)
def test_wait_k(k, each, whole_word, frames, written, tokens):
    options = {"chunk_ms": 320, "wait_segments": k, "tokens_per_segment": each, "whole_word": whole_word}
    assert policy(policy="wait-k", **options).decide(PolicyState(9, 9, written, frames)) == tokens


@pytest.mark.parametrize("rate, frames, written, tokens", [(3, 8, 0, 0), (3, 9, 0, 1), (2.5, 50, 1, 4), (0, 99, 0, 0)])
def test_fixed_rate(rate, frames, written, tokens):
    assert policy(policy="fixed-rate", tokens_per_second=rate).decide(PolicyState(0, 0, written, frames)) == tokens


def test_offline_reads_on():
    offline = policy(policy="offline", max_tokens=7)
    assert offline.decide(PolicyState(50, 50, 0, 500)) == 0
    assert offline.rest(PolicyState(50, 50, 0, 500, ended=True)) == 7


def test_an_unknown_policy_is_named():
    with pytest.raises(ConfigError, match="policy 'wait': use ctc or fixed-rate or offline or wait-k"):
        SessionOptions(policy="wait")
    with pytest.raises(ConfigError, match="wait_segments must be at least 1"):
        SessionOptions(policy="wait-k", wait_segments=0)
