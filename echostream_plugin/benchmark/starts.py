"""How long everything takes before the first word: processes that begin cold, on warm disks."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

from echostream_plugin.benchmark.measure import Spread
from echostream_plugin.inference.bundle import bundle_recordings

SECONDS = 3.0  # of speech that is translated
AIMS_MS = {
    "echostream --help": 300,
    "import echostream_plugin": 100,
    "a session ready": 2000,
    "a file of 3 s translated": 4000,
}
READY = (
    "from echostream_plugin.inference.bundle import load_bundle;"
    "from echostream_plugin.inference.optimize import optimize;"
    "from echostream_plugin.inference.session import TranslationSession;"
    "session = TranslationSession(optimize(load_bundle({bundle!r})));"
    "print('ready', flush=True)"
)
COMMAND = "import sys; from echostream_plugin.cli import main; sys.argv[1:] = {arguments!r}; sys.exit(main())"


def time_starts(bundle, runs: int) -> list[dict]:
    """Rows {name, ms, aim_ms}: whole processes, from the command to its end, or until a session says that it is ready.
    bundle: a folder with samples."""
    recordings = bundle_recordings(bundle)
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "speech.wav"
        samples, rate = soundfile.read(recordings[0], dtype="float32")
        soundfile.write(speech, samples[: round(SECONDS * rate)], rate)
        arguments = ["translate", str(speech), "-o", str(Path(folder) / "out"), "--bundle", str(bundle)]
        programs = [
            COMMAND.format(arguments=["--help"]),
            "import echostream_plugin",
            READY.format(bundle=str(bundle)),
            COMMAND.format(arguments=[*arguments, "--overwrite", "--quiet"]),
        ]
        times = [_times(program, runs) for program in programs]
    return [
        {"name": name, "ms": spread, "aim_ms": aim} for (name, aim), spread in zip(AIMS_MS.items(), times, strict=True)
    ]


def _times(program: str, runs: int) -> Spread:
    """Of so many processes; one more before them warms the disks."""
    times = []
    for _ in range(1 + runs):
        began = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            if not any(line == "ready\n" for line in process.stdout):
                process.wait()
            times.append(1000 * (time.perf_counter() - began))
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, program)
    return Spread.of(times[1:])
