"""The pages name tests, scripts and files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*/README.md"))]
STREAMSPEECH = ROOT / "docs" / "streamspeech.md"
FILE = re.compile(
    r"(?<![\w/])((?:scripts|agent|tests|docs|examples/quickstart|examples/cvss_c)/[\w/.-]+\.(?:py|sh|md|svg|png))\b"
)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def text_of(page):
    return page.read_text(encoding="utf-8")


def defects():
    """The rows of the table of defects, as lists of cells, and the tests listed for each."""
    section = text_of(STREAMSPEECH).split("## Its defects", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    items = re.findall(r"^(\d+)\. (.*(?:\n   .*)*)", section, re.MULTILINE)
    assert [number for number, *_ in rows[1:]] == [number for number, _ in items]
    return [(cells[1:], tests) for (*cells,), (_, tests) in zip(rows[1:], items, strict=True)]


@pytest.mark.parametrize("cells, tests", defects(), ids=lambda value: value[0][:40] if isinstance(value, list) else "")
def test_every_defect_has_a_test_that_exists(cells, tests):
    assert len(cells) == 3
    named = TEST.findall(tests)
    assert named and tests.count("`") == 2 * len(named)
    for file, name in named:
        assert re.search(rf"^def {name}\(", text_of(ROOT / file), re.MULTILINE), f"{file}: no test {name}"


def test_the_defects_of_the_design_are_all_there():
    """What must not be missing, by a word of it."""
    table = "\n".join(cells[0] for cells, _ in defects())
    for word in (
        "chunk mask", "over the batch", "0.3", "equal target lengths", "Odd convolution", "`--seed`", "Padding",
        "32k - 2", "480 and 960 ms", "k2, n2", "New units", "finished", "unjoined", "48 kHz", "25 ms",
        "`--output-asr-translation False`", "Computation-aware",
    ):  # fmt: skip
        assert word in table, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_commands_of_a_page_lead_somewhere(page):
    text = text_of(page)
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for path in FILE.findall(text):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


def tree_of_the_page() -> str:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return page.split("\n\n", 2)[1]


def test_the_tree_of_the_architecture_is_the_trees():
    """Every part of the package stands in it, and every folder and file in it is there."""
    tree, package = tree_of_the_page(), ROOT / "echostream_plugin"
    named = {word for line in tree.splitlines() for word in re.findall(r"^ +((?:[\w*]+(?:/|\.py) ?)+)", line)}
    named = {name for word in named for name in word.split()}
    parts = {path.name + "/" for path in package.iterdir() if list(path.glob("*.[pc]*")) and path.name[0] != "_"}
    parts |= {path.name for path in package.glob("*.py") if path.name[0] != "_" and not path.name.startswith("cli_")}
    registries = {f"{path.parent.name}/" for path in package.glob("inference/*/base.py")}
    assert parts | registries | {"cli_*.py", "agent/", "scripts/", "examples/", "tests/"} <= named
    for name in named - {"echostream_plugin/"}:
        assert [path for folder in (ROOT, package, package / "inference") for path in folder.glob(name.strip("/"))], (
            name
        )


def test_the_readme_leads_to_the_page_on_streamspeech():
    assert "(docs/streamspeech.md)" in text_of(ROOT / "README.md")
