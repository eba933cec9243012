#!/usr/bin/env python3
"""Train an MT decoder on text, before the training with speech (for `fairseq-train --mt-decoder ctc_conditioned`).

    python scripts/pretrain_mt.py --data corpus/fbank2unit --pairs corpus/text/pairs.tsv --out mt.safetensors
    fairseq-train corpus/fbank2unit ... --mt-decoder ctc_conditioned --load-mt-decoder mt.safetensors

--pairs are tables with columns `source` and `target`, of any texts in the languages; the data folder's training texts
need not be among them. The decoder is that of --arch with the dictionaries of the data folder. The seed decides
everything: the same command gives the same weights on the same machine, interrupted or not (it goes on from
OUT.training.pt, which is deleted at the end). `--score TSV --out mt.safetensors` trains nothing and prints the BLEU of
its translations of perfect transcripts.
"""

import argparse
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch
from tqdm import tqdm

from echostream_plugin.adaptation.translation import TextRecipe, TextTraining, translated
from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.subwords import load_subwords
from echostream_plugin.data.tables import read_table
from echostream_plugin.decoders import DECODERS
from echostream_plugin.decoders.conditioned import ConditionedDecoder
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.evaluation.scores import bleu
from echostream_plugin.fairseq_ext.flags import add_model_flags, config_from_args, fill_defaults
from echostream_plugin.fairseq_ext.mt_values import load_decoder, save_decoder
from echostream_plugin.fairseq_ext.task import read_multitask_config
from echostream_plugin.inference.words import normalise

KIND = ConditionedDecoder.Config.kind
ARCHITECTURES = {
    name: (encoder.Config.kind, flags) for encoder in ENCODERS.values() for name, flags in encoder.architectures.items()
}
PIECES = "sentencepiece"  # how subwords are joined
SHOWN = (0.0, 0.3)  # errors of the transcripts whose accuracy is told


def build_parser(argv=None) -> argparse.ArgumentParser:
    """The options of this script and the model flags of the architecture that a command line names."""
    default, arch = TextRecipe(), argparse.ArgumentParser(add_help=False)
    arch.add_argument("--arch", default="echostream_whisper", choices=ARCHITECTURES, metavar="ARCH", help="%(default)s")
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arch], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder of the training, with its dictionaries")
    parser.add_argument("--pairs", type=Path, action="append", default=[], metavar="TSV", help="texts to learn")
    parser.add_argument("--score", type=Path, action="append", default=[], metavar="TSV",
                        help="texts to translate with the decoder of --out, which is not trained then")  # fmt: skip
    parser.add_argument("--dev", type=Path, action="append", default=[], metavar="TSV", help="texts to measure it by")
    parser.add_argument("--out", type=Path, required=True, help="the decoder's file, .safetensors")
    parser.add_argument("--multitask-config-yaml", default="config_mtl_asr_st_ctcst.yaml", help="default: %(default)s")
    parser.add_argument("--updates", type=int, default=default.updates, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=default.batch, help="sentences an update (default %(default)s)")
    parser.add_argument("--rate", type=float, default=default.rate, help="of learning, the highest (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="of everything (default %(default)s)")
    parser.add_argument("--save-every", type=int, default=200, help="updates between checkpoints (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16: half the time where a CPU has it")
    flags = parser.add_argument_group("model flags, as the training has them")
    add_model_flags(flags, ARCHITECTURES[arch.parse_known_args(argv)[0].arch][0])
    return parser


def decoder_of(args, tasks: dict) -> ConditionedDecoder:
    """The decoder of the architecture that the training will have."""
    kind, flags = ARCHITECTURES[args.arch]
    options = Namespace(**{**vars(args), "mt_decoder": KIND})
    fill_defaults(options, kind, **{**flags, "attention_dropout": 0.0, "activation_dropout": 0.0})
    sizes = (len(tasks[name].tgt_dict) for name in ("source_unigram", "target_unigram"))
    ffn_dim = tasks["target_unigram"].decoder_args.decoder_ffn_embed_dim
    config = config_from_args(options, *sizes, unit_vocab=8, mt_ffn_dim=ffn_dim, kind=kind)
    return DECODERS[KIND](config.mt)


def pairs_of(paths: list, tasks: dict) -> list:
    """The texts of the tables as (source, target) numbers of subwords; those without any are left out."""
    sides = {"source": tasks["source_unigram"], "target": tasks["target_unigram"]}
    models = {side: load_subwords(Path(task.config["dict"]).with_suffix(".model")) for side, task in sides.items()}
    found = []
    for row in (row for path in paths for row in read_table(path, tuple(sides))):
        pieces = {side: models[side].encode(normalise(row[side]), out_type=str) for side in sides}
        found.append(tuple([sides[side].tgt_dict.index(piece) for piece in pieces[side]] for side in sides))
    return [pair for pair in found if all(pair)]


def told(training: TextTraining, dev: list) -> str:
    """How well the decoder translates `dev` by now, and the time it took."""
    found = [f"{training.accuracy(dev, errors):.3f} with {errors:.0%} errors" for errors in SHOWN if dev]
    return ", ".join(["", *found, f"{time.process_time():.0f} CPU s"])


def score(args, tasks: dict) -> None:
    """Print BLEU for each table of --score."""
    decoder, symbols = decoder_of(args, tasks), tasks["target_unigram"].tgt_dict
    load_decoder(decoder, args.out, dictionaries(tasks))
    for path in args.score:
        pairs, texts = pairs_of([path], tasks), []
        for source, _ in tqdm(pairs, unit="text", disable=None):
            texts.append(translated(decoder, source, TextRecipe(seed=args.seed)))
        said, wanted = ([symbols.string(one, PIECES) for one in side] for side in (texts, [two[1] for two in pairs]))
        print(f"{path}: {len(pairs)} texts, BLEU {bleu(said, wanted):.1f}")


def dictionaries(tasks: dict) -> tuple:
    """The symbols of source and target."""
    return tuple(tasks[name].tgt_dict.symbols for name in ("source_unigram", "target_unigram"))


def main(argv=None) -> int:
    parser = build_parser(argv)
    args = parser.parse_args(argv)
    if not args.pairs and not args.score:
        parser.error("the following arguments are required: --pairs")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    checkpoint = args.out.with_name(f"{args.out.name}.training.pt")
    try:
        tasks = dict(read_multitask_config(args.data / args.multitask_config_yaml).get_all_tasks())
        if args.score:
            score(args, tasks)
            return 0
        decoder, pairs, dev = decoder_of(args, tasks), pairs_of(args.pairs, tasks), pairs_of(args.dev, tasks)
        recipe = TextRecipe(updates=args.updates, batch=args.batch, rate=args.rate, seed=args.seed)
        training = TextTraining(decoder, pairs, recipe, args.bf16)
        training.run(checkpoint, args.save_every, lambda: told(training, dev))
    except (DataError, ConfigError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save_decoder(args.out, decoder, dictionaries(tasks), updates=recipe.updates, pairs=len(pairs), seed=recipe.seed)
    checkpoint.unlink(missing_ok=True)
    print(f"{args.out}: {sum(p.numel() for p in decoder.parameters()) / 1e6:.2f} M parameters, {len(pairs)} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
