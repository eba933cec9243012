"""Numbers, clock times, dates, prices and letters as grammar productions: nonterminal -> list of (Spanish, English).

``num.x`` counts ("uno"), ``num.m`` and ``num.f`` stand before nouns ("veintiún euros", "doscientas personas", from two
on); all of them reach a million by composition, so the parser reads what the sampler never drew.
"""

from __future__ import annotations

import unicodedata

Productions = dict[str, list[tuple[str, str]]]

_ES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
).split()
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
_ES_HUNDREDS = "doscientos trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos".split()
_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_EN_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
_ES_ORDINALS = (
    "primero segundo tercero cuarto quinto sexto séptimo octavo noveno décimo undécimo duodécimo decimotercero "
    "decimocuarto decimoquinto decimosexto decimoséptimo decimoctavo decimonoveno vigésimo"
).split()
_MONTHS = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()
_EN_MONTHS = "January February March April May June July August September October November December".split()
LETTERS = dict(
    a="a", b="be", c="ce", d="de", e="e", f="efe", g="ge", h="hache", i="i", j="jota", k="ka", l="ele", m="eme",
    n="ene", ñ="eñe", o="o", p="pe", q="cu", r="erre", s="ese", t="te", u="u", v="uve", w="doble uve", x="equis",
    y="i griega", z="zeta",
)  # fmt: skip
_FINAL_ONE = {"x": "uno", "m": "un", "f": "una"}


def spanish_below_100(number: int, kind: str = "x") -> str:
    """0 to 99 in words; ``kind`` x counts, m and f stand before a noun."""
    if number >= 30:
        tens, unit = _ES_TENS[number // 10 - 3], number % 10
        return f"{tens} y {spanish_below_100(unit, kind)}" if unit else tens
    if number == 1:
        return _FINAL_ONE[kind]
    if number == 21:
        return {"x": "veintiuno", "m": "veintiún", "f": "veintiuna"}[kind]
    return _ES[number]


def english_below_100(number: int) -> str:
    """0 to 99 in words, without hyphens."""
    if number < 20:
        return _EN[number]
    tens, unit = _EN_TENS[number // 10 - 2], number % 10
    return f"{tens} {_EN[unit]}" if unit else tens


def english_ordinal(number: int) -> str:
    """1 to 99: "twenty first"."""
    if number < 20:
        return _EN_ORDINALS[number]
    tens, unit = _EN_TENS[number // 10 - 2], number % 10
    return f"{tens} {_EN_ORDINALS[unit]}" if unit else tens[:-1] + "ieth"


def spanish_year(year: int) -> str:
    """1000 to 2099 as spoken: "mil novecientos noventa y ocho"."""
    thousands, hundreds, rest = year // 1000, year // 100 % 10, year % 100
    parts = ["mil" if thousands == 1 else "dos mil"]
    if hundreds:
        parts.append("ciento" if hundreds == 1 else _ES_HUNDREDS[hundreds - 2])
    if rest:
        parts.append(spanish_below_100(rest))
    return " ".join(parts)


def english_year(year: int) -> str:
    """1000 to 2099 as spoken: "nineteen oh five", "two thousand nine", "twenty twenty six"."""
    century, rest = year // 100, year % 100
    if 2000 <= year < 2010:
        return "two thousand" + (f" {_EN[rest]}" if rest else "")
    if not rest:
        return f"{english_below_100(century)} hundred"
    return f"{english_below_100(century)} {'oh ' if rest < 10 else ''}{english_below_100(rest)}"


def _cardinals() -> Productions:
    rules: Productions = {
        "digit": [(_ES[n], _EN[n]) for n in range(10)],
        "hundreds.m": [(es, f"{_EN[n]} hundred") for n, es in enumerate(_ES_HUNDREDS, 2)],
        "hundreds.f": [(es[:-2] + "as", f"{_EN[n]} hundred") for n, es in enumerate(_ES_HUNDREDS, 2)],
        "kilo": [(spanish_below_100(n, "m"), english_below_100(n)) for n in range(2, 100)],
    }
    rules["hundreds.x"] = rules["hundreds.m"]
    for kind in "mf":  # "doscientas mil personas", but "veintiún mil personas"
        rules[f"kilos.{kind}"] = [
            ("<kilo>", "<kilo>"), ("cien", "one hundred"), ("ciento <upto99.m>", "one hundred <upto99.m>"),
            (f"<hundreds.{kind}>", f"<hundreds.{kind}>"),
            (f"<hundreds.{kind}> <upto99.m>", f"<hundreds.{kind}> <upto99.m>"),
        ]  # fmt: skip
    rules["kilos.x"] = rules["kilos.m"]
    for kind in "xmf":
        rules[f"upto99.{kind}"] = [(spanish_below_100(n, kind), english_below_100(n)) for n in range(1, 100)]
        rules[f"n99.{kind}"] = rules[f"upto99.{kind}"][kind != "x" :]
        rules[f"n999.{kind}"] = [
            ("cien", "one hundred"), (f"ciento <upto99.{kind}>", f"one hundred <upto99.{kind}>"),
            (f"<hundreds.{kind}>", f"<hundreds.{kind}>"),
            (f"<hundreds.{kind}> <upto99.{kind}>", f"<hundreds.{kind}> <upto99.{kind}>"),
        ]  # fmt: skip
        rest, many = f"<rest.{kind}>", f"<kilos.{kind}>"
        rules[f"rest.{kind}"] = [(f"<{n}.{kind}>", f"<{n}.{kind}>") for n in ("upto99", "n999")]
        rules[f"n999999.{kind}"] = [
            ("mil", "one thousand"), (f"mil {rest}", f"one thousand {rest}"),
            (f"{many} mil", f"{many} thousand"), (f"{many} mil {rest}", f"{many} thousand {rest}"),
        ]  # fmt: skip
        rules[f"num.{kind}"] = [(f"<{n}.{kind}>", f"<{n}.{kind}>") for n in ("n99", "n99", "n999", "n999999")]
    return rules


def _digits() -> Productions:
    """Sequences of digits and of letters, ``digits2`` to ``digits10`` and ``letters2`` to ``letters5``."""
    rules: Productions = {"digits1": [("<digit>", "<digit>")], "letters1": [("<letter>", "<letter>")]}
    rules["letter"] = [(name, letter.upper().replace("Ñ", "N")) for letter, name in LETTERS.items() if letter != "ñ"]
    for kind, most in (("digit", 10), ("letter", 5)):
        for n in range(2, most + 1):
            rest = f"<{kind}> <{kind}s{n - 1}>"
            rules[f"{kind}s{n}"] = [(rest, rest)]
    return rules


def _clock() -> Productions:
    def minutes(n: int) -> tuple[str, str]:
        return f"y {spanish_below_100(n)}", ("oh " if n < 10 else "") + english_below_100(n)

    hours = [(f"las {_ES[n]}", _EN[n]) for n in range(2, 13)]
    rules: Productions = {
        "oclock": [("la una", "one"), *hours],
        "hour": [(_ES[n], _EN[n]) for n in range(2, 13)],
        "minutes_past": [minutes(n) for n in range(1, 60) if n not in (15, 30)],
        "minutes_to": [("cuarto", "a quarter"), *((_ES[n], english_below_100(n)) for n in (5, 10, 20, 25))],
        "oclock.morning": hours[3:10],
        "oclock.afternoon": [("la una", "one"), *hours[:6]],
        "oclock.night": hours[6:10],
    }
    for name in ("oclock", "oclock.morning", "oclock.afternoon", "oclock.night"):
        rules[name.replace("oclock", "clocks")] = [
            (f"<{name}>", f"<{name}> o'clock"), (f"<{name}> y media", f"half past <{name}>"),
            (f"<{name}> y cuarto", f"a quarter past <{name}>"),
            (f"<{name}> menos <minutes_to>", f"<minutes_to> to <{name}>"),
            (f"<{name}> <minutes_past>", f"<{name}> <minutes_past>"),
        ]  # fmt: skip
    parts = {"morning": ("mañana", "in the morning"), "afternoon": ("tarde", "in the afternoon"),
             "night": ("noche", "at night")}  # fmt: skip
    rules["clock.part"] = [(f"<clocks.{n}> de la {es}", f"<clocks.{n}> {en}") for n, (es, en) in parts.items()]
    rules["clock"] = [*[("<clocks>", "<clocks>")] * 3, ("<clock.part>", "<clock.part>")]
    return rules


def _dates() -> Productions:
    days = [("primero", "first"), *((spanish_below_100(n), english_ordinal(n)) for n in range(2, 32))]
    rules: Productions = {
        "month": list(zip(_MONTHS, _EN_MONTHS, strict=True)),
        "month_day": days,
        "year": [(spanish_year(y), english_year(y)) for y in range(1940, 2041)],
        "past_year": [(spanish_year(y), english_year(y)) for y in range(1940, 2021)],
        "old_year": [(spanish_year(y), english_year(y)) for y in range(1501, 1940)],
        "date": [("el <month_day> de <month>", "<month> <month_day>")],
    }
    rules["full_date"] = [("<date> de <year>", "<date> , <year>")]
    return rules


def _ordinals() -> Productions:
    rules: Productions = {}
    for n, word in enumerate(_ES_ORDINALS[:10], 1):
        english = english_ordinal(n)
        rules.setdefault("nth.ms", []).append(({1: "primer", 3: "tercer"}.get(n, word), english))
        rules.setdefault("nth.fs", []).append((word[:-1] + "a", english))
    rules["nth_alone"] = [(word, english_ordinal(n)) for n, word in enumerate(_ES_ORDINALS, 1)]
    rules["nth_high"] = [(word, english_ordinal(n)) for n, word in enumerate(_ES_ORDINALS, 1) if n not in (1, 3)]
    high = "vigésimo trigésimo cuadragésimo quincuagésimo sexagésimo septuagésimo octogésimo nonagésimo".split()
    for name in ("nth_alone", "nth_high"):
        rules[name] += [(word, english_ordinal(10 * n)) for n, word in enumerate(high[1:], 3)]
        rules[name] += [("centésimo", "hundredth"), ("milésimo", "thousandth"), ("millonésimo", "millionth")]
    rules["nth_last"] = [(word, english_ordinal(n)) for n, word in enumerate(_ES_ORDINALS[:4], 1)]
    return rules


def without_accents(text: str) -> str:
    """``text`` in plain letters; ñ loses its tilde too."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def spelling(name: str) -> tuple[str, str]:
    """A name letter by letter: the Spanish names of its letters, and the English letters; accents are not spelled."""
    plain = without_accents(name.lower().replace("ñ", "\0")).replace("\0", "ñ")
    letters = [c for c in plain if c in LETTERS]
    return " ".join(LETTERS[c] for c in letters), " ".join(c.upper().replace("Ñ", "N") for c in letters)


def productions() -> Productions:
    """All of them."""
    return {**_cardinals(), **_digits(), **_clock(), **_dates(), **_ordinals()}
