"""How many speakers the live server holds on this machine, what it adds to a session, and what hostile clients do to a
good one.

    python scripts/load_live.py --sessions 1 5 10 20 40 --seconds 60

Starts `echostream serve` on this machine (loopback only), speaks to it at the speed of speech with the bundle's
recordings in a row, all speakers beginning together, and prints a table. Lag: from a piece of audio to the server's
word that it was processed, the time for which audio is collected (--push-ms) included. Those for whom there is no room
are refused; --room N takes N of them, whatever the machine can do.

--latency compares the server with a session in this process; --hostile lets 200 broken clients come one after the other
and 20 at once while one speaker is translated.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
import soundfile

from echostream_plugin.cli_options import DEFAULT_BUNDLE
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.inference.machine import device_name

PIECE_S = 0.1
HEAD = (
    "| speakers | held | refused | lag ms, median | 99 % | audio lost s | MB a session | real-time factor | load % |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


class ServerProcess:
    """`echostream serve` in a process of its own, at a free port."""

    def __init__(self, bundle: Path, flags=()):
        command = [sys.executable, "-m", "echostream_plugin.cli", "--log-level", "info", "serve", "--port", "0"]
        self._log = tempfile.TemporaryFile("w+")
        command += ["--bundle", str(bundle), *flags]
        self.process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        while not (found := re.search(r"http://[\d.]+:(\d+)/.*\nroom for (\d+)", self.log)):
            if self.process.poll() is not None:
                raise SystemExit(f"the server did not start: {self.log}")
            time.sleep(0.1)
        self.port, self.room = int(found[1]), int(found[2])

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
            return await answer.text()

    def stop(self) -> str:
        """End it as Ctrl-C does; returns what it had logged."""
        self.process.terminate()
        self.process.wait(timeout=60)
        return self.log


def speech_of(bundle: Path, seconds: float, seed: int) -> np.ndarray:
    """The bundle's recordings in a drawn order, half a second apart, int16."""
    from echostream_plugin.inference.bundle import bundle_recordings

    names = bundle_recordings(bundle)
    if not names:
        raise SystemExit(f"{bundle} has no recordings (samples/*.wav) to speak with")
    draw, pieces, length = random.Random(seed), [], 0
    while length < seconds * SAMPLE_RATE:
        samples, rate = soundfile.read(draw.choice(names), dtype="int16")
        if rate != SAMPLE_RATE:
            raise SystemExit(f"the recordings of {bundle} are not at {SAMPLE_RATE} Hz")
        pieces += [samples, np.zeros(SAMPLE_RATE // 2, np.int16)]
        length += len(samples) + SAMPLE_RATE // 2
    return np.concatenate(pieces)[: int(seconds * SAMPLE_RATE)]


async def speak(url: str, samples: np.ndarray, lags: list, audio_out=True) -> dict:
    """One speaker at the speed of speech. Appends a lag in seconds for every `heard`; returns what became of it."""
    found = {"heard": 0.0, "events": 0, "text": "", "refused": ""}
    size, began = int(PIECE_S * SAMPLE_RATE), time.monotonic()
    async with aiohttp.ClientSession() as client, client.ws_connect(url, max_msg_size=0) as socket:
        await socket.send_json({"protocol": "events", "audio_out": audio_out})

        async def send():
            with contextlib.suppress(ConnectionError):  # the server has refused
                for number, start in enumerate(range(0, len(samples), size)):
                    await asyncio.sleep(max(0.0, began + number * PIECE_S - time.monotonic()))
                    await socket.send_bytes(samples[start : start + size].tobytes())
                await socket.send_json({"end_of_stream": True})

        sending = asyncio.create_task(send())
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            found["events"] += 1
            if event["kind"] == "heard" and event["seconds"] > found["heard"]:
                found["heard"] = event["seconds"]
                lags.append(time.monotonic() - began - event["seconds"] + PIECE_S)
            elif event["kind"] == "error":
                found["refused"] = event["error"]
            elif event["kind"] == "target_text":
                found["text"] = event["text"]
        sending.cancel()
    return found


def percentile(values, percent) -> float:
    """Of the values; NaN of none."""
    return float(np.percentile(values, percent)) if values else float("nan")


async def load(server: ServerProcess, bundle: Path, count: int, seconds: float) -> str:
    """A row of the table: so many speakers at once."""
    lags, before = [], server.memory_mb
    everybody = [speech_of(bundle, seconds, seed) for seed in range(count)]
    jobs = [asyncio.create_task(speak(server.ws, samples, lags)) for samples in everybody]
    await asyncio.sleep(seconds * 0.8)
    metrics, memory = await server.metrics(), server.memory_mb
    found = await asyncio.gather(*jobs)
    held = [one for one in found if not one["refused"]]
    lost = sum(seconds - one["heard"] for one in held)
    factor, load = (figure(metrics, f"echostream_{name}") for name in ("real_time_factor", "load"))
    cells = [
        count,
        len(held),
        count - len(held),
        *(f"{1000 * percentile(lags, p):.0f}" for p in (50, 99)),
        f"{lost:.1f}",
    ]
    cells += [f"{(memory - before) / max(1, len(held)):.1f}", f"{factor:.3f}", f"{100 * load:.0f}"]
    return f"| {' | '.join(map(str, cells))} |"


def figure(metrics: str, name: str) -> float:
    """A value of Prometheus's text by its name, with its labels where it has some."""
    return float(re.search(rf"^{re.escape(name)} (\S+)", metrics, re.MULTILINE)[1])


async def added_latency(server: ServerProcess, bundle: Path, push_ms: int, seconds: float) -> str:
    """The server's lag beside the time that the same pushes take in a session of the same options in this process."""
    from echostream_plugin.cli_options import live_options
    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.optimize import optimize
    from echostream_plugin.inference.session import TranslationSession

    samples, lags = speech_of(bundle, seconds, 1), []
    before = await server.metrics()
    await speak(server.ws, samples, lags)
    after = await server.metrics()
    opened = optimize(load_bundle(bundle))
    session, bare = TranslationSession(opened, live_options(opened, {})), []
    size = int(PIECE_S * SAMPLE_RATE) * -(-push_ms // int(1000 * PIECE_S))
    for start in range(0, len(samples), size):
        began = time.monotonic()
        session.push(samples[start : start + size], SAMPLE_RATE)
        bare.append(time.monotonic() - began)
    waiting = size / SAMPLE_RATE - PIECE_S
    added = 1000 * (percentile(lags, 50) - percentile(bare, 50))
    late = replies_later_than(before, after, "0.1")
    return (
        f"bare session: a push takes {1000 * percentile(bare, 50):.0f} ms at the median; server: {added:.0f} ms more "
        f"(audio is collected for up to {1000 * waiting:.0f} ms of it); {late}"
    )


def replies_later_than(before: str, after: str, seconds: str) -> str:
    """How many events and pieces of voice went to the network later than so after the session said them."""
    name = "echostream_reply_seconds"
    count, soon = (
        figure(after, what) - figure(before, what) for what in (f"{name}_count", f'{name}_bucket{{le="{seconds}"}}')
    )
    return (
        f"{count - soon:.0f} of {count:.0f} replies left later than {1000 * float(seconds):.0f} ms after they were said"
    )


NANS = np.full(4000, np.nan, "<f4").tobytes()
HOSTILE = (
    [b"x"],
    ["{"],
    ["[" * 9999],
    ['{"sample_rate": -1}'],
    [b"\x00" * (2 << 20)],
    ['{"protocol": "events"}', b"\xff" * 999],
    ['{"protocol": "events", "format": "float32"}', NANS],
    ['{"resume": "x"}'],
    ['{"end_of_stream": true}'],
    [b"\x00\x01" * 1600] * 40,
    ['{"protocol": "events"}'],
    [],
)


async def hostile_client(url: str, seed: int):
    """One of the broken clients; it vanishes in some state."""
    draw = random.Random(seed)
    try:
        async with aiohttp.ClientSession() as client, client.ws_connect(url, max_msg_size=0) as socket:
            for message in draw.choice(HOSTILE):
                await (socket.send_bytes if isinstance(message, bytes) else socket.send_str)(message)
            if draw.random() < 0.5:
                await socket.receive(timeout=0.3)
            if draw.random() < 0.5:
                socket._response.connection.transport.abort()
    except (aiohttp.ClientError, TimeoutError, ConnectionError, AttributeError):
        pass


async def hostile(server: ServerProcess, bundle: Path, seconds: float) -> str:
    """One good speaker alone, then among broken clients: the same words?"""
    samples = speech_of(bundle, seconds, 2)
    alone = await speak(server.ws, samples, [])
    before = server.memory_mb
    good = asyncio.create_task(speak(server.ws, samples, []))
    for seed in range(200):
        await hostile_client(server.ws, seed)
    await asyncio.gather(*(hostile_client(server.ws, 1000 + seed) for seed in range(20)))
    among = await good
    same = "the same words" if among["text"] == alone["text"] and among["heard"] == alone["heard"] else "OTHER WORDS"
    return f"200 broken clients in a row and 20 at once: {same}; memory {server.memory_mb - before:+.0f} MB"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="model with samples (default: the bundled)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 5, 10, 20, 40], help="speakers at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech of each (default %(default)s)")
    parser.add_argument("--room", default="auto", help="the server's --max-sessions (default %(default)s)")
    parser.add_argument("--push-ms", type=int, default=160, help="the server's --push-ms (default %(default)s)")
    parser.add_argument("--latency", action="store_true", help="what the server adds to a bare session")
    parser.add_argument("--hostile", action="store_true", help="broken clients beside a good speaker")
    return parser


def main(argv=None) -> int:
    args = build_parser().parse_args(argv)
    server = ServerProcess(args.bundle, ["--max-sessions", args.room, "--push-ms", str(args.push_ms)])
    try:
        print(f"{device_name()}, {os.cpu_count()} cores; room for {server.room} (--max-sessions {args.room})\n")
        asyncio.run(speak(server.ws, speech_of(args.bundle, min(5.0, args.seconds), 0), []))  # memory that all share
        if args.sessions:
            print(HEAD)
        for count in args.sessions:
            print(asyncio.run(load(server, args.bundle, count, args.seconds)), flush=True)
        if args.latency:
            print(asyncio.run(added_latency(server, args.bundle, args.push_ms, args.seconds)))
        if args.hostile:
            print(asyncio.run(hostile(server, args.bundle, args.seconds)))
    finally:
        log = server.stop()
    if "Traceback" in log:
        print(log)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
