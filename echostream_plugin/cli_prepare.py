"""`echostream prepare table.tsv -o FOLDER`: your own parallel recordings as a folder that trains."""

import argparse
import os
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.own_table import COLUMNS
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.prepare import DECODERS, FEATURE_KINDS, SOURCES, Settings, prepare
from echostream_plugin.inference.errors import InputError

DESCRIPTION = f"""Makes a folder in StreamSpeech's layout of a table of parallel recordings: features, units, subwords,
manifests and yamls, each checked. TABLE is a tab- or comma-separated file with the columns {", ".join(COLUMNS)}: a
recording of each side in any format that libsndfile reads, at any rate, and what is said in it. Optional: `id` (names
files), `split` (train, dev, test; else sentences are put into dev and test by a hash of their text) and `src_n_frames`
(compared with the recordings). Paths are absolute or relative to the table. Rows that cannot be used are listed in
dropped.tsv. The same command resumes where it was stopped."""
NEXT = """Next: a vocoder for these units, then the model (docs/own_language.md has the commands):
  python scripts/train_vocoder.py --num-units {units} --units {out}/units/train.txt --dev-units {out}/units/dev.txt \\
    --wav-dir {out}/tgt_wav --out VOCODER
  fairseq-train {out}/fbank2unit --user-dir echostream_plugin --target-code-size {units} ..."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    default = Settings()
    add = parser.add_argument
    add("table", type=Path, help="tsv or csv of recordings and their texts")
    add("-o", "--out", type=Path, required=True, metavar="FOLDER", help="what is made; outside of the recordings")
    add("--language", default=default.language, help="source language, names the subword models (default %(default)s)")
    add("--unit-features", choices=FEATURE_KINDS, default=default.unit_features, help="what units are clusters of: the "
        "encoder of whisper-base, log-mel frames, or a HuBERT (default %(default)s)")  # fmt: skip
    add("--clusters", type=int, default=default.clusters, help="number of units K (default %(default)s)")
    add("--kmeans", default="", help="a fitted k-means model (npz of this command, npy of centres, or joblib) "
        "(default: fitted here)")  # fmt: skip
    add("--fit-utterances", type=int, default=default.fit_utterances, help="recordings that k-means is fitted on "
        "(default %(default)s)")  # fmt: skip
    add("--hubert", default="", metavar="FOLDER", help="HuBERT of the transformers library; "
        "scripts/cvss/convert_hubert.py makes one of fairseq's")  # fmt: skip
    add("--layer", type=int, default=default.layer, help="its layer (default %(default)s)")
    add("--subwords", type=int, default=0, help="size of both SentencePiece models (default: one for each different "
        "word, 100 to 6000)")  # fmt: skip
    add("--decoder", choices=DECODERS, default=default.decoder, help="width of the MT decoder: full is StreamSpeech's, "
        "small for echostream_base, echostream_whisper and echostream_tiny (default %(default)s)")  # fmt: skip
    add("--source", choices=SOURCES, default=default.source, help="what training reads: stored log-mel features, or "
        "the recordings themselves: slower, no disk; encoders with features of their own need it")  # fmt: skip
    add("--dev-percent", type=float, default=default.dev_percent, help="of the sentences (default %(default)s)")
    add("--test-percent", type=float, default=default.test_percent, help="of the sentences (default %(default)s)")
    add("--most-seconds", type=float, default=default.most_seconds, help="longer recordings are left out (%(default)s)")
    add("--max-missing", type=float, default=1.0, help="percent of rows that may be unusable (default %(default)s)")
    add("--seed", type=int, default=default.seed, help="of k-means (default %(default)s)")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> int:
    """Run the command; returns its exit status: 1 where a check of the result found a problem."""
    if args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: at least 1 is needed")
    try:
        settings = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
        bad, units = prepare(args.table, args.out, settings, Workers(args.jobs), args.max_missing)
    except DataError as error:
        raise InputError(str(error)) from error
    print((args.out / "summary.txt").read_text(encoding="utf-8"), end="")
    print(f"{bad} checks found a problem" if bad else NEXT.format(units=units, out=args.out))
    return 1 if bad else 0
