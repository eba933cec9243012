"""Results as tsv and markdown, and the block of a README that the evaluation writes."""

import subprocess
from pathlib import Path

from echostream_plugin.files import write_text

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


class TableError(ValueError):
    """A table that cannot be written where it was asked for; the message names the file and the fix."""


def write_tsv(path, rows: list[dict]) -> Path:
    """Rows of numbers and words; the columns are the keys in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(columns)] + ["\t".join(_cell(row.get(name)) for name in columns) for row in rows]
    return write_text(path, "\n".join(lines) + "\n")


def markdown_table(rows: list[dict], columns: dict[str, str]) -> str:
    """columns: key of a row -> heading; a missing value is a dash. Numbers are right-aligned."""
    numeric = {key: all(not isinstance(row.get(key), str) for row in rows) for key in columns}
    lines = [
        "| " + " | ".join(columns.values()) + " |",
        "|" + "|".join("---:" if numeric[key] else "---" for key in columns) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row.get(key), "–") for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value, missing: str = "") -> str:
    if value is None:
        return missing
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value).replace("\t", " ").replace("\n", " ").replace("|", "\\|")


def replace_block(path, content: str) -> Path:
    """Put `content` between the marks ``<!-- results:begin -->`` and ``<!-- results:end -->`` of a text file."""
    before, after = require_marks(path)
    return write_text(path, f"{before}\n{content.strip()}\n{after}")


def require_marks(path) -> tuple[str, str]:
    """A text file up to and with the first mark, and from the second on. Raises TableError where it lacks them, which
    is better known before hours of measuring than after."""
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file; one with the lines {BEGIN} and {END} is needed")
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise TableError(f"{path}: needs the lines {BEGIN} and {END}, each once and in this order")
    return text[: begin + len(BEGIN)], text[end:]


def commit(folder=None) -> str:
    """Short hash of the checked-out commit, with a `+` if tracked files differ from it; "unknown" outside git."""
    folder = Path(__file__).parent if folder is None else folder

    def git(*arguments):
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
