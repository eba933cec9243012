#!/usr/bin/env python3
"""Turn a checkpoint of fairseq-train into a bundle: safetensors and json in half precision, nothing that runs code.

    python scripts/make_bundle.py --checkpoint checkpoints/checkpoint_best.pt --data corpus/fbank2unit \\
        --vocoder vocoder --out bundle

Several checkpoints separated by commas are averaged. `--samples` adds recordings of a SimulEval list for `make demo`,
`--punctuator` the punctuator of scripts/train_punctuator.py; without --checkpoint both are added to the bundle OUT.
"""

import argparse
import json
import shutil
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
    parser.add_argument("--samples", help="folder with wav_list.txt, target.txt and src.txt to take recordings from")
    parser.add_argument(
        "--sample-lines", default="0,1,2", help="which lines of it, counted from 0 (default %(default)s)"
    )
    parser.add_argument("--out", required=True, help="bundle folder")
    return parser.parse_args(argv)


def copy_samples(lists: Path, lines: list[int], folder: Path) -> None:
    """Copy recordings of a SimulEval list, with transcript and translation in samples.json."""
    columns = {
        name: (lists / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("wav_list", "src", "target")
    }
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for line in lines:
        wav = (lists / columns["wav_list"][line]).resolve()
        shutil.copyfile(wav, folder / wav.name)
        samples.append({"wav": wav.name, "source": columns["src"][line], "target": columns["target"][line]})
    (folder / "samples.json").write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export(args) -> Path:
    """Write the bundle of the checkpoint."""
    from echostream_plugin.fairseq_ext.loading import export_bundle

    card = json.loads(Path(args.card).read_text(encoding="utf-8")) if args.card else {}
    return export_bundle(args.out, args.checkpoint, args.data, args.vocoder, card, json.loads(args.session))


def main(argv=None):
    args = parse_args(argv)
    from echostream_plugin.config import ConfigError
    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.errors import BundleError
    from echostream_plugin.inference.punctuator import add_punctuator

    try:
        out = export(args) if args.checkpoint else Path(args.out)
        load_bundle(out)  # what is added belongs to a bundle
        if args.punctuator:
            add_punctuator(out, args.punctuator, args.punctuator_languages)
        if args.samples:
            copy_samples(Path(args.samples), [int(line) for line in args.sample_lines.split(",")], out / "samples")
    except (ConfigError, BundleError, OSError) as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
