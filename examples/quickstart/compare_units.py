"""Compares unit sets on the target speech of a corpus: how long, how repeatable, how much of the sound they keep.

    python examples/quickstart/compare_units.py --corpus corpus

Columns: reduced units per second and per English word; share of frames that repeat the frame before; difference, as
edit distance over length, between the reduced units of one sentence spoken at two speeds; and the share of log-mel
variance that a linear map of a unit and its three neighbours on each side explains (what a vocoder can start from),
in all and in the first 200 ms of the wavs. Whisper's features are made with each of --lead-in units of silence before.
"""

import argparse
from pathlib import Path

import numpy as np
from rapidfuzz.distance.Levenshtein import distance as edit_distance
from speech import EnglishVoice, read_wav
from tqdm import tqdm

from echostream_plugin.data.tables import read_table
from echostream_plugin.data.unit_models import (
    LEAD_IN,
    UNIT_SETS,
    LogMelFeatures,
    WhisperFeatures,
    fit_units,
    make_features,
)
from echostream_plugin.units import reduce_units


def explained_variance(units, mels, clusters, context=3):
    """units: list of [T]; mels: list of [T, d]; R^2 of ridge regression on one-hot windows over a held-out tenth, and
    over the first 20 to 200 ms of its wavs."""
    rows = []
    for u in units:
        padded = np.pad(u, context, mode="edge")
        rows.append(np.stack([padded[i : i + len(u)] + i * clusters for i in range(2 * context + 1)], axis=1))
    cut, width = len(rows) * 9 // 10, (2 * context + 1) * clusters
    index, y = np.concatenate(rows[:cut]), np.concatenate(mels[:cut])
    mean = y.mean(0)
    square, product = 10 * np.eye(width), np.zeros((width, y.shape[1]))
    for one in index.T:  # x is all zeros and ones, so its products are counts and sums
        np.add.at(product, one, y - mean)
        for other in index.T:
            np.add.at(square, (one, other), 1)
    weights = np.linalg.solve(square, product)
    errors = [mel - mean - weights[row].sum(1) for row, mel in zip(rows[cut:], mels[cut:], strict=True)]
    truth = [mel - mean for mel in mels[cut:]]
    return _explained(errors, truth), _explained([e[1:10] for e in errors], [t[1:10] for t in truth])


def _explained(errors, truth):
    return 1 - sum(np.square(e).sum() for e in errors) / sum(np.square(t).sum() for t in truth)


def compare(features, clusters, waves, words, pairs, seed=1):
    """features: a feature set; waves: list of [n]; words: their English word count; pairs: (wave, wave) of a sentence
    at two speeds."""
    model = fit_units(features, waves, clusters, seed)
    units = [model(features(wave)) for wave in waves]
    reduced = [reduce_units(u) for u in units]
    frames, kept = sum(map(len, units)), sum(map(len, reduced))
    changed = total = 0
    for one, other in pairs:
        a, b = (reduce_units(model(features(wave))) for wave in (one, other))
        changed, total = changed + edit_distance(a, b), total + max(len(a), len(b))
    mel = LogMelFeatures()
    r2, first = explained_variance(units, [mel(wave)[:, 80:160] for wave in waves], clusters)
    return (
        f"{features.name:8s} K={clusters}: {kept / frames * 50:5.1f} units/s, {kept / sum(words):5.2f} units/word, "
        f"{1 - kept / frames:5.1%} repeats, {changed / max(1, total):5.1%} differ between speeds, "
        f"R2 {r2:.3f}, of the first 200 ms {first:.3f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that build_corpus.py made")
    parser.add_argument("--wavs", type=int, default=400, help="training wavs to use (default %(default)s)")
    parser.add_argument("--pairs", type=int, default=60, help="sentences spoken at two speeds (default %(default)s)")
    parser.add_argument("--clusters", type=int, nargs="+", default=[200, 300], help="numbers of units to try")
    parser.add_argument("--lead-in", type=int, nargs="+", default=[0, LEAD_IN], help="units of silence to try")
    args = parser.parse_args()
    rows = read_table(args.corpus / "text" / "train.tsv")[: args.wavs]
    waves = [read_wav(args.corpus / "tgt_wav" / f"{row['id']}.wav") for row in rows]
    words = [len(row["target"].split()) for row in rows]
    slow = EnglishVoice(length_scale=1.08)
    pairs = [(wave, slow.speak(row["target"])) for wave, row in tqdm(list(zip(waves, rows, strict=True))[: args.pairs])]
    for name in UNIT_SETS:
        for lead_in in args.lead_in if name == "whisper" else [0]:
            features = WhisperFeatures(lead_in=lead_in) if name == "whisper" else make_features(name)
            for clusters in args.clusters:
                print(f"lead-in {20 * lead_in:3d} ms, {compare(features, clusters, waves, words, pairs)}", flush=True)


if __name__ == "__main__":
    main()
