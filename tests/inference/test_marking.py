"""Texts with marks: they only grow, each word comes with its mark, and where one stops nothing follows."""

import pytest

from echostream_plugin.inference.marking import MarkedText, marked, with_opening_marks
from tests.punctuation.fixed import FixedStream

WORDS = "hola me llamo ana qué tal estoy bien".split()
MARKS = {"hola": ",", "ana": ".", "tal": "?"}


def texts(sizes, delay=2, **options):
    """What a text is after each piece of WORDS, and closed."""
    found, said, place = MarkedText(FixedStream(MARKS, delay), **options), [], 0
    for size in sizes:
        place += size
        found.read(WORDS[:place])
        said.append(found.text)
    found.read(WORDS, closed=True)
    return found, [*said, found.text]


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 5], [8], [2, 2, 0, 4]])
def test_a_text_only_grows_and_is_the_same_for_any_cutting(sizes):
    found, said = texts(sizes)
    assert said[-1] == "Hola, me llamo ana. Qué tal? Estoy bien." and found.ended
    for before, after in zip(said, said[1:], strict=False):
        assert after.startswith(before) and (not before or after[len(before) : len(before) + 1] in ("", " "))


def test_a_word_comes_with_its_mark_when_the_delay_is_over():
    assert texts([1] * 8)[1][:5] == ["", "", "Hola,", "Hola, me", "Hola, me llamo"]
    assert texts([1] * 8, delay=0)[1][:2] == ["Hola,", "Hola, me"]


def test_without_marks_the_words_come_as_they_were():
    found = MarkedText(FixedStream(MARKS, 0), marks=False)
    found.read(["Hola!", "ANA"])
    assert found.text == "Hola! ANA" and found.ended


@pytest.mark.parametrize(
    "written, printed",
    [
        ("cuesta 3.50 a las 10:30", "Cuesta 3.50 a las 10:30."),
        ("it's nine o'clock", "It's nine o'clock."),
        ("the ex-king, (of) «Spain»!", "The ex-king of Spain."),
        ("¿y Ana?", "Y Ana."),
        ("-2 grados al 50 % o 50%", "-2 grados al 50 % o 50%."),
        ("5€ – gracias", "5€ – gracias."),
        ("rock'n'roll' 'tis", "Rock'n'roll tis."),
    ],
)
def test_words_are_printed_as_they_were_written_but_for_marks_around_them(written, printed):
    assert marked(FixedStream({}, 2), written) == printed


def test_where_it_stops_nothing_is_added():
    found, said = texts([8], stops=True)
    assert said == ["Hola, me llamo ana."] * 2 and found.ended
    found, _ = texts([3], stops=True)  # the end is known only when the text is closed
    assert found.text == "Hola, me llamo ana."


def test_a_peek_changes_nothing_and_sees_words_that_may_go_on():
    found = MarkedText(FixedStream(MARKS, 2))
    found.read(WORDS[:3])
    assert found.may_end(WORDS[:4], 0.9) and not found.may_end(WORDS[:3], 0.9) and not found.may_end(WORDS[:5], 0.9)
    found.read(WORDS[:5])
    assert found.text == "Hola, me llamo"
    assert marked(FixedStream(MARKS, 4), " ".join(WORDS)) == "Hola, me llamo ana. Qué tal? Estoy bien."


@pytest.mark.parametrize(
    "text, opened",
    [
        ("Dónde está la plaza?", "¿Dónde está la plaza?"),
        ("Hola. Qué tal? Estoy bien.", "Hola. ¿Qué tal? Estoy bien."),
        ("Puede volver a Bogotá, por favor?", "¿Puede volver a Bogotá, por favor?"),
        ("Por favor, dónde está el banco?", "Por favor, ¿dónde está el banco?"),
        ("Perdón, a qué hora sale, por la mañana?", "Perdón, ¿a qué hora sale, por la mañana?"),
        ("Cuando llueve, vienes?", "¿Cuando llueve, vienes?"),
        ("Qué?", "¿Qué?"),
        ("¿Qué tal? Bien?", "¿Qué tal? ¿Bien?"),
        ("Perdón, ¿y usted?", "Perdón, ¿y usted?"),
        ("Es tarde.", "Es tarde."),
        ("", ""),
    ],
)
def test_a_question_is_opened_where_it_begins(text, opened):
    assert with_opening_marks(text, "es") == opened == with_opening_marks(opened, "es-MX")
    assert with_opening_marks(text, "en") == text
