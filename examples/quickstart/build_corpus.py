"""Builds the quickstart corpus: parallel Spanish-English speech in StreamSpeech's layout, from packages alone.

    python examples/quickstart/build_corpus.py --out corpus

Each step leaves files that the next run finds again, so the same command goes on where it was stopped.
"""

import argparse
import json
import os
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread per worker, and sums in one order

import numpy as np  # noqa: E402
from manifests import train_pieces, write_configs  # noqa: E402
from speech import (  # noqa: E402
    HELD_OUT_VOICE,
    PITCH,
    TRAINING_VOICES,
    WORDS_PER_MINUTE,
    EnglishVoice,
    Speaker,
    read_wav,
    speak_spanish,
    write_wav,
)
from tqdm import tqdm  # noqa: E402

from echostream_plugin.data.feature_zip import FeatureZip, Moments, index_path, read_index, read_member  # noqa: E402
from echostream_plugin.data.parallel import Workers  # noqa: E402
from echostream_plugin.data.pieces import write_task_table  # noqa: E402
from echostream_plugin.data.tables import (  # noqa: E402
    MANIFEST_COLUMNS,
    normalise,
    read_table,
    write_lines,
    write_table,
    write_text,
)
from echostream_plugin.data.unit_models import UNIT_SETS, UnitModel, fit_units, make_features  # noqa: E402
from echostream_plugin.data.units import UnitsLog, read_units, reduce_units  # noqa: E402
from echostream_plugin.inference.features import StreamingFbank  # noqa: E402

SPLITS = ("train", "dev", "test")
PIECES = "spm_unigram_es"  # after StreamSpeech, named for the source language on both sides
_worker = {}  # what a worker process keeps between utterances


# ------------------------------------------------------------------------------------------------------------ text


def write_corpus_text(out, sizes, seed):
    """text/<split>.tsv: id, source, target, voice, words_per_minute, pitch, level. Returns them by split."""
    tables = {split: out / "text" / f"{split}.tsv" for split in SPLITS}
    if not all(path.exists() for path in tables.values()):
        import grammar

        text = grammar.build_text(sizes["train"], sizes["dev"], sizes["test"], seed)
        for split, path in tables.items():
            rows = []
            for number, utterance in enumerate(text[split]):
                speaker = choose_speaker(split, number, utterance.id, seed)
                rows.append(
                    {
                        "id": utterance.id,
                        "source": utterance.source,
                        "target": utterance.target,
                        "voice": speaker.voice,
                        "words_per_minute": speaker.words_per_minute,
                        "pitch": speaker.pitch,
                        "level": speaker.level,
                    }
                )
            write_table(path, list(rows[0]), rows)
    return {split: read_table(path) for split, path in tables.items()}


def choose_speaker(split, number, name, seed):
    """Training draws from the training voices; every other utterance of dev and test is the held-out voice's."""
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    voice = str(draw.choice(TRAINING_VOICES))
    if split != "train" and number % 2 == 0:
        voice = HELD_OUT_VOICE
    words_per_minute = int(draw.integers(WORDS_PER_MINUTE[0], WORDS_PER_MINUTE[1] + 1))
    pitch = int(draw.integers(PITCH[0], PITCH[1] + 1))
    return Speaker(voice, words_per_minute, pitch, round(float(draw.uniform(0.3, 0.9)), 3))


# ---------------------------------------------------------------------------------------------------------- speech


def speak_source(job):
    path, row = job
    speaker = Speaker(row["voice"], int(row["words_per_minute"]), int(row["pitch"]), float(row["level"]))
    write_wav(path, speak_spanish(row["source"], speaker))


def start_english():
    _worker["english"] = EnglishVoice()


def speak_target(job):
    path, row = job
    write_wav(path, _worker["english"].speak(row["target"]))


def speak_all(out, side, text, jobs):
    """<side>_wav/<id>.wav for every utterance that has none yet."""
    function, initializer = (speak_source, None) if side == "src" else (speak_target, start_english)
    folder = out / f"{side}_wav"
    folder.mkdir(parents=True, exist_ok=True)
    there = {entry.name for entry in os.scandir(folder)}
    rows = [row for split in SPLITS for row in text[split]]
    work = [(folder / f"{row['id']}.wav", row) for row in rows if f"{row['id']}.wav" not in there]
    for _ in Workers(jobs).ordered(function, work, f"{side} speech", initializer):
        pass


# ----------------------------------------------------------------------------------------------------------- units


def fit_unit_set(out, name, train, clusters, fit_utterances, seed):
    """units/<name>/kmeans.npz, from `fit_utterances` training wavs spread over the split."""
    path = out / "units" / name / "kmeans.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        picked = train[:: max(1, len(train) // fit_utterances)][:fit_utterances]
        waves = [read_wav(out / "tgt_wav" / f"{row['id']}.wav") for row in picked]
        bar = lambda items: tqdm(items, desc=f"{name} features", unit="wav", mininterval=1.0)  # noqa: E731
        fit_units(make_features(name), waves, clusters, seed, progress=bar).save(path)
    return path


def start_units(name, path):
    _worker["features"], _worker["units"] = make_features(name), UnitModel.load(path)


def units_of(path):
    return _worker["units"](_worker["features"](read_wav(path))).tolist()


def write_unit_set(out, name, text, model_path, jobs):
    """units/<name>/<split>.txt, lines `id|u u u ...` at 50 Hz; an interrupted file is continued."""
    for split, rows in text.items():
        path = out / "units" / name / f"{split}.txt"
        if path.exists():
            continue
        log = UnitsLog(path)
        work = [out / "tgt_wav" / f"{row['id']}.wav" for row in rows if row["id"] not in log.done]
        label = f"{name} units {split}"
        found = Workers(jobs).ordered(units_of, work, label, start_units, (name, model_path))
        for wav, units in zip(work, found, strict=True):
            log.add(wav.stem, units)
        log.close()


# --------------------------------------------------------------------------------------------- features, manifests


def features_of(path):
    """Log-mel features [T, 80] of a 16 kHz wav, no CMVN."""
    return StreamingFbank().push(read_wav(path))


def write_features(out, text, jobs):
    """src_fbank80.zip with its index, and gcmvn.npz; returns {id: {offset, size, frames}}."""
    path = out / "src_fbank80.zip"
    if not (path.exists() and index_path(path).exists()):
        store = FeatureZip(path)
        names = [row["id"] for rows in text.values() for row in rows if row["id"] not in store]
        wavs = [out / "src_wav" / f"{name}.wav" for name in names]
        for name, features in zip(names, Workers(jobs).ordered(features_of, wavs, "features"), strict=True):
            store.add(name, features)
        store.close()
    index = read_index(path)
    if not (out / "gcmvn.npz").exists():
        moments = Moments()
        for row in text["train"]:
            moments.add(read_member(path, index[row["id"]]))
        moments.save(out / "gcmvn.npz")
    return index


def write_manifests(out, text, index, unit_set, source_pieces, target_pieces):
    """Everything fairseq and SimulEval read besides the features; cheap, so made anew by every run."""
    sides = {}
    for side, column, size in (("src", "source", source_pieces), ("tgt", "target", target_pieces)):
        sentences = [normalise(row[column]) for row in text["train"]]
        sides[side] = column, train_pieces(out / f"{side}_unigram", PIECES, sentences, size)
    for split, rows in text.items():
        for side, (column, pieces) in sides.items():
            write_task_table(out / f"{side}_unigram" / f"{split}.tsv", rows, column, pieces)
        units = read_units(out / "units" / unit_set / f"{split}.txt")
        manifest = [_manifest_row(row, index[row["id"]], reduce_units(units[row["id"]])) for row in rows]
        data = out / "fbank2unit"
        write_table(data / f"{split}.tsv", MANIFEST_COLUMNS, manifest)
        for kind, column in (("unit", "tgt_audio"), ("src", "src_text"), ("txt", "tgt_text")):
            write_lines(data / f"{split}.{kind}", (row[column] for row in manifest))
        if split != "train":
            wavs = [str((out / "src_wav" / f"{row['id']}.wav").resolve()) for row in rows]
            lists = {"wav_list": wavs, "target": [row["tgt_text"] for row in manifest]}
            lists["src"] = [row["src_text"] for row in manifest]
            for name, lines in lists.items():
                write_lines(out / "simuleval" / split / f"{name}.txt", lines)
    write_configs(out / "fbank2unit", out / "src_unigram", out / "tgt_unigram", PIECES)


def _manifest_row(row, feature, units):
    return {
        "id": row["id"],
        "src_audio": f"../src_fbank80.zip:{feature['offset']}:{feature['size']}",
        "src_n_frames": feature["frames"],
        "src_text": row["source"],
        "tgt_text": normalise(row["target"]),
        "tgt_audio": " ".join(map(str, units)),
        "tgt_n_frames": len(units),
    }


# --------------------------------------------------------------------------------------------------------- summary


def summarise(out, unit_set):
    """Sizes, and units per target token, which the unit decoder's upsampling must cover (repeats need a blank)."""
    lines = []
    for split in SPLITS:
        rows = read_table(out / "fbank2unit" / f"{split}.tsv")
        tokens = {row["id"]: len(row["tgt_text"].split()) for row in read_table(out / "tgt_unigram" / f"{split}.tsv")}
        source_h = sum(int(row["src_n_frames"]) for row in rows) / 360000
        full = read_units(out / "units" / unit_set / f"{split}.txt")
        target_h = sum(len(units) for units in full.values()) / 50 / 3600
        ratio = np.array([int(row["tgt_n_frames"]) / (tokens[row["id"]] + 1) for row in rows])
        lines.append(
            f"{split:5s} {len(rows):5d} utterances, {source_h:5.2f} h source, {target_h:5.2f} h target, "
            f"{sum(tokens.values()) / len(rows):4.1f} target tokens; reduced {unit_set} units per (token + 1): "
            f"mean {ratio.mean():.2f}, p99 {np.percentile(ratio, 99):.2f}, max {ratio.max():.2f}"
        )
    text = "\n".join(lines) + "\n"
    write_text(out / "summary.txt", text)
    return text


def check_settings(out, settings):
    """A folder belongs to the settings it was begun with; only the unit set of its manifests may change."""
    path = out / "settings.json"
    before = json.loads(path.read_text()) if path.exists() else settings
    changed = sorted(key for key in settings if key != "units" and before.get(key) != settings[key])
    if changed:
        raise SystemExit(
            f"{path}: this folder was begun with other {', '.join(changed)}; use another --out, or remove the folder"
        )
    write_text(path, json.dumps(settings, indent=1) + "\n")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--train", type=int, default=6500, help="training utterances (default %(default)s)")
    parser.add_argument("--dev", type=int, default=200, help="dev utterances (default %(default)s)")
    parser.add_argument("--test", type=int, default=240, help="test utterances (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of text, speakers and k-means (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--units", choices=UNIT_SETS, default="whisper", help="what the target units are made of")
    parser.add_argument("--all-units", action="store_true", help="make the other unit set too, for comparison")
    parser.add_argument("--clusters", type=int, default=250, help="number of units K (default %(default)s)")
    parser.add_argument("--fit-utterances", type=int, default=500, help="wavs for k-means (default %(default)s)")
    parser.add_argument("--source-pieces", type=int, default=400, help="Spanish pieces (default %(default)s)")
    parser.add_argument("--target-pieces", type=int, default=400, help="English pieces (default %(default)s)")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    sizes = {split: getattr(args, split) for split in SPLITS}
    if min(sizes.values()) < 1:
        raise SystemExit("--train, --dev and --test must each be at least 1")
    kept = {name: getattr(args, name) for name in ("seed", "clusters", "fit_utterances", "units")}
    check_settings(out, {**sizes, **kept})
    text = write_corpus_text(out, sizes, args.seed)
    speak_all(out, "tgt", text, args.jobs)
    for name in UNIT_SETS if args.all_units else (args.units,):
        model_path = fit_unit_set(out, name, text["train"], args.clusters, args.fit_utterances, args.seed)
        write_unit_set(out, name, text, model_path, args.jobs)
    speak_all(out, "src", text, args.jobs)
    index = write_features(out, text, args.jobs)
    write_manifests(out, text, index, args.units, args.source_pieces, args.target_pieces)
    print(f"{out}: the corpus is complete, with {args.units} units\n{summarise(out, args.units)}", end="")


if __name__ == "__main__":
    sys.exit(main())
