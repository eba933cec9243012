"""Inflection: Spanish verbs, adjectives and pronouns, English verbs; what is irregular stands in text/verbs.txt.

A *person* is one of ``PERSONS``: 2u is usted, 2p ustedes (both with the verb of the third person), 3m and 3f differ in
English pronouns only. Forms are asked for by name: ``spanish("querer", "pres", "1p")`` is "queremos".
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

PERSONS = ("1s", "2s", "2u", "3m", "3f", "1p", "2p", "3p")
GENDER_NUMBER = ("ms", "fs", "mp", "fp")
VERBS = Path(__file__).resolve().parent / "text" / "verbs.txt"

_SLOT = {"1s": 0, "2s": 1, "2u": 2, "3m": 2, "3f": 2, "1p": 3, "2p": 4, "3p": 4}
_PRESENT = {"a": "o as a amos an", "e": "o es e emos en", "i": "o es e imos en"}
_SUBJUNCTIVE = {"a": "e es e emos en", "e": "a as a amos an", "i": "a as a amos an"}
_IMPERFECT = {"a": "aba abas aba ábamos aban", "e": "ía ías ía íamos ían", "i": "ía ías ía íamos ían"}
_PRETERITE = {"a": "é aste ó amos aron", "e": "í iste ió imos ieron", "i": "í iste ió imos ieron"}
_STEM_VOWELS = {"ie": "e ie", "ue": "o ue", "i": "e i", "ué": "u ue", "í": "i í", "ú": "u ú"}
_HAVE = "he has ha hemos han".split()

# by slot of the person: yo, tú, usted, él, ella, nosotros, ustedes, ellos
_SPANISH_PRONOUNS = {
    "refl": "me te se se se nos se se",
    "ind": "me te le le le nos les les",
    "poss": "mi tu su su su nuestro su su",
    "prep": "mí ti usted él ella nosotros ustedes ellos",
}
_ENGLISH_PRONOUNS = {
    "subj": "I you you he she we you they",
    "obj": "me you you him her us you them",
    "poss": "my your your his her our your their",
}
_DETERMINERS = {
    "el": "el la los las",
    "un": "un una unos unas",
    "este": "este esta estos estas",
    "ese": "ese esa esos esas",
    "lo": "lo la los las",
    "mi": "mi mi mis mis",
    "tu": "tu tu tus tus",
    "su": "su su sus sus",
    "cuánto": "cuánto cuánta cuántos cuántas",
    "buen": "buen buena buenos buenas",
    "algún": "algún alguna algunos algunas",
    "ningún": "ningún ninguna - -",
    "español": "español española españoles españolas",
    "inglés": "inglés inglesa ingleses inglesas",
    "francés": "francés francesa franceses francesas",
    "alemán": "alemán alemana alemanes alemanas",
    "mayor": "mayor mayor mayores mayores",
    "joven": "joven joven jóvenes jóvenes",
    "marrón": "marrón marrón marrones marrones",
    "gris": "gris gris grises grises",
}
_ENGLISH_NUMBER = {"a": ("a", ""), "this": ("this", "these"), "that": ("that", "those"), "it": ("it", "them"),
                   "they": ("it", "they"), "one": ("one", "ones")}  # fmt: skip


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """text/verbs.txt: Spanish lemma -> its irregular parts, English lemma -> past, participle, -ing."""
    spanish_table: dict[str, dict[str, str]] = {}
    english_table: dict[str, list[str]] = {}
    language = ""
    for line in VERBS.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.endswith(":"):
            language = line[:-1]
        elif line and language == "spanish":
            lemma, *parts = line.split()
            spanish_table[lemma] = dict(part.split("=") if "=" in part else ("stem", part) for part in parts)
        elif line:
            lemma, *forms = line.split()
            english_table[lemma] = forms
    return spanish_table, english_table


def slot_person(features: str) -> str:
    """The person of a noun with gender and number ``features``: 3m or 3p."""
    return "3p" if features.endswith("p") else "3m"


# --- Spanish ------------------------------------------------------------------------------------------------


def _soften(stem: str, ending: str, vowel: str) -> str:
    """Keep the sound of the stem's last consonant before another vowel: busqué, llegué, empecé; recojo, sigo."""
    if vowel == "a" and ending[0] in "eé":
        for written, kept in (("gu", "gü"), ("c", "qu"), ("g", "gu"), ("z", "c")):
            if stem.endswith(written):
                return stem[: -len(written)] + kept
    if vowel != "a" and ending[0] in "oa":
        for written, kept in (("gu", "g"), ("g", "j")):
            if stem.endswith(written):
                return stem[: -len(written)] + kept
    return stem


def _changed(stem: str, irregular: dict[str, str]) -> str:
    """The stem with its stressed vowel: pens -> piens."""
    if "stem" not in irregular or irregular["stem"] not in _STEM_VOWELS:
        return stem
    old, new = _STEM_VOWELS[irregular["stem"]].split()
    head, _, tail = stem.rpartition(old)
    return head + new + tail


def _weak(stem: str, irregular: dict[str, str]) -> str:
    """The stem of -ir verbs in the third persons of the preterite and the gerund: durm, pid, sint."""
    vowel = {"ue": ("o", "u"), "ie": ("e", "i"), "i": ("e", "i")}.get(irregular.get("stem", ""))
    if vowel is None:
        return stem
    head, _, tail = stem.rpartition(vowel[0])
    return head + vowel[1] + tail


def _first_present(stem: str, vowel: str, irregular: dict[str, str]) -> str:
    if "yo" in irregular:
        return irregular["yo"]
    if irregular.get("stem") == "zc":
        return stem[:-1] + "zco"
    if irregular.get("stem") == "y":
        return stem + "yo"
    return _soften(_changed(stem, irregular), "o", vowel) + "o"


def _present(stem: str, vowel: str, irregular: dict[str, str], slot: int) -> str:
    if slot == 0:
        return _first_present(stem, vowel, irregular)
    ending = _PRESENT[vowel].split()[slot]
    if irregular.get("stem") == "y" and slot != 3:
        return stem + "y" + ending
    return (stem if slot == 3 else _changed(stem, irregular)) + ending


def _preterite(stem: str, vowel: str, irregular: dict[str, str], slot: int) -> str:
    if "strong" in irregular:
        ending = "e iste o imos ieron".split()[slot]
        strong = irregular["strong"]
        return strong + (ending[1:] if strong.endswith("j") and slot == 4 else ending)
    ending = _PRETERITE[vowel].split()[slot]
    if vowel == "i" and slot in (2, 4):
        stem = _weak(stem, irregular)
    if vowel != "a" and stem[-1] in "aeou" and not stem.endswith(("gu", "qu")):
        between = {2: "yó", 4: "yeron"}
        ending = between.get(slot, ending if irregular.get("stem") == "y" else ending.replace("i", "í", 1))
    return _soften(stem, ending, vowel) + ending


def _subjunctive(stem: str, vowel: str, irregular: dict[str, str], slot: int) -> str:
    ending = _SUBJUNCTIVE[vowel].split()[slot]
    if vowel == "a":
        return _soften(stem if slot == 3 else _changed(stem, irregular), ending, vowel) + ending
    first = _first_present(stem, vowel, irregular)[:-1]
    if slot == 3 and irregular.get("stem") in ("ie", "ue") and "yo" not in irregular:
        first = _soften(_weak(stem, irregular) if vowel == "i" else stem, ending, vowel)
    return first + ending


def _gerund(stem: str, vowel: str, irregular: dict[str, str]) -> str:
    if vowel == "a":
        return stem + "ando"
    if vowel == "i":
        stem = _weak(stem, irregular)
    return stem + ("yendo" if stem[-1] in "aeou" and not stem.endswith("gu") else "iendo")


def _participle(stem: str, vowel: str) -> str:
    return stem + ("ado" if vowel == "a" else "ído" if stem[-1:] in ("a", "e", "o") else "ido")


def _simple(lemma: str, form: str, slot: int) -> str:
    irregular = _tables()[0].get(lemma, {})
    if form in irregular:
        forms = irregular[form].split(",")
        ending = _SUBJUNCTIVE["e"].split()[slot] if form == "sub" else ""
        return forms[slot] if len(forms) == 5 else forms[0] + ending
    stem, vowel = lemma[:-2], {"í": "i"}.get(lemma[-2], lemma[-2])
    if form == "inf":
        return lemma
    if form == "pres":
        return _present(stem, vowel, irregular, slot)
    if form == "pret":
        return _preterite(stem, vowel, irregular, slot)
    if form == "impf":
        return stem + _IMPERFECT[vowel].split()[slot]
    if form in ("fut", "cond"):
        ending = ("é ás á emos án" if form == "fut" else "ía ías ía íamos ían").split()[slot]
        return irregular.get("will", lemma.replace("í", "i")) + ending
    if form == "sub":
        return _subjunctive(stem, vowel, irregular, slot)
    if form == "ger":
        return _gerund(stem, vowel, irregular)
    if form == "part":
        return _participle(stem, vowel)
    raise ValueError(f"{lemma}/{form}: no such Spanish form")


_NUCLEUS = re.compile(r"[iu]?[aeo][iu]?|[iu]+")
_ACCENTS = dict(zip("aeiou", "áéíóú", strict=True))


def _with_clitic(form: str, clitic: str) -> str:
    """Append an unstressed pronoun; the stress stays where it was: lava, lávate."""
    nuclei = list(_NUCLEUS.finditer(re.sub("(?<=[gq])u(?=[ei])", "-", form)))
    if len(nuclei) < 2 or any(c in "áéíóú" for c in form) or form[-1] == "r":
        return form + clitic
    nucleus = nuclei[-2]
    at = nucleus.start() + next((i for i, c in enumerate(nucleus.group()) if c in "aeo"), len(nucleus.group()) - 1)
    return form[:at] + _ACCENTS[form[at]] + form[at + 1 :] + clitic


def spanish(lemma: str, form: str, person: str) -> str:
    """A form of a verb, or of the pronoun ``yo``; raises ValueError for an unknown form."""
    if lemma == "yo":
        return _SPANISH_PRONOUNS[form].split()[PERSONS.index(person)]
    slot = _SLOT[person]
    clitic = ""
    if lemma.endswith("se") and len(lemma) > 3:
        lemma, clitic = lemma[:-2], _SPANISH_PRONOUNS["refl"].split()[PERSONS.index(person)]
    if form == "perf":
        verb = f"{_HAVE[slot]} {_simple(lemma, 'part', slot)}"
    elif form == "imp":
        irregular = _tables()[0].get(lemma, {})
        tu = irregular.get("imp") or _simple(lemma, "pres", 2)
        verb = tu if person == "2s" else _simple(lemma, "sub", slot)
    else:
        verb = _simple(lemma, form, slot)
    if not clitic:
        return verb
    return _with_clitic(verb, clitic) if form in ("inf", "ger", "imp") else f"{clitic} {verb}"


def agree(word: str, features: str) -> str | None:
    """A determiner or adjective, given as masculine singular, in gender and number; None if there is no such form."""
    index = GENDER_NUMBER.index(features)
    if word in _DETERMINERS:
        form = _DETERMINERS[word].split()[index]
        return None if form == "-" else form
    if word.endswith("o"):
        return word[:-1] + ("o", "a", "os", "as")[index]
    if word.endswith("dor"):
        return word + ("", "a", "es", "as")[index]
    if index < 2:
        return word
    return plural(word)


def plural(noun: str) -> str:
    """The regular plural of a Spanish noun or adjective; of a phrase, of its first word."""
    head, space, rest = noun.partition(" ")
    if head[-1] in "aeiouáéó":
        head += "s"
    elif head.endswith("z"):
        head = head[:-1] + "ces"
    elif head.endswith(("ón", "án", "és", "ín", "ús")):
        head = head[:-2] + {"ó": "o", "á": "a", "é": "e", "í": "i", "ú": "u"}[head[-2]] + head[-1] + "es"
    elif not head.endswith("s"):
        head += "es"
    return head + space + rest


# --- English ------------------------------------------------------------------------------------------------


def _s(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh", "z")) or word in ("do", "go", "potato", "tomato", "echo"):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeou":
        return word[:-1] + "ies"
    return word + "s"


def english_plural(noun: str) -> str:
    """The regular plural of an English noun; of a phrase, of its last word."""
    return _s(noun)


def english(lemma: str, form: str, person: str) -> str:
    """A form of a verb (base, pres, past, pp, ing), or of the pronoun ``I``."""
    if lemma == "I":
        return _ENGLISH_PRONOUNS[form].split()[PERSONS.index(person)]
    if lemma == "be" and form in ("pres", "past"):
        forms = {"pres": ("am", "is", "are"), "past": ("was", "was", "were")}[form]
        return forms[0 if person == "1s" else 1 if person in ("3m", "3f") else 2]
    if form == "base":
        return lemma
    if form == "pres":
        return {"have": "has"}.get(lemma, _s(lemma)) if person in ("3m", "3f") else lemma
    regular = lemma[:-1] + "ied" if re.search("[^aeou]y$", lemma) else lemma.removesuffix("e") + "ed"
    present = lemma[:-1] + "ing" if re.search("[^eo]e$", lemma) and lemma != "be" else lemma + "ing"
    past, participle, ing, *_ = [*_tables()[1].get(lemma, []), "-", "-", "-"]
    past = regular if past == "-" else past
    if form == "past":
        return past
    if form == "pp":
        return past if participle == "-" else participle
    if form == "ing":
        return present if ing == "-" else ing
    raise ValueError(f"{lemma}/{form}: no such English form")


def english_number(word: str, features: str) -> str:
    """``a/$``, ``this/$``, ``that/$``, ``it/$``, ``one/$``: by number."""
    if word not in _ENGLISH_NUMBER:
        raise ValueError(f"{word}/$: one of {', '.join(_ENGLISH_NUMBER)}")
    return _ENGLISH_NUMBER[word][features.endswith("p")]
