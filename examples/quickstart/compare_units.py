"""Compares unit sets on the target speech of a corpus: how long, how repeatable, how much of the sound they keep.

    python examples/quickstart/compare_units.py --corpus corpus

Columns: reduced units per second and per English word; share of frames that repeat the frame before; difference, as
edit distance over length, between the reduced units of one sentence spoken at two speeds; and the share of log-mel
variance that a linear map of a unit and its three neighbours on each side explains (what a vocoder can start from).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
from speech import EnglishVoice, read_wav  # noqa: E402
from tqdm import tqdm  # noqa: E402

from echostream_plugin.data.tables import read_table  # noqa: E402
from echostream_plugin.data.unit_models import UNIT_SETS, LogMelFeatures, fit_units, make_features  # noqa: E402
from echostream_plugin.data.units import reduce_units  # noqa: E402


def edit_distance(a, b):
    row = np.arange(len(b) + 1)
    for i, symbol in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (symbol != other))
    return int(row[-1])


def explained_variance(units, mels, clusters, context=3):
    """units: list of [T]; mels: list of [T, d]; R^2 of ridge regression on one-hot windows, held-out tenth."""
    rows, values = [], []
    for u, mel in zip(units, mels, strict=True):
        padded = np.pad(u, context, mode="edge")
        rows.append(np.stack([padded[i : i + len(u)] + i * clusters for i in range(2 * context + 1)], axis=1))
        values.append(mel)
    cut = len(rows) * 9 // 10
    width = (2 * context + 1) * clusters

    def encode(parts):
        index = np.concatenate(parts)
        x = np.zeros((len(index), width), np.float32)
        x[np.arange(len(index))[:, None], index] = 1
        return x

    x, y = encode(rows[:cut]), np.concatenate(values[:cut])
    mean = y.mean(0)
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(width, dtype=np.float32), x.T @ (y - mean))
    x, y = encode(rows[cut:]), np.concatenate(values[cut:])
    return 1 - np.square(y - mean - x @ weights).sum() / np.square(y - mean).sum()


def compare(name, clusters, waves, words, pairs, seed=1):
    """waves: list of [n]; words: their English word count; pairs: (wave, wave) of a sentence at two speeds."""
    features = make_features(name)
    model = fit_units(features, waves, clusters, seed)
    units = [model(features(wave)) for wave in waves]
    reduced = [reduce_units(u) for u in units]
    frames, kept = sum(map(len, units)), sum(map(len, reduced))
    changed = total = 0
    for one, other in pairs:
        a, b = (reduce_units(model(features(wave))) for wave in (one, other))
        changed, total = changed + edit_distance(a, b), total + max(len(a), len(b))
    mel = LogMelFeatures()
    r2 = explained_variance(units, [mel(wave)[:, 80:160] for wave in waves], clusters)
    return (
        f"{name:8s} K={clusters}: {kept / frames * 50:5.1f} units/s, {kept / sum(words):5.2f} units/word, "
        f"{1 - kept / frames:5.1%} repeats, {changed / total:5.1%} differ between speeds, R2 {r2:.3f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that build_corpus.py made")
    parser.add_argument("--wavs", type=int, default=400, help="training wavs to use (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=60, help="sentences spoken at two speeds (default %(default)s)")
    parser.add_argument("--clusters", type=int, nargs="+", default=[200, 300], help="numbers of units to try")
    args = parser.parse_args()
    rows = read_table(args.corpus / "text" / "train.tsv")[: args.wavs]
    waves = [read_wav(args.corpus / "tgt_wav" / f"{row['id']}.wav") for row in rows]
    words = [len(row["target"].split()) for row in rows]
    slow = EnglishVoice(length_scale=1.08)
    pairs = [(wave, slow.speak(row["target"])) for wave, row in tqdm(list(zip(waves, rows, strict=True))[: args.pairs])]
    for name in UNIT_SETS:
        for clusters in args.clusters:
            print(compare(name, clusters, waves, words, pairs), flush=True)


if __name__ == "__main__":
    main()
