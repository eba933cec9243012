"""Say in plain words what a machine lacks before the environment is made. Runs on any Python, 2.7 included."""

# ruff: noqa: UP010, UP031
from __future__ import print_function

import os
import shutil
import sys
import sysconfig

SMALLEST_FREE_GB = 7


def problems():
    """Every reason why the environment cannot be made here, each with its fix."""
    found = []
    version = "%d.%d" % sys.version_info[:2]
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found.append(
            "Python %s (%s) will not do: EchoStream needs 3.10, 3.11 or 3.12.\n"
            "  Name one that you have:  make demo PYTHON=python3.11\n"
            "  or install one:          sudo apt install python3.11 python3.11-venv python3.11-dev"
            % (version, sys.executable)
        )
        return found
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        found.append("Python's venv module is missing.\n  sudo apt install python%s-venv" % version)
    compiler = os.environ.get("CXX", "g++").split()[0]
    if not (shutil.which(compiler) or shutil.which("c++") or shutil.which("clang++")):
        hint = "fairseq builds small extensions.\n  sudo apt install build-essential"
        found.append("no C++ compiler (%s): %s" % (compiler, hint))
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        found.append("Python's headers are missing (%s).\n  sudo apt install python%s-dev" % (header, version))
    free_gb = shutil.disk_usage(os.getcwd()).free / 1e9
    if free_gb < SMALLEST_FREE_GB and not os.path.exists(".venv"):
        place = (free_gb, os.getcwd(), SMALLEST_FREE_GB)
        found.append("only %.1f GB free in %s; the environment takes about %d GB." % place)
    return found


if __name__ == "__main__":
    found = problems()
    for problem in found:
        print("error: " + problem, file=sys.stderr)
    sys.exit(1 if found else 0)
