#!/usr/bin/env python3
"""Make long recordings for `scripts/evaluate_longform.py`: short ones in a row, written a sentence at a time.

    silences  0.6 to 1.2 s of silence after each sentence
    none      no silence between them
    pauses    as silences, with a pause of 0.4 to 0.9 s inside each sentence too
    noise     as silences, with white noise 10 dB below the speech

    python scripts/build_longform.py --from corpus/simuleval/test --minutes 60 --output longform

The sentences are the same, in the same order, in all of them. Beside the wav files lie segmentation.yaml, reference.txt
and source.txt, as OmniSTEval takes them.
"""

import argparse
import math
import sys
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.data import DataError
from echostream_plugin.evaluation.long_recordings import KINDS, build, read_samples, write_segmentation
from echostream_plugin.inference.errors import InputError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from", dest="folder", required=True, type=Path, help="a bundle with samples, or a SimulEval folder"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder of the recordings")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each recording")
    parser.add_argument("--seed", type=int, default=1, help="of the order, the silences and the noise")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args(argv)
    if not 0 < args.minutes < math.inf or args.seed < 0:
        parser.error("--minutes must be a number above 0, --seed one of at least 0")
    return args


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        samples = read_samples(args.folder)
        recordings = {}
        for kind in tqdm(args.kinds, desc="recordings", unit="wav", disable=None):
            wav = f"{kind}.wav"
            recordings[wav] = build(samples, KINDS[kind], args.minutes, args.seed, args.output / wav)
        write_segmentation(args.output, recordings)
    except (DataError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for wav, segments in recordings.items():
        print(f"{args.output / wav}: {len(segments)} sentences, {segments[-1].end_ms / 60000:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
