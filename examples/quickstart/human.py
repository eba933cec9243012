"""Human recordings in Spanish with their English texts, and in other languages: Asterisk's telephone prompts.

They are Debian packages (CC BY-SA 3.0; Spanish and English by Allison Smith). Where apt is, they are downloaded; where
it is not, their .deb files, or a folder with what is in them, serve as well. Without them the corpus has no humans.
"""

import gzip
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import human_text
import numpy as np
from waves import SAMPLE_RATE, trim, write_wav

from echostream_plugin.data.tables import write_table

LANGUAGES = ("es", "en", "fr", "it", "ru")
PACKAGES = tuple(f"asterisk-core-sounds-{language}{kind}" for language in LANGUAGES for kind in ("", "-g722"))
VOICES = {"es": "Allison Smith", "en": "Allison Smith", "fr": "June Wallack", "it": "Carlo Flora", "ru": "Maxim Topal"}
SECONDS_PER_LETTER = (0.04, 0.2)  # spoken text lies between; else text and recording disagree
MAX_SECONDS = 32.0
_SOUND = re.compile(r"sounds/([a-z]{2})_[^/]+/(.+)\.g722$")
_LIST = re.compile(r"core-sounds-([a-z]{2})\.txt(?:\.gz)?$")


class HumanError(Exception):
    """The recordings are not where they should be; the message says what to fetch."""


@dataclass(frozen=True)
class Recordings:
    """sounds: {language: {prompt: raw G.722}}; texts: {language: {prompt: text as written}}."""

    sounds: dict
    texts: dict


# ----------------------------------------------------------------------------------------------------------- packages


def deb_files(path):
    """(name, bytes) of every file in a Debian package: an ar archive with a tar in it; no dpkg is needed."""
    content = Path(path).read_bytes()
    if not content.startswith(b"!<arch>\n"):
        raise HumanError(f"{path}: not a Debian package; download it again (apt-get download {_package_of(path)})")
    start = 8
    while start + 60 <= len(content):
        name, size = content[start : start + 16].decode().strip().rstrip("/"), int(content[start + 48 : start + 58])
        if name.startswith("data.tar"):
            return _tar_files(path, content[start + 60 : start + 60 + size])
        start += 60 + size + size % 2
    raise HumanError(f"{path}: holds no data.tar; download it again (apt-get download {_package_of(path)})")


def _package_of(path):
    return Path(path).name.partition("_")[0]


def _tar_files(path, content):
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
            return [(item.name, archive.extractfile(item).read()) for item in archive if item.isfile()]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise HumanError(f"{path}: cannot be unpacked ({error}); give its unpacked folder (dpkg -x) instead") from error


def download(folder):
    """The packages by apt into `folder`; HumanError where that does not work."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(folder.glob(f"{name}_*.deb"))]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise HumanError(f"no apt here; take {' '.join(PACKAGES)} from a Debian mirror and give --human-debs FOLDER")
    done = subprocess.run(["apt-get", "download", *missing], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HumanError(f"apt-get download {' '.join(missing)} failed ({said}); run apt-get update first")


def read_recordings(folder):
    """All recordings and texts in a folder of .deb files, or of what is in them."""
    sounds, texts = {}, {}
    for name, content in files_in(Path(folder)):
        if match := _SOUND.search(name):
            sounds.setdefault(match[1], {})[match[2]] = content
        elif match := _LIST.search(name):
            listed = gzip.decompress(content) if name.endswith(".gz") else content
            texts[match[1]] = human_text.parse_list(listed.decode("utf-8"))
    for language in ("es", "en"):
        if language not in texts or (language == "es" and language not in sounds):
            raise HumanError(
                f"{folder}: no recordings and texts of asterisk-core-sounds-{language}; it must hold the .deb files of "
                f"{' '.join(PACKAGES)}, or what is in them (apt-get download, dpkg -x)"
            )
    return Recordings(sounds, texts)


def files_in(folder):
    """(name, bytes) of every recording and list in a folder of .deb files, or of what is in them."""
    packages = sorted(folder.glob("*.deb"))
    for package in packages:
        yield from deb_files(package)
    for path in [] if packages else sorted(folder.rglob("*")):
        if path.suffix in (".g722", ".gsm") or _LIST.search(path.name):
            yield path.as_posix(), path.read_bytes()


# ------------------------------------------------------------------------------------------------------------ prompts


def decode_g722(content):
    """float32 [n] at 16 kHz of raw G.722."""
    import av

    codec = av.CodecContext.create("g722", "r")
    codec.sample_rate, codec.layout = SAMPLE_RATE, "mono"
    frames = [frame.to_ndarray().ravel() for frame in (codec.decode(av.Packet(content)) if content else ())]
    return np.concatenate(frames or [np.zeros(0)]).astype(np.float32) / 32768.0


def split_of(name):
    """ "test" for one prompt in four, by its name alone; the rest is for training."""
    return "test" if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4 == 0 else "train"


@dataclass(frozen=True)
class Prompt:
    """A recording with what is said in it."""

    name: str
    split: str
    source: str
    target: str

    @property
    def id(self):
        return "human_" + re.sub(r"\W+", "_", self.name)


def parallel_prompts(recordings):
    """The Spanish prompts with an English text, in the order of their names: (prompts, {name: why it was left out}).

    A training prompt that says what a test prompt says is left out, so that the test prompts are new in both.
    """
    prompts, dropped = [], {}
    for name in sorted(recordings.sounds["es"]):
        written = recordings.texts["es"].get(name), recordings.texts["en"].get(name)
        if None in written:
            dropped[name] = "no text in both languages"
            continue
        source = human_text.spanish(human_text.as_spoken(written[0], name, "es"))
        target = human_text.english(human_text.as_spoken(written[1], name, "en"))
        why = _fault(source, target, recordings.sounds["es"][name])
        if why:
            dropped[name] = why
        else:
            prompts.append(Prompt(name, split_of(name), source, target))
    tested = {_bare(prompt.source) for prompt in prompts if prompt.split == "test"}
    for prompt in prompts:
        if prompt.split == "train" and _bare(prompt.source) in tested:
            dropped[prompt.name] = "a test prompt says the same"
    return [prompt for prompt in prompts if prompt.name not in dropped], dropped


def _bare(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


def _fault(source, target, content):
    if source is None or target is None:
        return "no words, or numbers that can be read in several ways"
    letters = sum(map(str.isalpha, source))
    spoken_s = trim(decode_g722(content), 0.0, 0.0, below_peak_db=40.0).size / SAMPLE_RATE
    low, high = SECONDS_PER_LETTER
    if spoken_s > MAX_SECONDS:
        return f"{spoken_s:.1f} s long"
    if letters > 8 and not low < spoken_s / letters < high:
        return f"{spoken_s:.1f} s for {letters} letters"
    return None


# ---------------------------------------------------------------------------------------------------------- unlabelled

UNLABELLED_COLUMNS = ("id", "wav", "seconds", "language", "voice")


def unlabelled_split_of(name):
    """As `split_of`, with one training recording in twenty kept for dev."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16)
    return "test" if number % 4 == 0 else "dev" if number % 20 == 1 else "train"


def store_unlabelled(folder, recordings):
    """The other languages' recordings of a second and more as <language>_<prompt>.flac, with {train,dev,test}.tsv."""
    tables = {split: [] for split in ("train", "dev", "test")}
    for language in LANGUAGES[1:]:
        for name, content in sorted(recordings.sounds.get(language, {}).items() if recordings else ()):
            if name.startswith("silence/") or "tone" in name or "beep" in name:
                continue
            wave = decode_g722(content)
            if wave.size < SAMPLE_RATE:
                continue
            item = f"{language}_" + re.sub(r"\W+", "_", name)
            write_wav(folder / f"{item}.flac", wave)
            row = (item, f"{item}.flac", f"{wave.size / SAMPLE_RATE:.2f}", language, VOICES[language])
            tables[unlabelled_split_of(name)].append(dict(zip(UNLABELLED_COLUMNS, row, strict=True)))
    for split, rows in tables.items():
        write_table(folder / f"{split}.tsv", UNLABELLED_COLUMNS, rows)
