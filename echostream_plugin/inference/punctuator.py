"""The punctuator of a bundle: the folder punctuator/, with languages.json beside the model's own two files."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.files import write_json
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.punctuation import PunctuationStream, Punctuator, load_punctuator
from echostream_plugin.punctuation.store import CONFIG_FILE, WEIGHTS_FILE

FOLDER, LANGUAGES_FILE = "punctuator", "languages.json"
SIDES = ("source", "target")


@dataclass(frozen=True)
class BundlePunctuator:
    """A model, and the languages of transcripts and translations by its own names; it is only read, on the CPU."""

    model: Punctuator
    languages: dict

    def stream(self, side: str, delay: int | None) -> PunctuationStream:
        """A new stream of the texts of a side. Raises ConfigError for a delay that the model cannot have."""
        return PunctuationStream(self.model, self.languages[side], delay)


def add_punctuator(bundle, punctuator, languages=None) -> BundlePunctuator:
    """Put a punctuator's folder into a bundle's; languages: of source and target, by default the first two that the
    model was trained on. Raises BundleError, with nothing changed, where it does not serve."""
    bundle, punctuator = Path(bundle), Path(punctuator)
    try:
        known = load_punctuator(punctuator).config.languages
    except ConfigError as error:
        raise BundleError(str(error)) from error
    languages = tuple(languages or known[:2])
    if len(languages) != 2 or not set(languages) <= set(known):
        raise BundleError(
            f"{punctuator}: knows {', '.join(known)}, the bundle needs a source and a target language of these, "
            f"not '{' '.join(languages)}'"
        )
    folder = bundle / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if (punctuator / name).resolve() != (folder / name).resolve():
            shutil.copyfile(punctuator / name, folder / name)
    write_json(folder / LANGUAGES_FILE, dict(zip(SIDES, languages, strict=True)))
    return read_punctuator(folder)


def read_punctuator(folder) -> BundlePunctuator:
    """What `add_punctuator` wrote; folder: the bundle's punctuator/. Raises BundleError that names the file."""
    path = Path(folder) / LANGUAGES_FILE
    try:
        model = load_punctuator(folder)
        languages = json.loads(path.read_text(encoding="utf-8"))
        for side in SIDES:
            model.config.language_of(languages[side])
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from error
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file; add the punctuator with echostream bundle --punctuator") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: expected names of the languages, source and target ({error!r})") from error
    return BundlePunctuator(model, {side: languages[side] for side in SIDES})
