"""Words are given to the sentences that OmniSTEval and mweralign give them to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_plugin.evaluation.resegmentation import SegmentationError, mwer_segments, soft_segments

REFERENCES = ["my room is number one", "where is the hospital", "the train leaves at ten"]
VOCABULARY = "the of train trains room rooms is are number ten one a , . ? hospital Where".split()


def test_words_go_to_the_sentences_that_they_are_of():
    assert soft_segments(" ".join(REFERENCES).split(), REFERENCES) == [0] * 5 + [1] * 4 + [2] * 5
    missing = "my room number one the train leaves at ten".split()
    assert soft_segments(missing, REFERENCES) == [0] * 4 + [2] * 5


def test_words_too_many_go_to_the_more_alike_side():
    words = "my room is number one one wherever where is the hospital the train leaves at ten".split()
    assert soft_segments(words, REFERENCES) == [0] * 6 + [1] * 5 + [2] * 5


def test_nothing_is_said_and_nothing_is_known():
    assert soft_segments([], REFERENCES) == []
    with pytest.raises(SegmentationError, match="no words"):
        soft_segments(["a"], ["", " "])


def from_omnisteval(words, references):
    alignment = pytest.importorskip("omnisteval.alignment", reason="needs: pip install omnisteval==0.1.10")
    tokenization = pytest.importorskip("omnisteval.tokenization")
    wanted = [
        alignment.Word(word, seq_id=number) for number, text in enumerate(references) for word in text.lower().split()
    ]
    said = [alignment.Word(word, emission_cu=float(place)) for place, word in enumerate(words)]
    (wanted,), (said,) = (tokenization.tokenize_words([side], None) for side in (wanted, said))
    found = [None] * len(words)
    for word in alignment._process_single_recording((0, wanted, said, False)):
        found[int(word.emission_cu)] = word.seq_id
    return found


texts = st.lists(st.sampled_from(VOCABULARY), max_size=30)


@settings(max_examples=150)
@given(st.lists(texts, min_size=1, max_size=6), texts)
def test_every_word_goes_where_omnisteval_puts_it(references, words):
    references = [" ".join(reference) for reference in references]
    if any(references):
        assert soft_segments(words, references) == from_omnisteval(words, references)


def test_a_long_text_goes_where_omnisteval_puts_it():
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefgh"), size=generator.integers(1, 6))) for _ in range(400)]
    references = [" ".join(words[start : start + 9]) for start in range(0, 400, 9)]
    said = [word for word in words if generator.random() < 0.8 for _ in range(1 + (generator.random() < 0.1))]
    found = soft_segments(said, references)
    assert found == from_omnisteval(said, references) and set(found) == set(range(len(references)))


def test_fewest_errors_is_what_simulstream_cuts_by():
    pytest.importorskip("mweralign", reason="needs: pip install mweralign==1.4.1")
    words = "my room is one where is hospital a train leaves at ten".split()
    assert mwer_segments(words, REFERENCES) == [0] * 4 + [1] * 3 + [2] * 5
    assert mwer_segments([], REFERENCES) == []
