"""The commands of the pages, and how each is run in this process, as written, on small data."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from fairseq import checkpoint_utils

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
_PROGRAM = re.compile(
    r"^(?:[A-Z_]+=(?:\"[^\"]*\"|\S*) )*"
    r"(?:python|torchrun|pip|make|mkdir|cat|arecord|echostream|simuleval|fairseq-\w+|[\w/]+\.sh)(?: |$)"
)
_CONSOLE = {
    "fairseq-train": "fairseq_cli.train",
    "fairseq-generate": "fairseq_cli.generate",
    "simuleval": "simuleval.cli",
    "echostream": "echostream_plugin.cli",
}


@dataclass(frozen=True)
class Small:
    """How a command is made small enough for a test.

    add: flags that are put after it; dots: what its `...` stands for; parse: only its command line is read, since what
    it does takes long and has tests of its own; tested: the file of tests that runs it instead; status: the exit
    status that it has on the small data."""

    add: str = ""
    dots: str = ""
    parse: bool = False
    tested: str = ""
    status: int = 0


class Parsed(BaseException):
    """A command line was read without an error."""


def commands_of(page: Path) -> list[str]:
    """Commands of indented and shell blocks, in order: lines joined, comments taken off. A line of such a block that
    begins with no known program is text."""
    lines, fence = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```").strip()
        elif fence in ("", "sh", "bash", "shell"):
            lines.append(line)
        elif fence is None and line.startswith("    "):
            lines.append(line[4:])
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    commands = [re.sub(r"\s{2,}#.*$", "", line).strip() for line in joined]
    return [command for command in commands if _PROGRAM.match(command)]


def run(command: str, small: Small) -> None:
    """Run a command in the current folder; AssertionError where it fails."""
    if small.tested:
        program = Path(shlex.split(command)[1]).name
        assert program in (ROOT / small.tested).read_text(encoding="utf-8"), f"{small.tested} does not run {program}"
        return
    command, _, saved = command.partition(" | tee ")
    if command.startswith(("cat ", "arecord ")):
        command = command.rpartition(" | ")[2]  # what reads the sound
    words = shlex.split(command)
    if "..." in words:
        place = words.index("...")
        words[place : place + 1] = shlex.split(small.dots)
    words += shlex.split(small.add)
    if "--user-dir" in words:  # fairseq knows the plugin of this process by its whole path
        place = words.index("--user-dir") + 1
        words[place] = str((ROOT / words[place]).resolve())
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen) if saved else contextlib.nullcontext():
        status = _in_this_process(words, small.parse)
    if saved:
        Path(saved).write_text(screen.getvalue(), encoding="utf-8")
    assert status == small.status, f"exit status {status} of: {shlex.join(words)}"


def _in_this_process(words: list[str], parse: bool) -> int:
    name = words[0]
    if name == "pip":
        return _pip(words)
    if name == "make":
        return subprocess.run(["make", "-n", "-f", ROOT / "Makefile", *words[1:]], stdout=subprocess.DEVNULL).returncode
    if name == "mkdir" or name.endswith(".sh") or "=" in name:  # env sets the variables before it
        return subprocess.run(["env", *words], stdout=subprocess.DEVNULL).returncode
    if name == "torchrun":
        from torch.distributed.run import get_args_parser

        asked = get_args_parser().parse_args(words[1:])  # how its processes work together has a test of its own
        return _called(lambda: importlib.import_module(asked.training_script).cli_main(), asked.training_script_args)
    if name in _CONSOLE:
        module = importlib.import_module(_CONSOLE[name])
        main = getattr(module, "cli_main", None) or module.main
        return _called(main, words[1:], parse)
    assert name == "python", name
    return _called(lambda: runpy.run_path(words[1], run_name="__main__") and 0, words[2:], parse, Path(words[1]).parent)


def _called(main, arguments: list[str], parse: bool = False, folder: Path | None = None) -> int:
    """The exit status of a program's main function."""
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # of another training in this process
    before = sys.argv, sys.path[:], os.environ.copy(), torch.get_num_threads(), argparse.ArgumentParser.parse_args
    read = before[-1]

    def parse_only(*given, **keywords):
        read(*given, **keywords)
        raise Parsed

    try:
        sys.argv = ["program", *arguments]
        if folder is not None:
            sys.path.insert(0, str(folder.resolve()))
        if parse:
            argparse.ArgumentParser.parse_args = parse_only
        status = main()
    except Parsed:
        return 0
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    finally:
        sys.argv, sys.path[:], environment, threads, argparse.ArgumentParser.parse_args = before
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        logging.disable(logging.NOTSET)
    return status if isinstance(status, int) else 0 if status is None else 1


def _pip(words: list[str]) -> int:
    """What can be said of an installation without making it: its files and extras exist, and fairseq is never built
    apart from the torch that is there."""
    import setuptools

    known = {}
    setup, setuptools.setup = setuptools.setup, known.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = setup
    for flag, value in zip(words, words[1:], strict=False):
        assert flag not in ("-c", "-r") or (ROOT / value).is_file(), value
    extras = [name for word in words for name in "".join(re.findall(r"\[(.*)\]", word)).split(",") if name]
    assert set(extras) <= set(known["extras_require"]), extras
    assert not {"train", "all"} & set(extras) or "--no-build-isolation" in words, "fairseq needs --no-build-isolation"
    return 0
