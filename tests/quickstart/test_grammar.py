"""The quickstart grammar: reproducible, no leak between splits, one translation a sentence, no rare word."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys

import pytest

from tests.quickstart.quickstart_text import FOLDER, load

conjugation, domain, grammar, lexicon = (load(name) for name in ("conjugation", "domain", "grammar", "lexicon"))
notation, synchronous, text_report = (load(name) for name in ("notation", "synchronous", "text_report"))
DETERMINERS = ("el la los las", "un una unos unas", "este esta estos estas", "mucho mucha muchos muchas")
SIZES = {"train": 3000, "dev": 80, "test": 80}


@pytest.fixture(scope="module")
def corpus():
    return grammar.build_text(*SIZES.values(), seed=1)


def words(text):
    return tuple(synchronous.WORD.findall(text.lower()))


def test_same_seed_gives_the_same_corpus_in_another_process():
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import grammar; "
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
    assert min(lengths) == 1 and max(lengths) > 25 and 8 <= sum(lengths) / len(lengths) <= 11


def test_up_to_four_sentences_in_a_row(corpus):
    counts = [len(u.sentences) for u in corpus["train"]]
    assert set(counts) == {1, 2, 3, 4}
    assert 0.1 < sum(n > 1 for n in counts) / len(counts) < 0.2


def test_one_translation_per_source_sentence(corpus):
    for split in ("dev", "test", "train"):
        for u in corpus[split][:600]:
            for source, target in u.sentences:
                assert grammar.translations(source) == [target]


def sentences(number, seed=3):
    """Random sentences of all topics, as tokens and as written."""
    sampler = synchronous.Sampler(domain.word_index(), random.Random(seed))
    symbols = domain.sentence_symbols()
    for n in range(number):
        source, target = sampler.draw(symbols[n % len(symbols)])
        yield source, target, grammar.spanish_surface(source), grammar.english_surface(target)


def test_articles_and_colours_agree_with_the_nouns_of_the_lexicon():
    nouns, colours = {}, {}
    for name, features, form, _ in lexicon.entries():
        if features and " " not in form:
            (colours if name == "colour" else nouns).setdefault(form, set()).add(features)
    nouns["policía"].add("fs")  # the police, beside the police officer
    agreement = {f: {d.split()[i] for d in DETERMINERS} for i, f in enumerate(("ms", "fs", "mp", "fp"))}
    determiners = set().union(*agreement.values())
    checked = 0
    for source, _, written, _ in sentences(5000):
        for first, second, third in zip(source, source[1:], [*source[2:], ""], strict=False):
            number = first in ("un", "una") and second.endswith("s")  # "sesenta y un libros"
            if first in determiners and second in nouns and not number:
                assert any(first in agreement[f] for f in nouns[second]), written
                if third in colours:
                    assert any(first in agreement[f] for f in nouns[second] & colours[third]), written
                checked += 1
    assert checked > 2000


def test_contractions_doubled_words_and_english_articles():
    wrong_spanish = re.compile(r"\b(?:a|de) el\b|\b(el|la|de|que|a|y|en) \1\b", re.IGNORECASE)
    wrong_article = r"\ba (?!one|euro|uni|use)[aeiou]|\ban (?!hour)[^aeiouAEIOX]"
    wrong_english = re.compile(wrong_article + r"|\b(the|a|to|of|is|and|in) \1\b")
    for _, _, spanish, english in sentences(5000, seed=4):
        assert not wrong_spanish.search(spanish), spanish
        assert not wrong_english.search(english), english


def test_english_subjects_and_verbs_agree():
    bare = {p.target[0] for name, items in domain.grammar().items() if ".inf.base." in name for p in items if p.target}
    bare = {verb for verb in bare if conjugation.english(verb, "past", "3m") != verb} - {"<boss>"}
    third = {conjugation.english(verb, "pres", "3m") for verb in bare}
    wrong = re.compile(
        r"\b(?:I|we|they) (?:is|has|does)\b|\b(?:we|they) am\b|\b(?:he|she|it) (?:are|am|have|do)\b"
        rf"|^(?:I|We|You|They) (?:{'|'.join(sorted(third))})\b|^(?:He|She) (?:{'|'.join(sorted(bare))})\b"
    )
    for _, _, _, english in sentences(5000, seed=5):
        assert not wrong.search(english), english


def test_vocabulary_and_topics():
    words = {side: sum((word[0] == "=") == side for word in domain.vocabulary()) for side in (False, True)}
    assert 1500 <= words[False] <= 3200 and 1200 <= words[True] <= 2500
    assert len(domain.sentence_symbols()) >= 25


def test_the_words_are_balanced(corpus):
    """3000 utterances hold nearly all words; in the 20,000 of the recipe nearly all are seen 12 times or more."""
    for counts, side in zip(grammar.word_frequencies(corpus["train"]), (False, True), strict=True):
        known = {word.lstrip("=").lower() for word in domain.vocabulary() if (word[0] == "=") == side}
        assert sum(word in counts for word in known) > 0.95 * len(known)


def test_held_out_sentences_keep_to_known_words(corpus):
    sampler = load("utterances").SplitSampler("test", 1, known=domain.vocabulary() - {"=the"})
    assert not any("the" in words(sampler.utterance(n).target) for n in range(1, 40))
    known = {word for u in corpus["train"] for word in words(u.source)}
    assert not {word for split in ("dev", "test") for u in corpus[split] for word in words(u.source)} - known


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
    patterns = notation.Patterns()
    patterns.rules["few"] = [notation.production("dos = two")]
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


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        ("ana y isabel", "Ana e Isabel"),
        ("agua y hielo", "Agua y hielo"),
        ("siete o ocho", "Siete u ocho"),
        ("es be o ocho", "Es be o ocho"),
        ("entre pe e y i griega", "Entre pe e y i griega"),
    ],
)
def test_conjunctions_before_their_own_sound(tokens, written):
    assert grammar.spanish_surface(tokens.split()) == written
    assert load("understanding").source_words(written) == tokens.split()


def test_the_sentences_of_the_bundled_recordings_are_of_the_domain():
    rows = json.loads((FOLDER / "bundle" / "samples" / "samples.json").read_text(encoding="utf-8"))
    synthetic = [row for row in rows if "voice" not in row or row["voice"] != "human"]
    assert all(words(grammar.translate(row["source"])) == words(row["target"]) for row in synthetic)


def test_coverage_counts_running_words_by_split(tmp_path):
    prompts = tmp_path / "prompts.txt"
    names = [f"vm-{n}" for n in range(20)]
    lines = [f"{name}: Presione uno. Xyzzy [tono]" for name in names]
    prompts.write_text("\n".join(["; none", *lines]) + "\n", encoding="utf-8")
    tests = sum(text_report.is_test_prompt(name) for name in names)
    train = 20 - tests
    assert text_report.coverage(prompts) == {"train": (2 * train, 3 * train), "test": (2 * tests, 3 * tests)}
    assert 0 < tests < 20
