"""Measure the streaming Whisper encoder: distance from Whisper by its options before any training, that of trained
encoders, and time.

python scripts/measure_whisper_encoder.py --speech corpus/unlabelled/test.tsv --share-of corpus/unlabelled/train.tsv
python scripts/measure_whisper_encoder.py --speech ... --share-of ... --encoders adapted.safetensors BUNDLE
python scripts/measure_whisper_encoder.py --times --batch-s 48
"""

import argparse
import sys

from echostream_plugin.adaptation.speech import read_list
from echostream_plugin.benchmark.whisper_encoder import distances, distances_of, update_costs
from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.errors import BundleError


def as_table(rows: list[dict]) -> str:
    """Rows of equal keys as a markdown table."""
    shown = [{name: str(value) for name, value in row.items()} for row in rows]  # with all digits that are measured
    return markdown_table(shown, dict(zip(rows[0], rows[0], strict=True)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", metavar="TSV", help="recordings to compare on: a tsv or a folder")
    parser.add_argument("--share-of", metavar="TSV", help="recordings that the share of positions is measured on")
    parser.add_argument("--count", type=int, default=8, help="recordings to compare on (default %(default)s)")
    parser.add_argument("--encoders", nargs="+", metavar="FILE", help="adapted encoders and bundles to measure instead")
    parser.add_argument("--times", action="store_true", help="measure times instead")
    parser.add_argument("--batch-s", type=float, default=48.0, help="seconds of speech in an update")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of torch, for the times")
    parser.add_argument("--weights", default="auto", help="as --load-whisper-encoder")
    args = parser.parse_args()
    try:
        if args.times:
            print(as_table(update_costs(args.batch_s, tuple(args.threads), args.weights)))
        elif args.speech and args.share_of:
            listed = [one for one in read_list(args.speech) if one.seconds > 2]
            chosen = listed[:: max(1, len(listed) // args.count)][: args.count]
            share_of = read_list(args.share_of)
            rows = (
                distances_of(args.encoders, chosen, share_of, args.weights)
                if args.encoders
                else distances(chosen, share_of, args.weights)
            )
            print(as_table(rows))
        else:
            parser.error("give --speech and --share-of, or --times")
    except (ConfigError, BundleError) as error:
        sys.exit(f"measure_whisper_encoder: {error}")


if __name__ == "__main__":
    main()
