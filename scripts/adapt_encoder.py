"""Adapt Whisper's encoder to streaming, for `fairseq-train --arch echostream_whisper --load-whisper-encoder`.

    python scripts/adapt_encoder.py --output work/adapt --labelled corpus/text/train.tsv --dev test=corpus/text/dev.tsv

The lists are tsv files with columns `wav` (or `audio`) and `source` (or `text`), or, for recordings without
transcripts, folders of audio files. Leaves adapted.safetensors, and losses and error rates in train.tsv and dev.tsv.
The same command resumes where it was stopped.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from echostream_plugin.adaptation.characters import Characters
from echostream_plugin.adaptation.speech import Batches, read_list
from echostream_plugin.adaptation.training import Adaptation, AdaptOptions, saved_letters
from echostream_plugin.config import ConfigError
from echostream_plugin.encoders.whisper import WhisperConfig
from echostream_plugin.inference.arguments import reading, word

ENCODER = ("dim", "layers", "halve_after", "left_context_frames", "memory_size", "memory_kind", "position")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of checkpoint, encoder and logs")
    parser.add_argument("--labelled", nargs="+", required=True, metavar="TSV", help="transcribed recordings")
    parser.add_argument("--others", nargs="*", default=[], metavar="TSV", help="recordings without transcripts")
    parser.add_argument("--dev", nargs="*", default=[], metavar="NAME=TSV", help="lists for error rates")
    parser.add_argument("--dev-size", type=int, default=100, help="recordings of a dev list that are read")
    parser.add_argument("--weights", default="auto", help="first values: as --load-whisper-encoder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--workers", type=int, default=0, help="threads that load the next batch ahead, for a GPU")
    parser.add_argument("--longest-s", type=float, default=12.0, help="recordings up to so many seconds")
    parser.add_argument("--letters", help="of the CTC head, the space among them; default: those of the transcripts")
    parser.add_argument("--hours", type=float, help="stop after so many hours")
    for kind, names in ((WhisperConfig, ENCODER), (AdaptOptions, None)):
        for field in dataclasses.fields(kind):
            if names is None or field.name in names:
                _add(parser, field)
    return parser


def _add(parser, field):
    flag, default = "--" + field.name.replace("_", "-"), field.default
    keywords = {"default": default, "help": f"{field.metadata['help']} (default {word(default)})"}
    parser.add_argument(flag, **reading(type(default), default), **keywords)


def run(args):
    """Read the lists and adapt. Raises ConfigError."""
    torch.set_num_threads(args.threads)
    labelled = [one for path in args.labelled for one in read_list(path, args.longest_s)]
    if any(one.text is None for one in labelled):
        raise ConfigError("--labelled: a list without a column of texts; give it to --others")
    others = [dataclasses.replace(one, text=None) for path in args.others for one in read_list(path, args.longest_s)]
    dev = {}
    for item in args.dev:
        name, _, path = item.rpartition("=")
        listed = read_list(path, args.longest_s)
        dev[name or Path(path).stem] = listed[:: max(1, len(listed) // args.dev_size)][: args.dev_size]
    options = AdaptOptions(**{field.name: getattr(args, field.name) for field in dataclasses.fields(AdaptOptions)})
    config = WhisperConfig(**{name: getattr(args, name) for name in ENCODER}, dropout=options.dropout,
                           attention_dropout=0.0, activation_dropout=0.0)  # fmt: skip
    for name, listed in {"labelled": labelled, "others": others, **dev}.items():
        print(f"{name}: {len(listed)} recordings, {sum(one.seconds for one in listed) / 3600:.2f} h", flush=True)
    given = Characters("".join(sorted(args.letters))) if args.letters else None
    letters = saved_letters(args.output) or given or Characters.of(one.text for one in labelled)
    run = Adaptation(args.output, config, options, letters, args.weights, args.device)
    print(f"{run.taken}; letters: {letters.letters}", flush=True)
    batches = Batches(labelled, others, options.batch_s, options.others_s, options.seed, args.workers)
    run.train(batches, dev, lambda line: print(line, flush=True), args.hours)


def main():
    try:
        run(parser().parse_args())
    except ConfigError as error:
        sys.exit(f"adapt_encoder: {error}")


if __name__ == "__main__":
    main()
