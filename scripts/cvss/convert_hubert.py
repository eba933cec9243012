#!/usr/bin/env python3
"""A fairseq HuBERT checkpoint as a folder of the transformers library: config.json and model.safetensors.

    python scripts/cvss/convert_hubert.py --checkpoint mhubert_base_vp_en_es_fr_it3.pt --output mhubert

build_units.py --hubert mhubert then needs no fairseq, and no pickle is read again. Features agree to rounding.
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="fairseq's checkpoint, a pickle")
    parser.add_argument("--output", type=Path, required=True, help="the new folder")
    args = parser.parse_args(argv)
    try:
        from echostream_plugin.fairseq_ext.hubert import save_for_transformers

        save_for_transformers(args.checkpoint, args.output)
    except (ConfigError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
