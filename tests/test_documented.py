"""Every public name is documented: modules, classes, functions, methods and properties of the package, and functions
and classes of the scripts. What overrides a documented method needs no words of its own."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "echostream_plugin").rglob("*.py"))
SCRIPTS = sorted(path for folder in ("agent", "scripts", "examples") for path in (ROOT / folder).rglob("*.py"))
COMMAND_LINE = ("main", "parse_args", "build_parser", "add_flags")  # a script's own docstring says what they do


def module_of(path: Path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("echostream_plugin"):
            raise
        pytest.skip(f"needs {error.name}")


def undocumented(module) -> list[str]:
    """Public names that a module defines itself and says nothing of."""
    names = [] if module.__doc__ else [module.__name__]
    for name, thing in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if thing.__module__ != module.__name__:
            continue
        written = thing.__doc__ or ""
        if not written or written.startswith(f"{name}("):  # what a dataclass says of itself
            names.append(name)
        if inspect.isclass(thing):
            names += [f"{name}.{member}" for member in vars(thing) if lacks_words(thing, member)]
    return names


def lacks_words(kind: type, name: str) -> bool:
    """Is it a public method or property without a docstring of its own or of what it overrides?"""
    member = inspect.getattr_static(kind, name)
    member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
    known = inspect.isfunction(member) or isinstance(member, property)
    return known and not name.startswith("_") and not inspect.getdoc(getattr(kind, name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_of_the_package(path):
    assert not undocumented(module_of(path))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_function_of_a_script(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    public = [node for node in named if not node.name.startswith("_") and node.name not in COMMAND_LINE]
    assert ast.get_docstring(tree) and not [node.name for node in public if not ast.get_docstring(node)]
