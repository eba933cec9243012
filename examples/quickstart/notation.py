"""The notation of ``text/*.txt`` (see ``text/README.md``) and its compilation into productions.

Agreement is compiled away: a line over gender, number and person becomes one production for each.
"""

from __future__ import annotations

import itertools
import re

from conjugation import GENDER_NUMBER, PERSONS, agree, english, english_number, slot_person, spanish
from synchronous import WORD, Production, Rules

TOKEN = re.compile(rf"<[^>]+>|{WORD.pattern}|[¿¡.,:?!]")
LEMMA = re.compile(r"([^\W\d_]+)/([a-z$%]+)")


def production(text: str, weight: float = 1.0) -> Production:
    """One production from ``source = target``; the sides must have the same nonterminals."""
    source, _, target = text.partition("=")
    sides = [tuple(TOKEN.findall(side)) for side in (source, target)]
    labels = [sorted(token[1:-1] for token in side if token[0] == "<") for side in sides]
    if labels[0] != labels[1] or len(set(labels[0])) < len(labels[0]):
        raise ValueError(f"sentences: {text!r}: each nonterminal must stand once on each side, as <x:1> <x:2>")
    children = tuple((label, label.split(":")[0]) for label in labels[0])
    words = [mark + token for mark, side in zip(("", "="), sides, strict=True) for token in side if token[0].isalpha()]
    return Production(weight, *sides, children, tuple(words))


def _choose(text: str, features: str) -> str | None:
    """Resolve every ``{a|b|c|d}`` by gender and number, ``{a|b}`` by number; None if that choice is "-"."""
    index = GENDER_NUMBER.index(features)
    missing = False

    def choose(match: re.Match) -> str:
        nonlocal missing
        options = match.group(1).split("|")
        if len(options) not in (2, 4):
            raise ValueError(f"sentences: {match.group(0)!r} in {text!r}: give 2 or 4 choices")
        choice = options[index if len(options) == 4 else index >= 2]
        missing = missing or choice == "-"
        return choice

    resolved = re.sub(r"{([^}]*)}", choose, text)
    return None if missing else resolved


def _inflect(side: str, is_english: bool, features: str | None, person: str | None, gender: str | None) -> str | None:
    """Resolve every ``lemma/form`` of one side; None if a form does not exist."""
    missing = False

    def form(match: re.Match) -> str:
        nonlocal missing
        lemma, name = match.groups()
        if name in "$%":
            agreement = features if name == "$" else gender
            word = (english_number if is_english else agree)(lemma, agreement)
        else:
            who = slot_person(features) if name.endswith("$") else person
            word = (english if is_english else spanish)(lemma, name.rstrip("$"), who)
        missing = missing or word is None
        return word or ""

    resolved = LEMMA.sub(form, side)
    return None if missing else resolved


def _people(text: str) -> list[tuple[str | None, str | None]]:
    """The (person, gender and number) pairs that a line runs over; ``(1s 3m)`` at its head limits them."""
    if not re.search(r"@|%|/[a-z]+(?![a-z$])", text):
        return [(None, None)]
    limit = re.match(r"\(([\w ]+)\)", text)
    persons = limit.group(1).split() if limit else PERSONS
    if "%" not in text:
        return [(person, None) for person in persons]
    # mixed company is masculine; ellos and ellas would need a person each, so they have no adjectives
    genders = {"3m": "m", "3f": "f", "1p": "m", "2p": "m", "3p": ""}
    return [(p, g + ("p" if p[1] == "p" else "s")) for p in persons for g in genders.get(p, "mf")]


def readings(text: str):
    """All readings of ``head ::: source = target`` over its features: gender and number ($), person (@, %)."""
    head, _, body = text.partition(" ::: ")
    source, _, target = body.partition("=")  # Spanish may be written with del and al
    body = re.sub(r"\b(de|a)l\b", r"\1 el", source) + "=" + target
    for (person, gender), features in itertools.product(_people(body), GENDER_NUMBER if "$" in text else (None,)):
        reading: str | None = re.sub(r"^\([\w ]+\) ", "", body)
        if features is not None:
            reading = _choose(re.sub(r"(?<=\.)\$", features, reading), features)
        if reading is None:
            continue
        source, _, target = reading.partition("=")
        sides = [_inflect(s, e, features, person, gender) for s, e in ((source, False), (target, True))]
        if None in sides:
            continue
        name = head.replace("@", person or "@").replace("%", gender or "%").replace("$", features or "$")
        yield name, "=".join(sides).replace("@", person or "@").replace(".%", f".{gender}")


class Patterns:
    """The patterns of some files: plain nonterminals at once, verb phrases when a pattern asks for a form of them."""

    def __init__(self) -> None:
        self.rules: Rules = {}
        self.phrases: dict[str, list[tuple[float, str, str]]] = {}

    def read(self, text: str) -> None:
        """Add the productions of the notation described in ``text/notation.md``."""
        name, is_phrase = "", False
        for line in text.splitlines():
            line = line.partition("#")[0].rstrip()
            if not line:
                continue
            if not line.startswith(" "):
                is_phrase = line.startswith("vp ")
                name = line.removeprefix("vp ").rstrip(":")
                continue
            match = re.match(r"\s*(?:(\d+)\*\s)?(.*)", line)
            weight = float(match.group(1) or 1)
            if is_phrase:
                source, _, target = match.group(2).partition(" = ")
                for family in name.split():
                    self.phrases.setdefault(family, []).append((weight, source, target))
            else:
                self._add(f"{name} ::: {match.group(2)}", weight)

    def _add(self, text: str, weight: float) -> None:
        found = list(dict.fromkeys(readings(text)))
        for name, reading in found:
            self.rules.setdefault(name, []).append(production(reading, weight / len(found)))

    def _phrase(self, name: str) -> None:
        """``<class.spanish form.english form.person>``: the verb phrases of a class in these forms."""
        family, source_form, target_form, person = name.split(".")
        for weight, source, target in self.phrases[family]:
            first, _, after = source.partition(" ")
            verb, _, rest = target.partition(" ")
            self._add(f"{name} ::: ({person}) {first}/{source_form} {after} = {verb}/{target_form} {rest}", weight)

    def finish(self) -> Rules:
        """All rules, with the verb phrases that they use; what has no words is dropped, a misspelt name an error."""
        waiting = list(self.rules)
        while waiting:
            for item in self.rules[waiting.pop()]:
                for _, child in item.children:
                    if child not in self.rules and child.split(".")[0] in self.phrases:
                        self._phrase(child)
                        waiting.append(child)
        return prune(self.rules)


def prune(rules: Rules) -> Rules:
    """Drop productions that use a feature combination without words, until none does; a misspelt name is an error."""
    families = {name.split(".")[0] for name in rules}
    for item in itertools.chain.from_iterable(rules.values()):
        for _, child in item.children:
            if child.split(".")[0] not in families:
                raise ValueError(f"sentences: unknown nonterminal <{child}>")
    while True:
        kept = {name: [p for p in ps if all(c in rules for _, c in p.children)] for name, ps in rules.items()}
        kept = {name: ps for name, ps in kept.items() if ps}
        if sum(map(len, kept.values())) == sum(map(len, rules.values())):
            return kept
        rules = kept
