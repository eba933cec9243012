"""Text normalisation for scoring: what a recogniser writes and what a reference says become the same words.

``3:30``, ``$15``, ``21st``, ``half past 3``, ``twenty-one`` and ``where's`` are spelled out; case and punctuation go.
"""

import re

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_CURRENCIES = {"$": ("dollar", "dollars"), "€": ("euro", "euros"), "£": ("pound", "pounds")}
_NUMBER_WORD = "|".join(_UNITS + _TENS[2:])
_HOURS = _UNITS[1:13]
_HOUR_WORD = "|".join(_HOURS)
_IS = "where|it|that|what|here|there|he|she|who|how|when|everything"
_CONTRACTIONS = (
    (r"\bwon't\b", "will not"), (r"\bcan't\b", "can not"), (r"\blet's\b", "let us"), (r"n't\b", " not"),
    (r"\bi'm\b", "i am"), (rf"\b({_IS})'s\b", r"\1 is"), (r"'ll\b", " will"),
    (r"'re\b", " are"), (r"'ve\b", " have"), (r"'d\b", " would"),
)  # fmt: skip
_SPELLINGS = {"okay": "ok", "alright": "all right", "mister": "mr", "missus": "mrs", "cannot": "can not"}


def number_words(number: int) -> str:
    """English words of an integer below a billion: 105 -> 'one hundred five'."""
    if number < 0:
        return "minus " + number_words(-number)
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        return _TENS[tens] + (f" {_UNITS[unit]}" if unit else "")
    for size, name in ((1_000_000, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            head, rest = divmod(number, size)
            return f"{number_words(head)} {name}" + (f" {number_words(rest)}" if rest else "")
    raise AssertionError("unreachable")


def ordinal_words(number: int) -> str:
    """English ordinal: 21 -> 'twenty first'."""
    *head, last = number_words(number).split()
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return " ".join([*head, last])


def normalize(text: str) -> str:
    """Lower-case words without punctuation, numbers and times of day spelled out, one space between words."""
    text = text.lower().replace("’", "'").replace("`", "'")
    for short, full in _CONTRACTIONS:
        text = re.sub(short, full, text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"\b([ap])\.?\s?m\b\.?", r"\1m", text)
    text = re.sub(r"([$€£])\s?(\d{1,9})(?:\.(\d\d))?\b", _spell_money, text)
    text = re.sub(r"\b(\d{1,2}):00(?:\s+o'?\s?clock)?\b", lambda m: f"{_spell(m[1])} oclock", text)
    text = re.sub(r"\b(\d{1,2})[:h](\d\d)\b", _spell_time, text)
    text = re.sub(r"\b(\d{1,9})(?:st|nd|rd|th)\b", lambda m: ordinal_words(int(m[1])), text)
    text = re.sub(r"\b(\d{1,9})\.(\d+)\b", lambda m: f"{_spell(m[1])} point {' '.join(map(_spell, m[2]))}", text)
    text = re.sub(r"\d+", lambda m: f" {_spell(m[0])} ", text)
    text = text.replace("%", " percent ").replace("&", " and ")
    text = re.sub(r"\bo'\s?clock\b", "oclock", text)
    text = re.sub(r"[-–—_/]", " ", text)
    words = " ".join(re.sub(r"[^\w\s]", "", text).split())
    return _same_reading(words)


def _same_reading(words: str) -> str:
    """Equate ways of saying one number or one time of day: 'a hundred', 'one hundred and five', 'half past three'."""
    words = re.sub(r"\ba (hundred|thousand)\b", r"one \1", words)
    words = re.sub(rf"\b(hundred|thousand) and (?=(?:{_NUMBER_WORD})\b)", r"\1 ", words)
    words = re.sub(rf"\bhalf past ({_HOUR_WORD})\b", r"\1 thirty", words)
    words = re.sub(rf"\b(?:a )?quarter past ({_HOUR_WORD})\b", r"\1 fifteen", words)
    words = re.sub(rf"\b(?:a )?quarter to ({_HOUR_WORD})\b", lambda m: f"{_hour_before(m[1])} forty five", words)
    return " ".join(_SPELLINGS.get(word, word) for word in words.split())


def _hour_before(hour: str) -> str:
    return _HOURS[_HOURS.index(hour) - 1]


def _spell(digits: str) -> str:
    # Long digit strings (telephone numbers) are read digit by digit.
    return number_words(int(digits)) if len(digits) <= 9 else " ".join(_UNITS[int(d)] for d in digits)


def _spell_time(match: re.Match) -> str:
    minutes = int(match[2])
    return f" {_spell(match[1])} {'oh ' if minutes < 10 else ''}{number_words(minutes)} "


def _spell_money(match: re.Match) -> str:
    names = _CURRENCIES[match[1]]
    cents = f" {number_words(int(match[3]))}" if match[3] and int(match[3]) else ""
    return f" {_spell(match[2])} {names[int(match[2]) != 1]}{cents} "
