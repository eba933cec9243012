#!/usr/bin/env python3
"""Encoders side by side: StreamSpeech's chunk-based Conformer, the Emformer and the Zipformer under the same decoders,
with as many parameters (within 10 %), trained on the same corpus for the same time, each evaluated offline and in
segments.

    python scripts/compare_architectures.py --corpus work/letters/corpus --vocoder work/letters/vocoder \\
        --output work/architectures

One hour of training each; nothing else should run, since time is what they are given alike. From nothing an encoder
learns letters in that time, not a thousand subwords: build the corpus with --source-subwords 45 --target-subwords 300.
The same command goes on where it was stopped. Writes architectures.md, .json and .png. Without --vocoder there are no
unit error rates.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.evaluation import architectures
from echostream_plugin.evaluation.architectures import Training, TrainingError, learning_curve
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.intervals import Interval
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.table import commit, markdown_table
from echostream_plugin.files import write_json, write_text
from echostream_plugin.inference.errors import BundleError

DECODERS = [
    "--decoder-embed-dim", "192", "--decoder-attention-heads", "4", "--decoder-ffn-embed-dim", "768",
    "--decoder-layers", "2", "--translation-decoder-layers", "2", "--synthesizer-encoder-layers", "1",
]  # fmt: skip
# 8.08, 7.92 and 7.58 million parameters with 1000 subwords a side and 500 units, as the table counts them
SIZES = {
    "streamspeech": [
        "--encoder-layers", "5", "--encoder-embed-dim", "192", "--encoder-ffn-embed-dim", "768",
        "--encoder-attention-heads", "4", "--conv-channels", "192", *DECODERS,
    ],
    "echostream_tiny": ["--encoder-layers", "8", *DECODERS],
    "echostream_zipformer_tiny": [
        "--encoder-ffn-embed-dim", "288,384,384,384,384,384", "--stack-dims", "128,160,160,160,160,160",
        "--encoder-embed-dim", "160", *DECODERS,
    ],
}  # fmt: skip
RECIPE = [
    "--ctc-upsample-rate", "9", "--multichunk", "--multichunk-sizes", "8,8,16,24,0", "--autocast", "bf16",
    "--dropout", "0.1", "--attention-dropout", "0", "--relu-dropout", "0", "--lr", "0.001",
    "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "400", "--warmup-init-lr", "1e-7", "--max-tokens", "2500",
    "--max-target-positions", "1200", "--save-interval-updates", "500", "--validate-interval-updates", "500",
    "--validate-interval", "1000", "--log-interval", "50",
]  # fmt: skip
CURVES = {
    "asr_ter": "ASR token error rate %",
    "asr_wer": "ASR WER %",
    "st_wer": "ST CTC WER %",
    "uer": "unit error rate %",
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=Path, help="folder that build_corpus.py made")
    parser.add_argument("--output", required=True, type=Path, help="folder of everything; resumed if it exists")
    parser.add_argument("--vocoder", type=Path, help="a vocoder of the corpus's units, for unit error rates")
    parser.add_argument("--archs", nargs="+", choices=SIZES, default=list(SIZES), metavar="ARCH", help="only some")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, each (default %(default)g)")
    parser.add_argument("--updates", type=int, default=0, help="at most so many updates, each; 0: no limit")
    parser.add_argument("--segments-ms", type=int, nargs="+", default=[0, 320, 640], help="0: offline")
    parser.add_argument("--set", default="test", help="folder of simuleval/ to evaluate (default %(default)s)")
    parser.add_argument("--most", type=int, default=200, help="only so many recordings of it; 0: all")
    parser.add_argument("--procs", type=int, default=2, help="processes of a training, a batch each (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each of them (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes of the evaluation")
    return parser.parse_args(argv)


def clusters(corpus: Path) -> int:
    """K, the number of the corpus's units. Raises ConfigError."""
    path = corpus / "settings.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["clusters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no number of clusters in it; is {corpus} of build_corpus.py?") from error


def bundle_of(arch: str, checkpoint: Path, args) -> Path:
    """The bundle of a checkpoint; made anew only for a newer one."""
    from echostream_plugin.fairseq_ext.loading import export_bundle

    folder = checkpoint.parent / "bundle"
    made = folder / "config.json"
    if not made.is_file() or made.stat().st_mtime < checkpoint.stat().st_mtime:
        export_bundle(folder, checkpoint, args.corpus / "fbank2unit", args.vocoder, {"name": arch})
    return folder


def measure(arch: str, args, folder: Folder, units: list) -> tuple[list[dict], list[dict]]:
    """(rows of the table, learning curve) of one architecture."""
    from echostream_plugin.inference.bundle import load_bundle

    flags = (*RECIPE, "--target-code-size", str(clusters(args.corpus)))
    data, output = args.corpus / "fbank2unit", args.output / arch
    training = Training(data, output, args.minutes / 60, args.updates, flags, args.threads, args.procs)
    bundle = bundle_of(arch, training.run(arch, SIZES[arch]), args)
    curve = learning_curve(training.folder)
    facts = {
        "arch": arch,
        "parameters": sum(parameter.numel() for parameter in load_bundle(bundle).model.parameters()) / 1e6,
        "updates": curve[-1]["updates"] if curve else 0,
    }
    rows = architectures.evaluate(bundle.resolve(), output, folder, units, args.segments_ms, args.jobs)
    return [{**facts, **row} for row in rows], curve


def draw(curves: dict, path: Path) -> None:
    """The learning curves of all in one picture, a panel for each score."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(CURVES), figsize=(4.5 * len(CURVES), 3.6), constrained_layout=True)
    for panel, (key, title) in zip(panels, CURVES.items(), strict=True):
        for arch, points in curves.items():
            points = [point for point in points if key in point]
            panel.plot([p["minutes"] for p in points], [p[key] for p in points], marker=".", label=arch)
        panel.set(title=f"dev {title}", xlabel="minutes of training", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(rows: list, command: list) -> str:
    """The tables as markdown, with the command and the commit that made them."""
    shown = [{key: value if isinstance(value, float) else str(value) for key, value in row.items()} for row in rows]
    used = {key: title for key, title in architectures.COLUMNS.items() if any(key in row for row in rows)}
    words = shlex.join(["scripts/compare_architectures.py", *command])
    legend = f"In brackets: 95 % bootstrap intervals. Commit {commit()}:"
    return f"{markdown_table(shown, used)}\n\n{legend}\n\n    python {words}"


def main(argv=None) -> int:
    args, command = parse_args(argv), list(sys.argv[1:] if argv is None else argv)
    rows, curves = [], {}
    try:
        units = args.corpus / "fbank2unit" / f"{args.set}.unit" if args.vocoder else None
        folder = Folder.read(args.corpus / "simuleval" / args.set, args.most, units)
        for arch in args.archs:
            found, curves[arch] = measure(arch, args, folder, folder.units if args.vocoder else [])
            rows += found
    except (SimulError, TrainingError, ConfigError, BundleError, DataError) as error:
        sys.exit(f"error: {error}")
    text = report(rows, command)
    write_text(args.output / "architectures.md", text + "\n")
    plain = [{key: vars(v) if isinstance(v, Interval) else v for key, v in row.items()} for row in rows]
    write_json(args.output / "architectures.json", {"command": command, "rows": plain, "curves": curves})
    draw(curves, args.output / "architectures.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
