"""Builds the quickstart corpus: parallel Spanish-English speech in StreamSpeech's layout, from packages alone.

    python examples/quickstart/build_corpus.py --out corpus

Each step leaves files that the next run finds again, so the same command resumes where it was stopped.
"""

import argparse
import functools
import json
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread per worker, and sums in one order

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from corpus_text import SPLITS, plan_copies, prepare_prompts, write_corpus_text  # noqa: E402
from human import HumanError  # noqa: E402
from manifests import check_subwords, make_subwords, write_lists, write_splits  # noqa: E402
from source_audio import build_source  # noqa: E402
from speakers import engines_in_use  # noqa: E402
from speech import EnglishVoice, write_wav  # noqa: E402

from echostream_plugin.data.layout import Layout  # noqa: E402
from echostream_plugin.data.parallel import Shard, Workers  # noqa: E402
from echostream_plugin.data.prepare import fit_kmeans, units_of_model  # noqa: E402
from echostream_plugin.data.tables import read_table  # noqa: E402
from echostream_plugin.data.target_units import build_units  # noqa: E402
from echostream_plugin.data.unit_models import UNIT_SETS, make_features  # noqa: E402
from echostream_plugin.data.units import UNITS_NOTE, read_units  # noqa: E402
from echostream_plugin.data.waveforms import write_cmvn  # noqa: E402
from echostream_plugin.files import write_json, write_text  # noqa: E402

STEPS = ("source", "target", "units", "manifests")
_worker = {}  # what a worker process keeps between utterances


# --------------------------------------------------------------------------------------------------- target speech


def start_english():
    """What a worker process keeps: the English voice."""
    _worker["english"] = EnglishVoice()


def speak_target(job):
    """Write one target recording. job: its path, its row."""
    path, row = job
    write_wav(path, _worker["english"].speak(row["target"]))


def speak_targets(out, text, jobs):
    """tgt_wav/<id>.wav for every utterance that has none yet."""
    folder = out / "tgt_wav"
    folder.mkdir(parents=True, exist_ok=True)
    there = {entry.name for entry in os.scandir(folder)}
    rows = [row for rows in text.values() for row in rows]
    work = [(folder / f"{row['id']}.wav", row) for row in rows if f"{row['id']}.wav" not in there]
    for _ in Workers(jobs).ordered(speak_target, work, "target speech", start_english):
        pass


# ----------------------------------------------------------------------------------------------------------- units


class TargetSide(Layout):
    """The target recordings of every split, for the steps that all corpora share."""

    def __init__(self, out, unit_set, text):
        self.output, self.language, self.splits = out, "es", tuple(text)
        self._folder, self._text = out / "units" / unit_set, text

    def utterances(self, split):
        return [{"id": row["id"], "tgt_wav": self.output / "tgt_wav" / f"{row['id']}.wav"} for row in self._text[split]]

    def units_path(self, split):
        return self._folder / f"{split}.txt"


def write_unit_set(out, name, text, args):
    """units/<name>/kmeans.npz and <split>.txt, lines `id|u u u ...` at 50 Hz; what was interrupted is continued."""
    side, maker = TargetSide(out, name, text), functools.partial(make_features, name)
    model_path = out / "units" / name / "kmeans.npz"
    if not model_path.exists():
        recordings = [row["tgt_wav"] for row in side.utterances("train")]
        fit_kmeans(model_path, recordings, maker, args.clusters, args.fit_utterances, args.seed)
    features, centroids = units_of_model(maker, model_path, model_path.parent)
    build_units(side, features, centroids, Workers(args.jobs), Shard(), max_missing_percent=0.0)


# ------------------------------------------------------------------------------------------------------- manifests


def write_data_folder(out, text, planned, args):
    """Everything fairseq and SimulEval read besides the audio; cheap, so made anew by every run."""
    recordings = [out / row["wav"] for row in (*text["train"], *planned)]
    write_cmvn(out / "gcmvn.npz", recordings, Workers(args.jobs))
    units = {}
    for split in text:
        units |= read_units(out / "units" / args.units / f"{split}.txt")
    spoken = {**text, "train": [*text["train"], *planned]}
    for name in args.leave_out:
        spoken[f"train_without_{name}"] = [row for row in spoken["train"] if row["engine"] != name]
    sizes = {"src": args.source_subwords, "tgt": args.target_subwords}
    write_splits(out, spoken, make_subwords(out, text["train"], sizes, args.subwords), units)
    shutil.copyfile(out / "units" / args.units / UNITS_NOTE, out / "fbank2unit" / UNITS_NOTE)
    write_lists(out, {split: rows for split, rows in text.items() if split != "train"})


# --------------------------------------------------------------------------------------------------------- summary


def hours(paths):
    """Length of recordings together."""
    return sum(soundfile.info(path).duration for path in paths) / 3600


def summarise(out, text, planned, unit_set):
    """Hours per engine, disk use, and units per target token, which the unit decoder's upsampling must cover."""
    lines = []
    for split, rows in text.items():
        for engine in dict.fromkeys(row["engine"] for row in rows):
            said = [row for row in rows if row["engine"] == engine]
            changed = [row for row in planned if row["engine"] == engine] if split == "train" else []
            spoken_h = hours(out / row["wav"] for row in said)
            lines.append(
                f"{split:5s} {engine:6s} {len(said):6d} utterances, {spoken_h:6.2f} h; "
                f"{len(changed):6d} augmented copies, {hours(out / row['wav'] for row in changed):6.2f} h"
            )
    for split in text:
        rows = read_table(out / "fbank2unit" / f"{split}.tsv")
        tokens = {row["id"]: len(row["tgt_text"].split()) for row in read_table(out / "tgt_unigram" / f"{split}.tsv")}
        ratio = np.array([int(row["tgt_n_frames"]) / (tokens[row["id"]] + 1) for row in rows] or [0.0])
        lines.append(
            f"{split:5s} {sum(tokens.values()) / max(1, len(rows)):4.1f} target tokens; reduced {unit_set} units per "
            f"(token + 1): mean {ratio.mean():.2f}, p99 {np.percentile(ratio, 99):.2f}, max {ratio.max():.2f}"
        )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    summary = "\n".join([*lines, f"{size / 2**30:.2f} GiB on disk"]) + "\n"
    write_text(out / "summary.txt", summary)
    return summary


def check_settings(out, settings):
    """A folder belongs to the settings it was begun with; only the unit set of its manifests may change."""
    path = out / "settings.json"
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = sorted(key for key in settings if key != "units" and before.get(key) != settings[key])
    if changed:
        raise SystemExit(
            f"{path}: this folder was begun with other {', '.join(changed)}; use another --out, or remove the folder"
        )
    write_json(path, settings)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--train", type=int, default=20500, help="training utterances (default %(default)s)")
    parser.add_argument("--dev", type=int, default=300, help="dev utterances (default %(default)s)")
    parser.add_argument("--test", type=int, default=400, help="test utterances (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of text, speakers, k-means (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    _add_source_flags(parser.add_argument_group("source speech"))
    parser.add_argument("--units", choices=UNIT_SETS, default="whisper", help="what the target units are made of")
    parser.add_argument("--all-units", action="store_true", help="make the other unit set too, for comparison")
    parser.add_argument("--clusters", type=int, default=500, help="number of units K (default %(default)s)")
    parser.add_argument("--fit-utterances", type=int, default=700, help="wavs for k-means (default %(default)s)")
    for side, language in (("source", "Spanish"), ("target", "English")):
        names, text = (f"--{side}-subwords", f"--{side}-pieces"), f"{language} subwords (default %(default)s)"
        parser.add_argument(*names, type=int, default=1000, help=text)
    parser.add_argument(
        "--subwords", type=Path, metavar="BUNDLE",
        help="take the SentencePiece models of this bundle, for a model that begins with its heads or decoders",
    )  # fmt: skip
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP",
        help=f"only some of {' '.join(STEPS)}; each needs those before it once (default: all)",
    )  # fmt: skip
    return parser.parse_args(argv)


def _add_source_flags(group):
    group.add_argument("--engines", nargs="+", metavar="NAME", help="speech synthesizers (default: all installed)")
    group.add_argument("--without-engine", nargs="+", default=[], metavar="NAME", help="do not use these")
    group.add_argument(
        "--leave-out", nargs="+", default=[], metavar="NAME",
        help="write train_without_NAME.tsv too: the training split without one synthesizer's utterances",
    )  # fmt: skip
    group.add_argument("--copies", type=int, default=2, help="augmented copies an utterance (default %(default)s)")
    group.add_argument("--human-share", type=float, default=0.12, help="of the training speech (default %(default)s)")
    group.add_argument(
        "--human-debs", metavar="FOLDER",
        help="the asterisk-core-sounds packages, as .deb files or unpacked; 'none' for no human recordings (default: "
        "apt downloads them)",
    )  # fmt: skip


def main(argv=None):
    args = parse_args(argv)
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    sizes = {split: getattr(args, split) for split in SPLITS}
    if min(sizes.values()) < 1 or args.copies < 0 or not 0 <= args.human_share < 1:
        raise SystemExit("--train, --dev, --test must be at least 1, --copies 0 or more, --human-share from 0 to 1")
    try:
        if args.subwords:
            check_subwords(args.subwords)
        engines, notes = engines_in_use(args.engines, args.without_engine)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for note in notes:
        print(f"note: {note}")
    names = ("seed", "copies", "human_share", "clusters", "fit_utterances", "units")
    check_settings(out, {**sizes, **{name: getattr(args, name) for name in names}, "engines": list(engines)})
    try:
        prepare_prompts(out, args.human_debs)
    except HumanError as error:
        raise SystemExit(str(error)) from error
    text = write_corpus_text(out, sizes, args.seed, engines)
    planned = plan_copies(text["train"], args.copies, args.human_share)
    if "source" in args.steps:
        build_source(out, text, planned, engines, args.seed, args.jobs)
    if "target" in args.steps:
        speak_targets(out, text, args.jobs)
    for name in (UNIT_SETS if args.all_units else (args.units,)) if "units" in args.steps else ():
        write_unit_set(out, name, text, args)
    if "manifests" in args.steps:
        write_data_folder(out, text, planned, args)
        summary = summarise(out, text, planned, args.units)
        print(f"{out}: the corpus is complete, with {args.units} units\n{summary}", end="")


if __name__ == "__main__":
    sys.exit(main())
