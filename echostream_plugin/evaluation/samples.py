"""Recordings to be heard, with who speaks in them and under which licence: those of a bundle, a folder of people's, and
those that a bundle takes from a corpus."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.data import DataError
from echostream_plugin.data.tables import read_table
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.intervals import CorpusWer
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.files import write_json

FOLDER, LISTING = "samples", "samples.json"
TABLE, LICENCE = "recordings.tsv", "LICENSE"
HUMAN = "human"  # the voice of recordings of people
EXACT, REFUSED, BROKEN, ANOTHER = "exact", "refused", "broken off", "another sentence"


@dataclass(frozen=True)
class Sample:
    """A recording and what it says in both languages.

    engine, voice: of a synthesizer; voice is `HUMAN` where a person speaks, and `speaker` says who; licence: of the
    recording, "" where it is the project's own."""

    wav: Path
    source: str = ""
    target: str = ""
    engine: str = ""
    voice: str = ""
    speaker: str = ""
    licence: str = ""

    @property
    def human(self) -> bool:
        """Does a person speak?"""
        return self.voice == HUMAN

    @property
    def told(self) -> str:
        """Who speaks, and the licence, in a few words; "" where nothing is known."""
        who = self.speaker if self.human else " ".join(filter(None, (self.engine, self.voice)))
        return ", ".join(filter(None, (who, self.licence)))

    def entry(self) -> dict:
        """As samples.json has it."""
        values = {**vars(self), "wav": f"{self.wav.stem}.wav"}
        return {name: value for name, value in values.items() if value or name in ("source", "target")}


def of_bundle(folder: Path) -> list[Sample]:
    """The recordings of <bundle>/samples/samples.json. Raises DataError."""
    path = folder / FOLDER / LISTING
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Sample(**{**entry, "wav": path.parent / entry["wav"]}) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: no list of recordings ({error}); make the bundle with --samples") from error


def of_people(folder: Path) -> list[Sample]:
    """The recordings of a folder with recordings.tsv (file, source, target, speaker, licence). Raises DataError."""
    rows = read_table(folder / TABLE, ("file", "source", "target", "speaker", "licence"))
    return [
        Sample(folder / row["file"], row["source"], row["target"], "", HUMAN, row["speaker"], row["licence"])
        for row in rows
    ]


def of_list(lists: Path, lines: list[int] | None = None) -> list[Sample]:
    """Lines (from 0; default: all) of a SimulEval folder; engine and voice from <corpus>/text where the folder is
    <corpus>/simuleval/<name>. Raises DataError."""
    try:
        found = Folder.read(lists)
    except SimulError as error:
        raise DataError(f"{error}; echostream prepare makes such folders, as simuleval/test") from error
    if not found.sources:
        raise DataError(f"{lists / 'src.txt'}: no such list; of a sample it is told what was said")
    count, speakers = len(found.wavs), _speakers(lists.parent.parent / "text")
    samples = []
    for line in range(count) if lines is None else lines:
        if not 0 <= line < count:
            raise DataError(f"line {line}: {lists / 'wav_list.txt'} has {count} lines, counted from 0")
        wav = found.wavs[line].resolve()
        engine, voice = speakers.get(wav.stem, ("", ""))
        samples.append(Sample(wav, found.sources[line], found.references[line], engine, voice))
    return samples


def _speakers(folder: Path) -> dict:
    """Utterance -> (engine, voice), of a corpus's tables."""
    rows = [row for table in sorted(folder.glob("*.tsv")) for row in read_table(table)]
    return {row["id"]: (row["engine"], row["voice"]) for row in rows if {"id", "engine", "voice"} <= row.keys()}


def copy_samples(samples: list[Sample], folder: Path) -> None:
    """Copy recordings into a bundle's samples folder as wav files, with samples.json, and the licence of people's."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        if sample.wav.suffix == ".wav":
            shutil.copyfile(sample.wav, folder / sample.wav.name)
        else:  # what every browser plays
            content, rate = soundfile.read(sample.wav, dtype="int16")
            soundfile.write(folder / f"{sample.wav.stem}.wav", content, rate)
        if sample.human and (sample.wav.parent / LICENCE).is_file():
            shutil.copyfile(sample.wav.parent / LICENCE, folder / f"{LICENCE}.txt")
    entries = [sample.entry() for sample in samples]
    write_json(folder / LISTING, entries)


def verdict(text: str, reference: str, unsure: bool = False) -> str:
    """How a translation came out, at a glance: "exact", "2 of 9 words off", "another sentence" where more than half
    are, "refused", "broken off"; "" where nothing is known of what was said.

    text: as written; unsure: something was not understood, as the model says itself."""
    if not text:
        return REFUSED if unsure or reference else ""
    if unsure:
        return BROKEN
    if not reference:
        return ""
    wrong = CorpusWer([text], [reference]).errors(0)
    words = len(normalize(reference).split())
    if 2 * wrong > words:
        return ANOTHER
    return EXACT if not wrong else f"{wrong} of {words} words off"
