#!/usr/bin/env python3
"""Fit a bundle's gate, which lets it write nothing where it does not understand, and choose the gate's threshold.

    python scripts/calibrate_gate.py --bundle BUNDLE --speech corpus/simuleval/dev \\
        --not-speech corpus/not_spanish/dev.tsv --write \\
        --language corpus/text/train.tsv --other-languages corpus/unlabelled/train.tsv

Speech of the domain (SimulEval folders, or `corpus/text/train.tsv:human` for the people in a table, `...:human:2` for
every second of them) should be written; other languages, noise, music (tables with the columns `kind` and `wav`) and
the same speech reversed or shuffled should not. Prints, for recordings that the gate was not fitted on, how many lead
to words; --write puts gate and threshold into the bundle's config.json, where sessions find them. --language and
--other-languages are tables of recordings (column `wav`) to train a linear classifier of the source language on, one of
the gate's features; what --speech names is left out of them. All may be given several times. Use no test sets: these
are for scripts/evaluate_voices.py.
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import file_of_table, read_table
from echostream_plugin.evaluation import gate
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.gate import CalibrationError
from echostream_plugin.evaluation.language import fit_language, samples_of
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.evaluation.voices import not_speech
from echostream_plugin.inference.confidence import FEATURES
from echostream_plugin.inference.errors import BundleError, InputError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument(
        "--speech", required=True, action="append", metavar="FOLDER|TABLE[:ENGINE[:N]]",
        help="folder with wav_list.txt, or a table text/<split>.tsv of a corpus, or the rows of one engine in it, or "
        "every N-th of these",
    )  # fmt: skip
    parser.add_argument("--not-speech", required=True, type=Path, action="append", help="table: columns kind and wav")
    parser.add_argument("--language", type=Path, action="append", default=[], help="table of the source language")
    parser.add_argument("--other-languages", type=Path, action="append", default=[], help="table of other languages")
    parser.add_argument("--language-most", type=int, default=150, help="recordings of each engine and language there")
    parser.add_argument("--garbled", type=int, default=60, help="recordings of speech that are garbled, in each way")
    parser.add_argument("--telephone", type=int, default=100, help="recordings of speech that come by telephone too")
    parser.add_argument("--refuse", type=float, default=1.0, help="percent of the speech that may be refused")
    parser.add_argument("--most", type=int, default=0, help="only so many recordings of each kind; 0: all")
    parser.add_argument("--segment-ms", type=int, default=320, help="how much source goes in at a time")
    parser.add_argument("--write", action="store_true", help="put gate and threshold into the bundle")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    args = parser.parse_args(argv)
    if not 0 <= args.refuse < 50:
        parser.error(f"--refuse {args.refuse:g}: expected 0 to 50 percent")
    if bool(args.language) != bool(args.other_languages):
        parser.error("--language and --other-languages go together")
    return args


def speech_of(given: str, most: int) -> list[tuple]:
    """(kind, wav) of a --speech: a SimulEval folder, or a corpus's table, whose wavs count from the corpus."""
    path, engine, every, *_ = [*given.split(":"), "", ""]
    if not path.endswith(".tsv"):
        return [(gate.SPEECH, wav) for wav in Folder.read(Path(path), most).wavs]
    rows = [row for row in read_table(path, ("wav", "engine")) if not engine or row["engine"] == engine]
    if not rows:
        raise DataError(f"{path}: no row of engine '{engine}'")
    if every and not (every.isdigit() and int(every)):
        raise DataError(f"--speech {given}: '{every}' is no number; every second row is {path}:{engine}:2")
    rows = rows[:: int(every or 1)]
    kind = f"{gate.SPEECH}: {engine or Path(path).stem}"
    return [(kind, file_of_table(path, row["wav"])) for row in rows[: most or len(rows)]]


def recordings(args) -> list[tuple]:
    """(kind, wav, how it is changed) of everything that is asked about."""
    found = [(kind, str(wav), "") for given in args.speech for kind, wav in speech_of(given, args.most)]
    speech = [wav for _, wav, _ in found]
    for table in args.not_speech:
        folder, kinds = not_speech(table, args.most)
        found += [(f"no speech: {kind}", str(wav), "") for kind, wav in zip(kinds, folder.wavs, strict=True)]
    calls = [(f"{gate.SPEECH}: {gate.TELEPHONE}", wav, gate.TELEPHONE) for wav in _spread(speech, args.telephone)]
    garbled = [(how, wav, how) for how in ("reversed", "shuffled") for wav in _spread(speech, args.garbled)]
    return found + calls + garbled


def _spread(wavs: list, count: int) -> list:
    """So many of them, from all over the list."""
    return wavs[:: max(1, len(wavs) // max(1, count))][:count]


def language_of(args, asked_about: list) -> tuple:
    """The gate's language, from recordings that nothing is asked about; empty where none are given."""
    if not args.language:
        return ()
    without = {str(Path(wav).resolve()) for _, wav, _ in asked_about}
    samples = samples_of(args.language, True, args.language_most, without)
    samples += samples_of(args.other_languages, False, args.language_most, without)
    return fit_language(samples, args.bundle, args.jobs)


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        found = recordings(args)
        language = language_of(args, found)
        asked = gate.ask(found, args.bundle, args.segment_ms, args.jobs, language=language)
        calibration = gate.calibrate(asked, args.refuse, language)
        if args.write:
            gate.write_gate(args.bundle, calibration)
    except (SimulError, BundleError, InputError, ConfigError, DataError, CalibrationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown_table([gate.shown(row) for row in calibration.table], gate.COLUMNS))
    print("\n" + markdown_table([gate.shown(row) for row in calibration.choices], gate.CHOICES))
    model = calibration.model
    spans = {name: (of[2] - of[1]) * of[0] for name, of in model.weights.items()}
    print("\nlog-odds between the ends of each feature: " + ", ".join(f"{n} {spans[n]:+.1f}" for n in FEATURES))
    print(f"threshold {calibration.threshold:.3f}, kept down to {model.keep:.2f} of it")
    print(f"written to {args.bundle / 'config.json'}" if args.write else "--write puts it into the bundle")
    return 0


if __name__ == "__main__":
    sys.exit(main())
