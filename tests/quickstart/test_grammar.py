"""The quickstart grammar: reproducible, no leak between splits, one translation a sentence, no rare word."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "grammar.py"


def _load():
    spec = importlib.util.spec_from_file_location("quickstart_grammar", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


grammar = _load()
SIZES = {"train": 1200, "dev": 80, "test": 80}


@pytest.fixture(scope="module")
def corpus():
    return grammar.build_text(*SIZES.values(), seed=1)


def words(text):
    return tuple(grammar.WORD.findall(text.lower()))


def test_same_seed_gives_the_same_corpus_in_another_process():
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import grammar; "
        "print([u.source + u.target for s in grammar.build_text(20, 5, 5, 7).values() for u in s])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, capture_output=True, check=True).stdout
        for h in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_another_seed_gives_another_corpus():
    first, second = (grammar.build_text(30, 0, 0, seed)["train"] for seed in (1, 2))
    assert [u.source for u in first] != [u.source for u in second]


def test_splits_have_the_asked_sizes_and_ids(corpus):
    assert {split: len(us) for split, us in corpus.items()} == SIZES
    assert corpus["train"][0].id == "train_00001" and corpus["test"][-1].id == "test_00080"


def test_no_utterance_twice_in_a_split(corpus):
    for utterances in corpus.values():
        assert len({u.source for u in utterances}) == len(utterances)


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
def test_no_held_out_sentence_is_in_another_split(corpus, side):
    sentences = {s: {words(pair[side]) for u in us for pair in u.sentences} for s, us in corpus.items()}
    assert not sentences["train"] & sentences["dev"]
    assert not sentences["train"] & sentences["test"]
    assert not sentences["dev"] & sentences["test"]


def test_an_utterance_is_its_sentences_joined(corpus):
    for u in corpus["train"]:
        assert u.source == " ".join(s for s, _ in u.sentences) and u.target == " ".join(t for _, t in u.sentences)


def test_utterances_have_one_to_forty_words_sentences_thirty(corpus):
    for utterances in corpus.values():
        for u in utterances:
            assert all(1 <= len(words(text)) <= 40 for text in (u.source, u.target)), u
            assert all(1 <= len(words(text)) <= 30 for pair in u.sentences for text in pair), u
    lengths = [len(words(u.source)) for u in corpus["train"]]
    assert min(lengths) == 1 and max(lengths) > 25 and 6 <= sum(lengths) / len(lengths) <= 9


def test_up_to_four_sentences_in_a_row(corpus):
    counts = [len(u.sentences) for u in corpus["train"]]
    assert set(counts) == {1, 2, 3, 4}
    assert 0.1 < sum(n > 1 for n in counts) / len(counts) < 0.2


def test_one_translation_per_source_sentence(corpus):
    for split in ("dev", "test", "train"):
        for u in corpus[split][:600]:
            for source, target in u.sentences:
                assert grammar.translations(source) == [target]


def test_the_vocabulary_has_the_asked_size(corpus):
    assert 1500 <= len(grammar._vocabulary()) <= 3400
    assert 0 < len(grammar.sentence_symbols()) - 20 < 20  # topics


def test_text_has_no_digits_abbreviations_or_contractions(corpus):
    for u in corpus["train"]:
        for text in (u.source, u.target):
            assert not any(c.isdigit() for c in text)
            assert "'" not in text.replace("o'clock", "").replace("person's", "")


def test_domain_check_ignores_case_punctuation_and_counts_sentences(corpus):
    assert grammar.translate("donde") is None
    assert grammar.translate("DÓNDE ESTÁ LA ESTACIÓN") == "Where is the station?"
    for u in corpus["test"][:60]:
        assert grammar.translate(u.source) == u.target
        assert words(grammar.translate(u.source.lower().strip("¿.?"))) == words(u.target)


@pytest.mark.parametrize(
    "text", ["", "  ", "?!", "El gato canta.", "Where is the station?", "La estación dónde está", "hola " * 200]
)
def test_domain_check_rejects_other_text(text):
    assert grammar.translate(text) is None


def test_nearest_offers_sentences_of_the_domain_with_shared_words():
    near = grammar.nearest("donde esta la farmacia de mi tia")
    assert len(near) == 3 and all(grammar.translate(s) for s in near)
    assert any("farmacia" in s for s in near)
    assert len(grammar.nearest("xyzzy", n=2)) == 2


def test_the_grammar_has_hundreds_of_thousands_of_sentences():
    assert grammar.sentence_count() > 200_000


@pytest.mark.parametrize(
    "line",
    ["<few> camas = beds", "<few> y <few> = <few> and <few>", "{a|b|c} <few.$> = x <few.$>", "<nothing> = <nothing>"],
)
def test_a_faulty_pattern_is_refused_by_name(line):
    patterns = grammar.synchronous.Patterns()
    patterns.rules["few"] = [grammar.synchronous.production("dos = two")]
    with pytest.raises(ValueError, match="sentences"):
        patterns.read(f"S.x:\n  {line}\n")
        patterns.finish()


def test_articles_and_contractions():
    assert grammar.english_surface(["i", "want", "a", "old", "bag", "and", "a", "one", "way", "ticket", "."]) == (
        "I want an old bag and a one way ticket."
    )
    assert grammar.spanish_surface(["voy", "a", "el", "hotel", "de", "el", "aeropuerto", "."]) == (
        "Voy al hotel del aeropuerto."
    )
