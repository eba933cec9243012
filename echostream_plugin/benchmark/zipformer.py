"""What the Zipformer costs, beside every figure that an earlier design of it claimed, and beside an Emformer."""

import time
from dataclasses import replace

import torch

from echostream_plugin.benchmark.encoders import forms, in_form
from echostream_plugin.benchmark.measure import Spread, peak_bytes, timed
from echostream_plugin.benchmark.report import age_name, cell, mega, table
from echostream_plugin.config import EncoderConfig
from echostream_plugin.constants import FRAME_MS
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.encoders.zipformer import ZipformerConfig, ZipformerEncoder
from echostream_plugin.modules.packed import can_pack
from echostream_plugin.modules.recording import record_calls

SMALL = ZipformerConfig(
    dim=256, stack_dims=(192, *(256,) * 5), layers=(2,) * 6, ffn_dim=(512, *(768,) * 5), unmasked_dims=(192,) * 6
)
MODELS = {"small": SMALL, "medium": ZipformerConfig()}
EMFORMER = EncoderConfig(layers=22)  # as many parameters as the small Zipformer
TINY = {
    "dim": 32, "stack_dims": (32,) * 6, "layers": (1,) * 6, "ffn_dim": (32,) * 6, "heads": (2,) * 6,
    "conv_kernel": (5,) * 6, "unmasked_dims": (32,) * 6,
}  # fmt: skip
COMPILED = "half-precision weights, compiled"
CHUNKS_MS = (160, 480, 800, 1600)  # the nearest that there are to 200, 400, 800 and 1600
LENGTHS_S = (1, 5, 10, 20)
AGES_S = (5, 30, 1800)
FEATURES_PER_S = 100
HEAD = ["claimed", "what that number was", *(f"{name}, measured" for name in MODELS)]


@torch.inference_mode()
def measure(device: str, runs: int, quick: bool = False) -> dict:
    """Everything for both tables; quick: tiny models and seconds instead of minutes."""
    models = {name: replace(config, **TINY) if quick else config for name, config in MODELS.items()}
    emformer = replace(EMFORMER, dim=32, layers=1, heads=2, ffn_dim=32) if quick else EMFORMER
    ages = (0.64, 1.28) if quick else AGES_S
    sessions = sessions_form(device)
    form = "float32" if quick else sessions  # recording takes seconds for each length of a chunk
    found = {"claims": {name: claims(config, device, runs, form) for name, config in models.items()}, "steps": []}
    small = next(iter(models.values()))
    named = {
        "Zipformer, small": (ZipformerEncoder, small),
        "the same with a memory of 4 chunks": (ZipformerEncoder, replace(small, memory_size=4)),
        "Emformer of as many parameters": (EmformerEncoder, emformer),
    }
    for name, (kind, config) in named.items():
        plain = kind(config).eval().to(device)
        compiles = COMPILED in forms(device) and hasattr(plain, "compile_steps")
        for form in ("float32", sessions, *[COMPILED] * compiles):
            rows = _aged(in_form(plain, form), ages if form != "float32" else ages[:1], device, runs)
            parameters = sum(parameter.numel() for parameter in plain.parameters())
            found["steps"].append({"name": name, "form": form, "parameters": parameters, "ages": rows})
    return found


@torch.inference_mode()
def claims(config: ZipformerConfig, device: str, runs: int, form: str) -> dict:
    """One model beside the claimed figures: milliseconds of work, bytes; form: a key of FORMS, of its chunks."""
    encoder = ZipformerEncoder(config).eval().to(device)
    ahead = ZipformerEncoder(replace(config, lookahead_frames=1)).eval().to(device)
    ahead.load_state_dict(encoder.state_dict())
    weights = sum(parameter.nbytes for parameter in encoder.parameters())
    found = {
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "weight_bytes": weights,
        "state_bytes": encoder.initial_state().nbytes,
        "two_of_10_s": _whole(encoder, 10, device, runs, batch_size=2),
        "whole": {seconds: _whole(encoder, seconds, device, runs) for seconds in LENGTHS_S},
        "peak_bytes": {},
        "chunks": {},
        "lookahead": [_whole(each, 4, device, runs) for each in (encoder, ahead)],
    }
    for seconds in LENGTHS_S:
        inputs = _utterance(seconds, device)
        found["peak_bytes"][seconds] = peak_bytes(lambda inputs=inputs: encoder(*inputs), device)
    streaming = in_form(encoder, form)
    for chunk_ms in (*CHUNKS_MS, 320):
        found["chunks"][chunk_ms] = _chunk(streaming, chunk_ms, device, runs)
    return found


def spent(work, runs: int, device: str) -> Spread:
    """Milliseconds of work(): on a CPU this process's own, so that what else runs counts little; on a GPU by the
    clock."""
    if device.startswith("cuda"):
        return timed(work, runs, device)
    times = []
    for run in range(runs + 1):
        began = time.process_time()
        work()
        if run:
            times.append(1000 * (time.process_time() - began))
    return Spread.of(times)


def sessions_form(device: str) -> str:
    """How sessions run an encoder that is not compiled, a key of FORMS."""
    return "half-precision weights, recorded" if device == "cpu" and can_pack() else "recorded"


def _utterance(seconds: float, device: str, batch_size: int = 1):
    count = round(seconds * FEATURES_PER_S)
    features = torch.randn(batch_size, count, 80, device=device)
    return features, torch.full((batch_size,), count, device=device)


def _whole(encoder, seconds: float, device: str, runs: int, batch_size: int = 1) -> Spread:
    """Of the parallel form in chunks of 320 ms."""
    inputs = _utterance(seconds, device, batch_size)
    return spent(lambda: encoder(*inputs), runs, device)


def _chunk(encoder, chunk_ms: int, device: str, runs: int) -> Spread:
    """Of a chunk in the middle of a stream."""
    features = torch.randn(1, chunk_ms // 10, 80, device=device)
    state = encoder.initial_state(1, chunk_ms // FRAME_MS)
    with record_calls():
        for _ in range(3):
            state = encoder.step(features, state)[1]
    return spent(lambda: encoder.step(features, state), max(runs, 5), device)


@torch.inference_mode()
def _aged(encoder, ages: tuple, device: str, runs: int) -> list:
    """A step of 320 ms after so many seconds of a stream, for each."""
    features, state, done, rows = torch.randn(1, 32, 80, device=device), encoder.initial_state(1, 8), 0, []
    with record_calls():
        encoder.step(features, state)
    for age in ages:
        for _ in range(round(age / 0.32) - done):
            state, done = encoder.step(features, state)[1], done + 1
        ms = spent(lambda state=state: encoder.step(features, state), max(runs, 5), device)
        rows.append({"age_s": age, "ms": ms, "state_bytes": state.nbytes})
    return rows


def markdown(results: dict) -> str:
    """Both tables."""
    columns = [_column(found) for found in results["claims"].values()]
    rows = [[*claim, *cells] for claim, *cells in zip(CLAIMS, *columns, strict=True)]
    steps = results["steps"]
    ages = [row["age_s"] for row in steps[-1]["ages"]]
    head = ["ms for 320 ms", "", "parameters, M", *(f"at {age_name(age)}" for age in ages), "state, kB"]
    body = [
        [each["name"], each["form"], mega(each["parameters"]), *(cell(row["ms"]) for row in each["ages"]),
         *["-"] * (len(ages) - len(each["ages"])), round(each["ages"][-1]["state_bytes"] / 1000)]
        for each in steps
    ]  # fmt: skip
    return f"{table(HEAD, rows)}\n{table(head, body)}\n{ratios(results)}"


def ratios(results: dict) -> str:
    """A sentence on the aims: the step beside the Emformer's in each form, its growth, the state's."""
    ours, *others = (each for each in results["steps"] if each["form"] != "float32")
    emformers = [each for each in others if "Emformer" in each["name"]]
    first, last = ours["ages"][0], ours["ages"][-1]
    beside = ", ".join(
        f"{first['ms'].median / each['ages'][0]['ms'].median:.2f} ({each['form']})" for each in emformers
    )
    young, old = age_name(first["age_s"]), age_name(last["age_s"])
    return (
        f"The small one's step as sessions run it, over the Emformer's, at {young}: {beside}; aim 2.0 or less. At "
        f"{old} over that at {young}: {last['ms'].median / first['ms'].median:.2f}, aim 1.05 or less; state bytes: "
        f"{last['state_bytes'] / first['state_bytes']:.2f}.\n"
    )


CLAIMS = (
    ("42.15 M parameters", "true"),
    ("160.8 MB at 1, 5, 10 and 20 s, so constant memory", "the bytes of the parameters; nothing was measured"),
    ("531.6 ms for 2 x 10 s: RTF 0.053", "two utterances counted as one: 0.027 per second of audio"),
    ("38, 100, 228, 903 ms for 1, 5, 10, 20 s", "whole utterances; twice the length took four times as long"),
    ("latency 20.8, 24.9, 31.7, 42.4 ms of chunks of 200 to 1600 ms", "time of computing; the chunk itself adds"),
    ("RTF offline 0.020, streaming 0.062", "of 10 s; its other tests say 0.023 and 0.027 offline"),
    ("L=0 82 ms, L=1 85 ms for 4 s", "time of computing; L of every layer adds up to as many frames as layers"),
)


def _column(found: dict) -> list:
    """A model's cells, one beside each of CLAIMS."""
    whole, chunks = found["whole"], found["chunks"]

    def rtf(ms: float, seconds: float) -> str:
        return f"{ms / 1000 / seconds:.3f}"

    peaks = ", ".join(mega(peak) for peak in found["peak_bytes"].values())
    two = found["two_of_10_s"].median
    each = ", ".join(f"{ms}: {chunks[ms].median:.1f} (heard after {ms + chunks[ms].median:.0f})" for ms in CHUNKS_MS)
    ahead = " and ".join(f"{spread.median:.0f}" for spread in found["lookahead"])
    return [
        f"{mega(found['parameters'])} M",
        f"weights {mega(found['weight_bytes'])} MB; a stream's state {found['state_bytes'] / 1e6:.2f} MB at any age; "
        f"peak beyond the weights for 1, 5, 10, 20 s: {peaks} MB",
        f"{two:.0f} ms, RTF {rtf(two, 20)} per second of audio",
        ", ".join(f"{whole[seconds].median:.0f}" for seconds in LENGTHS_S) + " ms",
        f"{each} ms",
        f"{rtf(whole[10].median, 10)} and, in 320 ms, {rtf(chunks[320].median, 0.32)}",
        f"{ahead} ms; L=1 is heard 40 ms later",
    ]
