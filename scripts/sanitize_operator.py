#!/usr/bin/env python3
"""The compiled operator's tests with a library that checks every access and every operation.

    python scripts/sanitize_operator.py                         # arguments go to pytest, such as -k linear

Builds echostream_plugin/csrc with gcc's address and undefined-behaviour sanitizers into a temporary folder and runs
tests/modules/test_native*.py with it; any finding ends the run.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++17", "-O1", "-g", "-ffp-contract=fast", "-fPIC", "-w"]
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def main(arguments: list) -> int:
    with tempfile.TemporaryDirectory() as folder:
        sources = sorted(map(str, (ROOT / "echostream_plugin" / "csrc").glob("*.cpp")))
        library = Path(folder) / "_native.so"
        subprocess.run(["g++", *FLAGS, *CHECKS, "-shared", *sources, "-o", str(library)], check=True)
        where = [["g++", f"-print-file-name={name}"] for name in ("libasan.so", "libubsan.so")]
        runtimes = [subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip() for ask in where]
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "ECHOSTREAM_TEST_NATIVE": folder,
        }
        tests = sorted(map(str, (ROOT / "tests" / "modules").glob("test_native*.py")))
        command = [sys.executable, "-m", "pytest", "-q", "-s", *tests, *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
