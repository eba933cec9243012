"""The size of things: files that one reads in a sitting, functions that fit a screen."""

import ast
from collections import Counter
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


def names_in(tree: ast.AST) -> Counter:
    """How often each name is used, or a string that may be one."""
    used = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used[node.id] += 1
        elif isinstance(node, ast.Attribute):
            used[node.attr] += 1
        elif isinstance(node, ast.alias):
            used[node.name.rsplit(".", 1)[-1]] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            used[node.value] += 1
    return used


def test_no_function_or_constant_is_there_for_tests_alone():
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES if ROOT / "tests" not in path.parents
    }
    used = sum(map(names_in, trees.values()), Counter())
    for path, tree in trees.items():
        made = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
        constants = [name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets
                     if isinstance(name, ast.Name)]  # fmt: skip
        assert not [name for name in made if not used[name] and not name.startswith("__")], path
        assert not [name for name in constants if used[name] < 2 and not name.startswith("__")], path


def numbers_in(path: Path) -> set:
    """What stands in a file that `constants` has: a sample rate, or a frame time that something is counted in."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    counted = [node.right for node in nodes if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.LShift)]
    found = {node.value for node in counted if isinstance(node, ast.Constant) and node.value == 40}
    return found | {node.value for node in nodes if isinstance(node, ast.Constant) and node.value == 16000}


UPDATES = "echostream_plugin/modules/zipformer/layer.py"  # counts updates by the number


def test_rates_and_frame_times_stand_in_one_place():
    package = [path for path in SOURCES if ROOT / "echostream_plugin" in path.parents]
    found = {str(path.relative_to(ROOT)): numbers_in(path) for path in package if path.name != "constants.py"}
    assert found.pop(UPDATES) == {16000}
    assert not {path: numbers for path, numbers in found.items() if numbers}
