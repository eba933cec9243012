"""Spanish and English inflection, numbers, times, dates and spelling, each by a table."""

from __future__ import annotations

import pytest

from tests.quickstart.quickstart_text import load

conjugation, numerals, notation = load("conjugation"), load("numerals"), load("notation")
spanish, english = conjugation.spanish, conjugation.english


@pytest.mark.parametrize(
    ("lemma", "form", "forms"),
    [
        ("hablar", "pres", "hablo hablas habla hablamos hablan"),
        ("pensar", "pres", "pienso piensas piensa pensamos piensan"),
        ("enviar", "pres", "envío envías envía enviamos envían"),
        ("conocer", "pres", "conozco conoces conoce conocemos conocen"),
        ("recoger", "pres", "recojo recoges recoge recogemos recogen"),
        ("seguir", "pres", "sigo sigues sigue seguimos siguen"),
        ("buscar", "pret", "busqué buscaste buscó buscamos buscaron"),
        ("empezar", "pret", "empecé empezaste empezó empezamos empezaron"),
        ("pedir", "pret", "pedí pediste pidió pedimos pidieron"),
        ("dormir", "pret", "dormí dormiste durmió dormimos durmieron"),
        ("leer", "pret", "leí leíste leyó leímos leyeron"),
        ("decir", "pret", "dije dijiste dijo dijimos dijeron"),
        ("ir", "impf", "iba ibas iba íbamos iban"),
        ("comer", "impf", "comía comías comía comíamos comían"),
        ("tener", "fut", "tendré tendrás tendrá tendremos tendrán"),
        ("querer", "cond", "querría querrías querría querríamos querrían"),
        ("llegar", "sub", "llegue llegues llegue lleguemos lleguen"),
        ("pedir", "sub", "pida pidas pida pidamos pidan"),
        ("dormir", "sub", "duerma duermas duerma durmamos duerman"),
        ("irse", "pres", "me voy|te vas|se va|nos vamos|se van"),
        ("abrir", "perf", "he abierto|has abierto|ha abierto|hemos abierto|han abierto"),
    ],
)
def test_spanish_tenses(lemma, form, forms):
    expected = forms.split("|") if "|" in forms else forms.split()
    assert [spanish(lemma, form, person) for person in ("1s", "2s", "3m", "1p", "3p")] == expected
    assert spanish(lemma, form, "2u") == spanish(lemma, form, "3f") == expected[2]
    assert spanish(lemma, form, "2p") == expected[4]


@pytest.mark.parametrize(
    ("lemma", "form", "person", "expected"),
    [
        ("sentarse", "imp", "2u", "siéntese"),
        ("lavarse", "imp", "2s", "lávate"),
        ("irse", "imp", "2s", "vete"),
        ("ponerse", "imp", "2s", "ponte"),
        ("poner", "imp", "2u", "ponga"),
        ("vestirse", "ger", "3m", "vistiéndose"),
        ("levantarse", "inf", "1p", "levantarnos"),
        ("caer", "ger", "1s", "cayendo"),
        ("leer", "part", "1s", "leído"),
        ("yo", "ind", "2u", "le"),
        ("yo", "refl", "1p", "nos"),
    ],
)
def test_spanish_single_forms(lemma, form, person, expected):
    assert spanish(lemma, form, person) == expected


@pytest.mark.parametrize(
    ("lemma", "third", "past", "participle", "ing"),
    [
        ("carry", "carries", "carried", "carried", "carrying"),
        ("play", "plays", "played", "played", "playing"),
        ("watch", "watches", "watched", "watched", "watching"),
        ("take", "takes", "took", "taken", "taking"),
        ("swim", "swims", "swam", "swum", "swimming"),
        ("have", "has", "had", "had", "having"),
        ("withdraw", "withdraws", "withdrew", "withdrawn", "withdrawing"),
        ("be", "is", "was", "been", "being"),
    ],
)
def test_english_verbs(lemma, third, past, participle, ing):
    assert [english(lemma, form, "3m") for form in ("pres", "past", "pp", "ing")] == [third, past, participle, ing]
    assert english(lemma, "base", "3m") == lemma


def test_adjectives_and_plurals():
    features = conjugation.GENDER_NUMBER
    forms = {word: [conjugation.agree(word, f) for f in features] for word in ("rojo", "joven", "gris")}
    assert forms["rojo"] == ["rojo", "roja", "rojos", "rojas"]
    assert forms["joven"] == ["joven", "joven", "jóvenes", "jóvenes"]
    assert forms["gris"] == ["gris", "gris", "grises", "grises"]
    assert [conjugation.plural(w) for w in ("pez", "ratón", "té", "flor")] == ["peces", "ratones", "tés", "flores"]
    assert [conjugation.english_plural(w) for w in ("box", "baby", "boy", "key")] == ["boxes", "babies", "boys", "keys"]


NUMBERS = [
    (1, "x", "uno", "one"),
    (21, "m", "veintiún", "twenty one"),
    (31, "f", "treinta y una", "thirty one"),
    (100, "m", "cien", "one hundred"),
    (101, "m", "ciento un", "one hundred one"),
    (555, "f", "quinientas cincuenta y cinco", "five hundred fifty five"),
    (1000, "x", "mil", "one thousand"),
    (1001, "f", "mil una", "one thousand one"),
    (2026, "x", "dos mil veintiséis", "two thousand twenty six"),
    (100000, "m", "cien mil", "one hundred thousand"),
    (731002, "m", "setecientos treinta y un mil dos", "seven hundred thirty one thousand two"),
    (521201, "f", "quinientas veintiún mil doscientas una", "five hundred twenty one thousand two hundred one"),
    (990099, "x", "novecientos noventa mil noventa y nueve", "nine hundred ninety thousand ninety nine"),
]


@pytest.mark.parametrize(("number", "kind", "source", "target"), NUMBERS)
def test_numbers_to_a_million_have_one_reading(number, kind, source, target):
    understanding, synchronous, domain = load("understanding"), load("synchronous"), load("domain")
    words = source.split()
    parser = synchronous.Parser(synchronous.FirstWords(domain.grammar()), words)
    readings = {" ".join(t) for n in ("digit", f"num.{kind}") for end, t in parser.parse(n, 0) if end == len(words)}
    assert understanding.source_words(source) == words
    assert readings == {target}


@pytest.mark.parametrize(
    ("year", "source", "target"),
    [
        (1905, "mil novecientos cinco", "nineteen oh five"),
        (1998, "mil novecientos noventa y ocho", "nineteen ninety eight"),
        (2000, "dos mil", "two thousand"),
        (2009, "dos mil nueve", "two thousand nine"),
        (2026, "dos mil veintiséis", "twenty twenty six"),
        (1800, "mil ochocientos", "eighteen hundred"),
    ],
)
def test_years(year, source, target):
    assert (numerals.spanish_year(year), numerals.english_year(year)) == (source, target)


@pytest.mark.parametrize(
    ("number", "target"), [(1, "first"), (12, "twelfth"), (20, "twentieth"), (21, "twenty first"), (33, "thirty third")]
)
def test_english_ordinals(number, target):
    assert numerals.english_ordinal(number) == target


def test_spelling():
    assert numerals.spelling("Muñoz") == ("eme u eñe o zeta", "M U N O Z")
    assert numerals.spelling("Gálvez") == ("ge a ele uve e zeta", "G A L V E Z")
    assert numerals.spelling("Wix Yke") == ("doble uve i equis i griega ka e", "W I X Y K E")


def test_a_line_is_read_for_each_person_and_gender():
    patterns = notation.Patterns()
    patterns.read("S.x:\n  (1s 3f 1p) estar/pres cansado/% de el ruido = I/subj be/pres tired of the noise\n")
    sides = [(" ".join(p.source), " ".join(p.target)) for p in patterns.finish()["S.x"]]
    assert sides == [
        ("estoy cansado de el ruido", "I am tired of the noise"),
        ("estoy cansada de el ruido", "I am tired of the noise"),
        ("está cansada de el ruido", "she is tired of the noise"),
        ("estamos cansados de el ruido", "we are tired of the noise"),
    ]


def test_a_verb_phrase_is_inflected_on_both_sides():
    patterns = notation.Patterns()
    patterns.read(
        "vp act rare:\n  lavarse las manos = wash I/poss hands\n"
        "S.x:\n  (1s 3m) ayer <act.pret.past.@> = <act.pret.past.@>\n  no <rare.imp.base.2u> = x <rare.imp.base.2u>\n"
    )
    rules = patterns.finish()
    assert [p.source for p in rules["act.pret.past.3m"]] == [("se", "lavó", "las", "manos")]
    assert [p.target for p in rules["act.pret.past.3m"]] == [("washed", "his", "hands")]
    assert [p.source for p in rules["rare.imp.base.2u"]] == [("lávese", "las", "manos")]
