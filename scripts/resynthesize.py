#!/usr/bin/env python3
"""Speak unit sequences with a unit vocoder, and, with --judge, have whisper-base read them back.

    python scripts/resynthesize.py --units test.txt --vocoder vocoder --out wav --judge --references test.en

--units takes lines `name|u u u`, bare `u u u`, or the unit lines of fairseq-generate (`D-<id> TAB score TAB u u u`).
Repeats are removed and durations predicted, unless --full-rate. References are one sentence a line in the order of the
unit list, `name|sentence` / `name TAB sentence` in any order, or a table with columns `id` and `target`. The last line
printed is json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import soundfile as sf  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from echostream_plugin.config import ConfigError  # noqa: E402
from echostream_plugin.units import reduce_units  # noqa: E402
from echostream_plugin.vocoder import StreamingVocoder, load_public_checkpoint, load_vocoder  # noqa: E402
from echostream_plugin.vocoder.data import find_wav, read_units  # noqa: E402
from echostream_plugin.vocoder.losses import mel_distance  # noqa: E402


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", required=True, help="unit sequences, one a line")
    parser.add_argument("--vocoder", required=True, help="folder of scripts/train_vocoder.py, or a public checkpoint")
    parser.add_argument("--vocoder-config", help="config.json of a public checkpoint")
    parser.add_argument("--out", required=True, help="folder for the wavs")
    parser.add_argument("--full-rate", action="store_true", help="keep repeats: one unit for each 20 ms frame")
    parser.add_argument("--streaming-units", type=int, default=0, help="push so many units at a time; 0: all at once")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many sequences")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--original-wavs", help="folder of the true wavs: with --full-rate, reports the mel distance")
    parser.add_argument("--judge", action="store_true", help="word error rate by whisper-base; needs --references")
    parser.add_argument("--references", help="what was said, one sentence a line or name|sentence")
    parser.add_argument("--judge-originals", action="store_true", help="also judge --original-wavs, the upper bound")
    args = parser.parse_args(argv)
    if args.judge and not args.references:
        parser.error("--judge needs --references")
    if args.judge_originals and not args.original_wavs:
        parser.error("--judge-originals needs --original-wavs")
    return args


def load(args):
    """The vocoder of --vocoder: our folder, or a public checkpoint with its --vocoder-config."""
    if args.vocoder_config:
        return load_public_checkpoint(args.vocoder, args.vocoder_config)
    if Path(args.vocoder).is_file():
        raise ConfigError(f"{args.vocoder}: a checkpoint file needs its config.json: give --vocoder-config")
    return load_vocoder(args.vocoder)


def speak(model, units: list, full_rate: bool = False, streaming_units: int = 0) -> np.ndarray:
    """Samples [n] float32 of one unit sequence."""
    if full_rate:
        with torch.inference_mode():
            return model.generate(torch.tensor([units], dtype=torch.long))[0].numpy()
    units, _ = reduce_units(units)
    vocoder, size = StreamingVocoder(model), streaming_units or max(1, len(units))
    state, pieces = vocoder.initial_state(), []
    for start in range(0, len(units), size):
        samples, state = vocoder.push(units[start : start + size], state)
        pieces.append(samples)
    return torch.cat([*pieces, vocoder.finish(state)]).numpy()


def read_references(path, names: list[str]) -> list[str]:
    """The sentence of each name."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; references are one sentence a line")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    columns = lines[0].split("\t") if lines else []
    if "id" in columns and "target" in columns:
        rows = [dict(zip(columns, line.split("\t"), strict=False)) for line in lines[1:]]
        lines = [f"{row['id']}\t{row.get('target', '')}" for row in rows]
    separator = next((s for s in ("\t", "|") if all(s in line for line in lines)), None)
    if separator is None:
        if len(lines) < len(names):
            raise ConfigError(f"{path}: {len(lines)} sentences for {len(names)} unit sequences")
        return [line.strip() for line in lines[: len(names)]]
    named = dict(line.split(separator, 1) for line in lines)
    missing = [name for name in names if name not in named]
    if missing:
        raise ConfigError(f"{path}: no sentence for '{missing[0]}' of the unit list")
    return [named[name].strip() for name in names]


def main(argv=None):
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    model = load(args)
    sequences = read_units(args.units)[: args.limit or None]
    names = [name for name, _ in sequences]
    references = read_references(args.references, names) if args.judge else []
    out, rate = Path(args.out), model.config.sampling_rate
    out.mkdir(parents=True, exist_ok=True)
    wavs, distances, seconds, started = [], [], 0.0, time.process_time()
    for name, units in tqdm(sequences, desc="vocoder", unit="wav"):
        wav = speak(model, units, args.full_rate, args.streaming_units)
        wavs.append(out / f"{Path(name).stem}.wav")
        sf.write(wavs[-1], wav, rate, subtype="PCM_16")
        seconds += len(wav) / rate
        if args.original_wavs and args.full_rate:
            original, _ = sf.read(find_wav(args.original_wavs, name), dtype="float32")
            distances.append(mel_distance(torch.from_numpy(wav), torch.from_numpy(original), rate))
    result = {"utterances": len(wavs), "seconds": round(seconds, 1)}
    result["real_time_factor"] = round((time.process_time() - started) / max(seconds, 1e-9), 4)
    if distances:
        result["mel_distance"] = round(float(np.mean(distances)), 4)
    if args.judge:
        result.update(judge(args, wavs, names, references))
    print(json.dumps(result))
    return result


def judge(args, wavs: list, names: list, references: list) -> dict:
    """WER of the wavs; the transcripts go to judge.tsv beside them."""
    from echostream_plugin.evaluation.judge import Judge, wer

    reader = Judge(threads=args.threads)
    transcripts = reader.transcribe_all(wavs)
    rows = zip(names, references, transcripts, strict=True)
    Path(args.out, "judge.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    result = {"wer": round(wer(transcripts, references), 2)}
    if args.judge_originals:
        originals = reader.transcribe_all([find_wav(args.original_wavs, name) for name in names])
        result["wer_originals"] = round(wer(originals, references), 2)
    return result


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
