"""Who may import whom; see the table. The arrow runs one way, and only fairseq_ext knows fairseq."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "echostream_plugin"
METHOD = {"config", "modules", "encoders", "decoders", "vocoder", "model"}
TRAINED = {f"cli_{name}" for name in ("average", "card", "from_bundle")}
CLI = {f"cli_{name}" for name in ("options", "errors", "translate", "transcribe", "speak", "info", "live")}
GROUND = {"constants", "files", "units"}  # they import nothing of the package, and everybody may import them
ALLOWED = {
    **dict.fromkeys(GROUND, set()),
    "config": set(),
    "modules": {"config"},
    "encoders": {"config", "modules"},
    "decoders": {"config", "modules"},
    "vocoder": {"config", "modules"},
    "punctuation": {"config", "modules"},
    "model": METHOD,
    "inference": METHOD | {"punctuation"},
    "data": {"config", "modules", "inference", "punctuation"},
    "evaluation": METHOD | {"inference", "data", "punctuation"},
    "adaptation": METHOD | {"inference", "data"},
    "fairseq_ext": METHOD | {"inference", "data", "adaptation"},
    "agents": METHOD | {"inference", "fairseq_ext", "cli_options"},
    "benchmark": METHOD | {"inference", "data", "adaptation"},
    "cli": METHOD | {"inference", "cli_prepare", "cli_serve"} | CLI,
    "cli_evaluate": {"config", "inference", "evaluation", "cli_errors"},
    **dict.fromkeys(TRAINED, {"config", "inference", "fairseq_ext", "cli_errors", "cli_options"}),
    "cli_bundle": {"config", "inference", "data", "evaluation", "fairseq_ext", "cli_errors"},
    "cli_benchmark": METHOD | {"inference", "benchmark", "evaluation", "cli_errors"},
    "cli_serve": METHOD | {"inference", "cli_options", "serve"},
    "serve": {"config", "inference"},
    "cli_prepare": {"config", "inference", "data"},
    **dict.fromkeys(CLI, METHOD | {"inference", "cli_options", "cli_errors"}),
    "__init__": {"fairseq_ext"},
}


def imports_of(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, inside functions too; relative imports made absolute."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def part_of(name: str) -> str | None:
    """The part of the package that a dotted name lies in; None outside it."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "echostream_plugin" and len(pieces) > 1 else None


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", sources("echostream_plugin"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_arrow_runs_back(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert part in ALLOWED, f"{path}: a new part of the package; say in {__file__} what it may import"
    wanted = {part_of(name) for name in imports_of(path)} - {None, part, "__version__", *GROUND}
    assert wanted <= ALLOWED[part], f"{path} imports {sorted(wanted - ALLOWED[part])}"


def test_only_fairseq_ext_imports_fairseq():
    for path in sources("echostream_plugin", "agent", "scripts", "examples"):
        inside = PACKAGE / "fairseq_ext" in path.parents
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert inside or "fairseq" not in tops, f"{path} imports fairseq"


def test_agents_and_examples_are_run_by_path():
    for path in sources("echostream_plugin", "agent", "scripts", "examples"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert not tops & {"agent", "examples", "scripts", "tests"}, f"{path} imports {sorted(tops)}"


def test_what_is_installed_is_imported():
    """No path is added to find the package; the demo's is of the recipe's own files, for as long as it imports them."""
    for path in sources("echostream_plugin", "agent", "scripts", "examples"):
        edited = "sys.path" in path.read_text(encoding="utf-8")
        assert not edited or path == ROOT / "scripts" / "demo.py", f"{path} changes sys.path"


def test_the_check_sees_imports_inside_functions_and_relative_ones(tmp_path):
    assert part_of("echostream_plugin.inference.session") == "inference" and part_of("torch.nn") is None
    names = imports_of(PACKAGE / "evaluation" / "offline.py")
    assert "echostream_plugin.inference.bundle.load_bundle" in names


def own_and_imported(path: Path) -> tuple[set[str], set[str]]:
    """The names that a file makes itself, and those that it only imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    imported = {alias.asname or alias.name for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names}
    made = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    made |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return made, imported - made


def test_a_name_is_imported_from_the_file_that_makes_it():
    """Or from its package (`__init__`), which says what it offers."""
    files = sources("echostream_plugin", "agent", "scripts", "examples", "tests")
    borrowed = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): own_and_imported(path)[1]
        for path in files
        if path.name != "__init__.py"
    }
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                through = {alias.name for alias in node.names} & borrowed.get(node.module, set())
                assert not through, f"{path}:{node.lineno} takes {sorted(through)} from {node.module}, which imports it"
