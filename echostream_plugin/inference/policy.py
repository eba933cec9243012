"""StreamSpeech's read/write policy as arithmetic over counts (section 3.2 of arXiv 2406.03049).

Counts are tokens after CTC collapse: `asr_count` of the source transcript, `st_count` of the CTC translation, both over
all the source read so far; `written` is how many target tokens were committed.
"""


def has_grown(asr_count: int, st_count: int, last_asr: int, last_st: int, stride_n: int) -> bool:
    """Have both CTC prefixes grown by `stride_n` tokens since the last write?"""
    return asr_count >= last_asr + stride_n and st_count >= last_st + stride_n


def target_length(st_count: int, k1: int, stride_n: int) -> int:
    """How many target tokens the CTC translation allows: k1 behind it, in steps of `stride_n`."""
    return max(0, (st_count - k1) // stride_n * stride_n)


def tokens_to_write(
    asr_count: int,
    st_count: int,
    last_asr: int,
    last_st: int,
    written: int,
    k1: int = 0,
    stride_n: int = 1,
    whole_word: bool = False,
) -> int:
    """Tokens that the MT decoder may add now; 0 is READ.

    With `whole_word` one token more is asked for, the one that shows that the word before it is complete
    (`complete_words` then takes it away again)."""
    if not has_grown(asr_count, st_count, last_asr, last_st, stride_n):
        return 0
    return max(0, target_length(st_count, k1, stride_n) + int(whole_word) - written)


def complete_words(starts_word: list) -> int:
    """How many of the new tokens belong to complete words: those before the last token that starts a word.

    starts_word: one bool for each new token."""
    for position in range(len(starts_word) - 1, -1, -1):
        if starts_word[position]:
            return position
    return 0


def sentence_ends(silent_frames: int, open_frames: int, pause_frames: int, longest_frames: int) -> bool:
    """Is a sentence of a long stream over?

    silent_frames: since a CTC head last found a token, or since the sentence opened where none did; open_frames: since
    it opened; pause_frames: the pause that ends a sentence, 0 for never; longest_frames: the most it may last."""
    return pause_frames > 0 and (silent_frames >= pause_frames or open_frames >= longest_frames)
