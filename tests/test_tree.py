"""The size of things: files that one reads in a sitting, functions that fit a screen."""

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("echostream_plugin", "agent", "scripts", "examples", "tests")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
OTHERS = [path for kind in ("sh", "js", "css", "html", "cpp", "h") for path in sorted(ROOT.glob(f"[!.]*/**/*.{kind}"))]
LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FILE = 400, 50, 130  # lines


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_one_reads(folder):
    long = [path for path in (*SOURCES, *OTHERS) if ROOT / folder in path.parents]
    assert not [str(path) for path in long if len(lines_of(path)) > LONGEST_FILE]


def test_half_of_the_files_are_short():
    sizes = [len(lines_of(path)) for path in SOURCES]
    assert len(sizes) > 300 and median(sizes) < MEDIAN_FILE


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_function_fits_a_screen(folder):
    long = []
    for path in SOURCES:
        if ROOT / folder not in path.parents:
            continue
        for node in ast.walk(ast.parse("\n".join(lines_of(path)))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                long += [f"{path}:{node.lineno} {node.name}: {size} lines"] if size > LONGEST_FUNCTION else []
    assert not long
