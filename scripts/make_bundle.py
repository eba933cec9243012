#!/usr/bin/env python3
"""Turn a checkpoint of fairseq-train into a bundle: safetensors and json in half precision, nothing that runs code.

    python scripts/make_bundle.py --checkpoint checkpoints/checkpoint_best.pt --data corpus/fbank2unit \\
        --vocoder vocoder --out bundle

Several checkpoints separated by commas are averaged. `--samples` adds recordings of a corpus for `make demo`, with
engine and voice; it may be given several times, each with its own lines: `--samples corpus/simuleval/test-pico:0,2`.
`--recordings` adds those of people, with speaker and licence, `--punctuator` the punctuator of
scripts/train_punctuator.py. Without --checkpoint all that is added to the bundle OUT.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="checkpoint, or several separated by commas to average")
    parser.add_argument("--data", help="data folder with the yamls (default: the one it was trained with)")
    parser.add_argument("--vocoder", help="vocoder folder; without it the bundle translates to text and units only")
    parser.add_argument("--punctuator", help="punctuator folder: marks and case for --punctuate and --endpointer text")
    parser.add_argument(
        "--punctuator-languages",
        nargs=2,
        metavar=("SOURCE", "TARGET"),
        help="by the punctuator's names (default: the first two that it was trained on)",
    )
    parser.add_argument("--card", help="json file with facts for the model card")
    parser.add_argument(
        "--session", default="{}", help='json of session options that suit the model: {"lagging_k1": 1}'
    )
    parser.add_argument(
        "--int8", nargs="*", default=[], metavar="PART",
        help="store the weights of these parts (encoder, unit ...) in 8 bits with a scale for each row: half the size",
    )  # fmt: skip
    parser.add_argument(
        "--samples", action="append", default=[], metavar="FOLDER[:LINES]",
        help="folder with wav_list.txt, target.txt and src.txt to take recordings from",
    )  # fmt: skip
    parser.add_argument(
        "--sample-lines", default="0,1,2", help="which lines of those without their own, from 0 (default %(default)s)"
    )
    parser.add_argument(
        "--recordings", type=Path,
        help="folder with recordings.tsv (file, source, target, speaker, licence) and LICENSE",
    )  # fmt: skip
    parser.add_argument("--out", required=True, help="bundle folder")
    return parser.parse_args(argv)


def chosen_samples(args) -> list:
    """The recordings that the bundle takes. Raises DataError, or ConfigError for lines that are no numbers."""
    from echostream_plugin.config import ConfigError
    from echostream_plugin.evaluation import samples

    found = []
    for given in args.samples:
        folder, _, lines = given.partition(":")
        try:
            numbers = [int(line) for line in (lines or args.sample_lines).split(",")]
        except ValueError as error:
            raise ConfigError(f"--samples {given}: lines are numbers from 0 on, with commas between them") from error
        found += samples.of_list(Path(folder), numbers)
    return found + (samples.of_people(args.recordings) if args.recordings else [])


def export(args) -> Path:
    """Write the bundle of the checkpoint."""
    from echostream_plugin.fairseq_ext.loading import export_bundle

    card = json.loads(Path(args.card).read_text(encoding="utf-8")) if args.card else {}
    return export_bundle(args.out, args.checkpoint, args.data, args.vocoder, card, json.loads(args.session), args.int8)


def main(argv=None):
    args = parse_args(argv)
    from echostream_plugin.config import ConfigError
    from echostream_plugin.data.tables import DataError
    from echostream_plugin.evaluation.samples import copy_samples
    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.errors import BundleError
    from echostream_plugin.inference.punctuator import add_punctuator

    try:
        taken = chosen_samples(args)  # what is missing is said before the work
        out = export(args) if args.checkpoint else Path(args.out)
        load_bundle(out)  # what is added belongs to a bundle
        if args.punctuator:
            add_punctuator(out, args.punctuator, args.punctuator_languages)
        if taken:
            copy_samples(taken, out / "samples")
    except (ConfigError, BundleError, DataError, OSError) as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
