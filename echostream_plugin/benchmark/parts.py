"""Parts of the benchmark that can be measured alone, in a minute or two: sessions, many sessions, starts."""

from pathlib import Path

import torch
from tqdm import tqdm

from echostream_plugin.benchmark.crowd import time_crowd
from echostream_plugin.benchmark.report import crowd_table, session_table, start_table
from echostream_plugin.benchmark.sessions import random_bundle, time_session
from echostream_plugin.benchmark.starts import time_starts
from echostream_plugin.config import ModelConfig
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.modules.packed import can_pack
from echostream_plugin.vocoder import VocosConfig

SESSIONS, CROWD, STARTS = [5, 30, 300], [1, 2, 4, 8, 16], 5
QUICK_SESSIONS, QUICK_CROWD = [2], [1, 2]
QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "bundle"


def vocos_bundle(model: ModelConfig, device: str, quick: bool = False) -> Bundle:
    """A random bundle with a code_vocos, as sessions use it; quick: without a vocoder."""
    vocoder = None if quick else VocosConfig(num_embeddings=model.unit.units)
    bundle = random_bundle(model, vocoder).to(device)
    return optimize(bundle, "half" if device == "cpu" and can_pack() else "auto")


def sessions(model: ModelConfig, device: str, quick: bool) -> list[dict]:
    """Whole sessions, with a code_vocos: rows of `time_session`."""
    return [_session(model, device, quick, seconds) for seconds in tqdm(QUICK_SESSIONS if quick else SESSIONS)]


def _session(model, device, quick, seconds) -> dict:
    """Each with a bundle of its own, whose first push it makes."""
    return time_session(vocos_bundle(model, device, quick), seconds)


def crowd(model: ModelConfig, device: str, quick: bool) -> list[dict]:
    """Many whole sessions: rows of `time_crowd`."""
    return time_crowd(vocos_bundle(model, device, quick), QUICK_CROWD if quick else CROWD, 2.0 if quick else 20.0)


def starts(model: ModelConfig, device: str, quick: bool) -> list[dict]:
    """Rows of `time_starts`, of the quickstart's bundle."""
    return time_starts(QUICKSTART, 1 if quick else STARTS)


PARTS = {"sessions": (sessions, session_table), "crowd": (crowd, crowd_table), "starts": (starts, start_table)}


def measure_part(name: str, model: ModelConfig, threads: int, device: str, quick: bool) -> tuple[list[dict], str]:
    """The rows of a part (a key of `PARTS`), and their table."""
    torch.set_num_threads(threads)
    measure, table = PARTS[name]
    rows = measure(model, device, quick)
    return rows, table(rows)
