#!/usr/bin/env python3
"""Turn a public unit vocoder (fairseq's CodeHiFiGAN checkpoint and config.json) into a vocoder folder without pickle.

    python scripts/convert_vocoder.py --checkpoint g_00500000 --config config.json --output vocoder

The checkpoint is a pickle, which can run code: name only one that you trust. The folder has safetensors and json.
"""

import argparse
import shutil
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data.units import UNITS_NOTE
from echostream_plugin.vocoder import load_public_checkpoint, save_vocoder


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="checkpoint with the generator")
    parser.add_argument("--config", required=True, help="its config.json")
    parser.add_argument("--output", required=True, help="vocoder folder")
    parser.add_argument("--kmeans", help="kmeans.json of the unit files that it speaks; echostream bundle compares it")
    args = parser.parse_args(argv)
    try:
        print(save_vocoder(load_public_checkpoint(args.checkpoint, args.config), args.output))
        if args.kmeans:
            shutil.copyfile(args.kmeans, Path(args.output) / UNITS_NOTE)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
