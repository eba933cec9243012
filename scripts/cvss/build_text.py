#!/usr/bin/env python3
"""CVSS-C step 4: SentencePiece models and dictionaries of both sides, the multitask tables, and the two yamls.

    python scripts/cvss/build_text.py --covost covost2/fr --cvss cvss-c/fr-en --language fr --pieces 6000

Leaves {src,tgt}_unigram6000/spm_unigram_fr.{model,vocab,txt} and <split>.tsv, and fbank2unit/config_gcmvn.yaml and
config_mtl_asr_st_ctcst.yaml with relative paths. Models that are there already are used, not trained again (copy in
StreamSpeech's to go on from its checkpoints).
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from echostream_plugin.data.cvss import SPLITS, run_step  # noqa: E402
from echostream_plugin.data.pieces import load_pieces, train_pieces, write_configs, write_task_table  # noqa: E402
from echostream_plugin.data.tables import normalise  # noqa: E402

SIDES = (("src", "src_text"), ("tgt", "tgt_text"))


def build(corpus, size: int, threads: int, vocoder=None) -> None:
    rows = {split: corpus.read_list(split) for split in SPLITS}
    name, dictionaries = f"spm_unigram_{corpus.language}", []
    for side, column in SIDES:
        folder = corpus.pieces_folder(side, size)
        if (folder / f"{name}.model").is_file() and (folder / f"{name}.txt").is_file():
            processor = load_pieces(folder / f"{name}.model")
        else:
            print(f"training {size} pieces of the {side} side; minutes for a whole CVSS-C pair")
            processor = train_pieces(folder, name, (normalise(row[column]) for row in rows["train"]), size, threads)
        for split in SPLITS:
            write_task_table(folder / f"{split}.tsv", rows[split], column, processor)
        dictionaries.append(folder / f"{name}.txt")
    write_configs(corpus.data_folder, *dictionaries, vocoder)


def add_flags(parser) -> None:
    parser.add_argument("--pieces", type=int, default=6000, help="pieces of each side (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of SentencePiece")
    parser.add_argument("--vocoder", nargs=2, metavar=("CHECKPOINT", "CONFIG"), help="noted in config_gcmvn.yaml")


def main(argv=None) -> int:
    def step(corpus, args):
        build(corpus, args.pieces, args.threads, args.vocoder)

    return run_step(__doc__, step, argv, add_flags)


if __name__ == "__main__":
    sys.exit(main())
