"""`echostream bundle --checkpoint checkpoint_best.pt --data DATA --vocoder VOCODER -o BUNDLE`."""

import argparse
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from echostream_plugin.cli_errors import DONE, check_free
from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.evaluation import samples
from echostream_plugin.fairseq_ext.loading import export_bundle
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.languages import note_languages
from echostream_plugin.inference.punctuator import FOLDER as PUNCTUATOR
from echostream_plugin.inference.punctuator import add_punctuator

MODEL_FILES = ("config.json", "card.json", "gcmvn.json", "model.safetensors", "*.dict.txt", "*.spm.model")
PARTS = (*MODEL_FILES, "vocoder", PUNCTUATOR, samples.FOLDER)
DESCRIPTION = """Makes a bundle of a checkpoint of fairseq-train: safetensors and json in half precision, nothing that
runs code. Several checkpoints separated by commas are averaged. --samples adds recordings of a corpus for the demo and
the live page; it may be given several times, each with its own lines: --samples corpus/simuleval/test:0,2. --recordings
adds those of people, with speaker and licence, --punctuator the punctuator of scripts/train_punctuator.py. Without
--checkpoint all that is added to the bundle that is there."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("-o", "--out", required=True, type=Path, help="bundle folder")
    add("--checkpoint", help="checkpoint, or several separated by commas to average")
    add("--data", help="data folder with the yamls (default: the one it was trained with)")
    add("--vocoder", help="vocoder folder; without it the bundle translates to text and units only")
    add("--languages", nargs=2, metavar=("SOURCE", "TARGET"), help="what is spoken and what comes out, as codes such "
        "as fr and en: for the card, the live page, the scoring ASR and the punctuator")  # fmt: skip
    add("--punctuator", help="punctuator folder: marks and case for --punctuate and --endpointer text")
    add("--card", type=Path, help="json file with facts for the model card")
    add("--session", default="{}", help='json of session options that suit the model: {"lagging_k1": 1}')
    add("--int8", nargs="*", default=[], metavar="PART", help="store the weights of these parts (encoder, unit ...) in "
        "8 bits with a scale for each row: half the size")  # fmt: skip
    add("--samples", action="append", default=[], metavar="FOLDER[:LINES]", help="folder with wav_list.txt, "
        "target.txt and src.txt to take recordings from")  # fmt: skip
    add("--sample-lines", default="0,1,2", help="which lines of those without their own, from 0 (default %(default)s)")
    add("--recordings", type=Path, help="folder with recordings.tsv (file, source, target, speaker, licence) and "
        "LICENSE")  # fmt: skip
    add("--overwrite", action="store_true", help="replace what is in the bundle already; with --checkpoint all of it, "
        "as soon as the new one is complete")  # fmt: skip
    parser.set_defaults(run=run_bundle)


def run_bundle(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    try:
        taken = chosen_samples(args)  # what is missing is said before the work
        check_places(args, bool(taken))
        if args.checkpoint:
            with whole_bundle(args.out) as folder:
                export(args, folder)
                add_parts(args, folder, taken)
        else:
            load_bundle(args.out)  # what is added belongs to a bundle
            add_parts(args, args.out, taken)
    except DataError as error:
        raise InputError(str(error)) from error
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB")
    return DONE


def add_parts(args: argparse.Namespace, folder: Path, taken: list) -> None:
    """What a bundle has besides model and vocoder, put into its folder."""
    if args.languages:
        note_languages(folder, *args.languages)
    if args.punctuator:
        add_punctuator(folder, args.punctuator, args.languages)
    if taken:
        samples.copy_samples(taken, folder / samples.FOLDER)


@contextmanager
def whole_bundle(folder: Path):
    """A folder to make a bundle in. At the end of the block its parts take the place of all that a bundle before had,
    so that no vocoder or punctuator of another model stays; after an error the bundle before is as it was."""
    made = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        made.mkdir(parents=True)
        yield made
        folder.mkdir(exist_ok=True)
        for name in sorted(parts_of(folder) | {path.name for path in made.iterdir()}):
            old, new = folder / name, made / name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
            if new.exists():
                new.rename(old)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def parts_of(folder: Path) -> set[str]:
    """Files and folders of a bundle that are there; what else lies in its folder is none of them."""
    return {path.name for pattern in PARTS for path in folder.glob(pattern)}


def chosen_samples(args: argparse.Namespace) -> list:
    """The recordings that the bundle takes. Raises DataError, or ConfigError for lines that are no numbers."""
    found = []
    for given in args.samples:
        folder, _, lines = given.partition(":")
        try:
            numbers = [int(line) for line in (lines or args.sample_lines).split(",")]
        except ValueError as error:
            raise ConfigError(f"--samples {given}: lines are numbers from 0 on, with commas between them") from error
        found += samples.of_list(Path(folder), numbers)
    return found + (samples.of_people(args.recordings) if args.recordings else [])


def check_places(args: argparse.Namespace, samples_too: bool) -> None:
    """Raise OverwriteError for what is there already and would be replaced."""
    written = {"config.json": args.checkpoint, PUNCTUATOR: args.punctuator, samples.FOLDER: samples_too}
    for name in (name for name, is_written in written.items() if is_written):
        check_free(args.out / name, args.overwrite)


def export(args: argparse.Namespace, folder: Path) -> None:
    """Write the bundle of the checkpoint into a folder."""
    try:
        card = json.loads(args.card.read_text(encoding="utf-8")) if args.card else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"--card {args.card}: not a json file ({error})") from error
    try:
        session = json.loads(args.session)
    except ValueError as error:
        raise ConfigError(f"--session {args.session}: not json ({error})") from error
    export_bundle(folder, args.checkpoint, args.data, args.vocoder, card, session, args.int8)
