"""Dockerfile, systemd unit and extras: read as their programs read them, since neither may be here."""

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from echostream_plugin.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]


def instructions():
    """(instruction, rest) of the Dockerfile, continued lines joined, comments taken off."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def rest_of(name):
    return [rest for instruction, rest in instructions() if instruction == name]


def ignored(path):
    """Is a file of the tree kept out of the image?"""
    patterns = (ROOT / ".dockerignore").read_text().split()
    return any(fnmatch(str(path), pattern) or str(path).startswith(f"{pattern}/") for pattern in patterns)


def test_only_known_instructions_in_an_order_that_works():
    names = [name for name, _ in instructions()]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert names[0] == "FROM" and set(names) <= known
    assert names.count("ENTRYPOINT") == 1 and names.index("USER") > max(
        i for i, name in enumerate(names) if name == "RUN"
    )
    python = re.fullmatch(r"python:3\.(\d+)-slim-\w+", rest_of("FROM")[0])
    assert 10 <= int(python[1]) <= 12  # what setup.py takes


def test_every_source_of_a_copy_is_in_the_tree_and_in_the_build():
    for rest in rest_of("COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists() and not ignored(source), source
    needed = ["setup.py", "README.md", "LICENSE", "constraints.txt", "echostream_plugin/serve/static/index.html"]
    needed += ["examples/quickstart/bundle/model.safetensors", "examples/quickstart/bundle/samples/samples.json"]
    assert all((ROOT / path).exists() and not ignored(path) for path in needed)
    assert ignored("tests/conftest.py") and ignored(".git/HEAD")


def test_what_it_installs_and_removes():
    runs = " ".join(rest_of("RUN"))
    assert "rm -rf /var/lib/apt/lists/*" in runs and "--no-install-recommends" in runs
    assert runs.count("pip install") == runs.count("--no-cache-dir") == runs.count("-c constraints.txt") == 2
    extra = re.search(r'"\.\[(\w+)\]"', runs)[1]
    assert re.search(rf'"{extra}": ', (ROOT / "setup.py").read_text())


def test_its_command_its_port_and_its_check_are_the_servers():
    words = json.loads(rest_of("ENTRYPOINT")[0])
    args = build_parser().parse_args(words[1:])
    assert words[0] == "echostream" and args.command == "serve" and args.host == "0.0.0.0"
    assert rest_of("EXPOSE") == [str(args.port)]
    check = json.loads(rest_of("HEALTHCHECK")[0].split("CMD", 1)[1])
    assert check[:2] == ["python", "-c"] and f"http://127.0.0.1:{args.port}/health" in check[2]
    compile(check[2], "check", "exec")


def test_the_page_names_the_commands_of_the_dockerfile():
    commands = re.findall(r"^#   (docker .+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    page = (ROOT / "docs" / "live.md").read_text(encoding="utf-8")
    assert len(commands) == 2 and all(f"    {command}\n" in page for command in commands)


def test_the_unit_starts_the_server_with_flags_that_there_are():
    text = (ROOT / "examples" / "live" / "echostream.service").read_text().replace("\\\n", " ")
    entries = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    words = shlex.split(entries["ExecStart"])
    args = build_parser().parse_args(words[1:])
    assert words[0].endswith("/bin/echostream") and args.command == "serve" and args.cert and args.key
    assert entries["Environment"].startswith("ECHOSTREAM_TOKEN=") and entries["KillSignal"] == "SIGINT"
    assert [line for line in text.splitlines() if line.startswith("[")] == ["[Unit]", "[Service]", "[Install]"]


@pytest.mark.parametrize("extra, modules", [("serve", ("aiohttp", "prometheus_client")), ("live", ("sounddevice",))])
def test_the_extras_bring_what_is_imported(extra, modules):
    listed = re.search(rf"^{extra.upper()} = (\[.*\])$", (ROOT / "setup.py").read_text(), re.MULTILINE)[1]
    assert set(modules) == set(json.loads(listed))
