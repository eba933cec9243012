#!/usr/bin/env python3
"""Word error rate of text to speech: a bundle speaks texts, whisper-base transcribes the speech.

    python scripts/measure_speech.py --bundle BUNDLE --data corpus/simuleval/dev --limit 48 --work scored \\
        source=none,lead=0 source=none,lead=9 source=recording,lead=9 source=mean,lead=9

Each argument is one way of speaking: `source` is what the MT decoder attends to (none; recording: that of wav_list.txt;
silence or mean: silent audio, or features at their mean, 0.4 s a word or `seconds` of it), the rest are `SpeakOptions`
by name.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.scores import wer
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.audio import at_rate, read_audio
from echostream_plugin.inference.bundle import Bundle, load_bundle
from echostream_plugin.inference.errors import BundleError, InputError, SessionError
from echostream_plugin.inference.events import Speech
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.speak import TextSpeaker, source_frames, speak_options

SOURCES = ("none", "recording", "silence", "mean")
SECONDS_PER_WORD = 0.4


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--data", required=True, type=Path, help="folder with wav_list.txt and target.txt")
    parser.add_argument("--limit", type=int, default=48, help="only so many utterances, spread over the list")
    parser.add_argument("--work", type=Path, help="folder that keeps transcripts, so that a run can be taken up again")
    parser.add_argument("ways", nargs="+", metavar="name=value,...", help="source, and SpeakOptions")
    return parser.parse_args(argv)


def read_way(text: str) -> tuple[str, dict]:
    """`source=none,lead=9` as the source and the other values as floats or ints."""
    values = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in text.split(","))
    source = values.pop("source", "none")
    if source not in SOURCES:
        raise ConfigError(f"source '{source}': use one of {', '.join(SOURCES)}")
    try:
        return source, {name: float(v) if "." in v else int(v) for name, v in values.items()}
    except ValueError as error:
        raise ConfigError(f"'{text}': expected name=number,name=number") from error


def speak(bundle: Bundle, text: str, source: torch.Tensor | None, options: dict) -> np.ndarray:
    """Samples [n] at 16 kHz of a text."""
    speaker = TextSpeaker(bundle, speak_options(bundle, **options), source)
    speech = [event for event in speaker.push(text) + speaker.finish() if isinstance(event, Speech)]
    if not speech:
        return np.zeros(0, dtype=np.float32)
    samples = np.concatenate([event.samples for event in speech])
    rate = speech[0].sample_rate
    return at_rate(samples, rate)


def source_of(bundle: Bundle, kind: str, seconds: float | None, wav: Path, text: str) -> torch.Tensor | None:
    """Encoder frames [1, S, C] for the MT decoder."""
    seconds = seconds or SECONDS_PER_WORD * max(1, len(text.split()))
    if kind == "recording":
        return source_frames(bundle, *read_audio(wav))
    if kind == "silence":
        return source_frames(bundle, np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32), SAMPLE_RATE)
    if kind == "mean":
        features = torch.zeros(1, int(100 * seconds), len(bundle.cmvn_mean), device=bundle.device)
        with torch.inference_mode():
            return bundle.model.encoder(features, torch.tensor([features.size(1)], device=bundle.device), 0)[0]
    return None


def main(argv=None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(1)
    try:
        ways = [read_way(way) for way in args.ways]
        bundle, asr = optimize(load_bundle(args.bundle)), ScoringASR()
        folder = Folder.read(args.data)
        pairs = list(zip(folder.wavs, folder.references, strict=True))
        chosen = pairs[:: max(1, len(pairs) // args.limit)][: args.limit]
        rows = []
        for name, (kind, options) in zip(args.ways, ways, strict=True):
            began = time.perf_counter()
            bar = tqdm(chosen, desc=name, unit="text")
            length = options.pop("seconds", None)
            speech = [speak(bundle, text, source_of(bundle, kind, length, wav, text), options) for wav, text in bar]
            seconds = sum(map(len, speech)) / SAMPLE_RATE
            factor = (time.perf_counter() - began) / max(seconds, 1e-9)
            cache = args.work and args.work / "transcripts.jsonl"
            transcripts = asr.transcribe_all(speech, cache=cache)
            errors = wer(transcripts, [text for _, text in chosen])
            rows.append({"way": name, "wer": errors, "seconds": seconds, "factor": factor})
    except (BundleError, ConfigError, InputError, ScoringASRError, SessionError, SimulError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = {"way": "text to speech", "wer": "WER %", "seconds": "speech s", "factor": "computing / speech"}
    print(markdown_table(rows, columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
