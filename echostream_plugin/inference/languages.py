"""The languages of a bundle, as its card has them: codes such as `fr` and `en`."""

import json
import re
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.files import write_json
from echostream_plugin.inference.errors import BundleError

SIDES, CARD = ("source", "target"), "card.json"
_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


def note_languages(folder, source: str, target: str) -> None:
    """Write the languages into the card of a bundle. Raises ConfigError for what is no code."""
    for language in (source, target):
        if not _CODE.fullmatch(language):
            raise ConfigError(f"language '{language}': use a code, such as fr, en or pt-BR")
    card = load_card(folder) | {"source_language": source, "target_language": target}
    write_json(Path(folder) / CARD, card)


def load_card(folder) -> dict:
    """What a bundle's folder says of it, {} where it says nothing. Raises BundleError."""
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise BundleError(f"{path}: not a json file ({error})") from error
    if not isinstance(card, dict):
        raise BundleError(f"{path}: expected a json object")
    return card


def language_of(card: dict | None, side: str) -> str:
    """The code of a side, "" where the card does not say it; side: one of SIDES."""
    return str((card or {}).get(f"{side}_language", ""))


def differs(asked: str, known: str) -> bool:
    """Is another language asked for than the known one? Regions do not count; "" is no answer."""
    return bool(asked and known) and asked.lower().split("-")[0] != known.lower().split("-")[0]
