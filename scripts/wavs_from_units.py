#!/usr/bin/env python3
"""Wavs of the units that fairseq-generate wrote.

    python scripts/wavs_from_units.py --log generate-test.txt --vocoder examples/quickstart/bundle --output wavs

Takes the unit lines `D-<id> TAB score TAB u u u` of results files or captured screens; writes <id>.wav, and keeps those
that are of the same units and vocoder (digests in made.jsonl). For other unit lists see scripts/resynthesize.py.
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.generate_log import GenerateLogError, read_generate_logs
from echostream_plugin.evaluation.resynthesis import open_vocoder, write_wavs


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", nargs="+", required=True, help="generate-<split>.txt or captured screens")
    parser.add_argument("--vocoder", required=True, help="vocoder folder, bundle, or public checkpoint")
    parser.add_argument("--vocoder-config", help="config.json of a public checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="folder of the wavs")
    args = parser.parse_args(argv)
    try:
        units = read_generate_logs(args.log).units
        if not units:
            raise GenerateLogError(f"{', '.join(args.log)}: no unit lines `D-<id> TAB score TAB units`")
        vocoder = open_vocoder(args.vocoder, args.vocoder_config)
        wavs = write_wavs(vocoder, {str(row): units[row] for row in sorted(units)}, args.output)
    except (ConfigError, GenerateLogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    silent = sum(wav is None for wav in wavs.values())
    print(f"{len(wavs) - silent} wavs in {args.output}" + (f", {silent} utterances without units" if silent else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
