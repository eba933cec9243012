"""The policy by tables; no model in sight."""

import pytest

from echostream_plugin.inference.policy import complete_words, target_length, tokens_to_write

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
