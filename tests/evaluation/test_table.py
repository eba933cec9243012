"""Tables: markdown, tsv, and the README's block, replaced and never doubled."""

import pytest

from echostream_plugin.evaluation.table import TableError, commit, markdown_table, replace_block, write_tsv


def test_markdown_has_a_dash_for_what_was_not_measured():
    table = markdown_table([{"mode": "offline", "bleu": 61.234}, {"mode": "320 ms", "bleu": 60.0, "AL": 1432.1}],
                           {"mode": "Mode", "bleu": "ASR-BLEU", "AL": "AL (ms)"})  # fmt: skip
    assert table.splitlines() == [
        "| Mode | ASR-BLEU | AL (ms) |",
        "|---|---:|---:|",
        "| offline | 61.2 | – |",
        "| 320 ms | 60.0 | 1432 |",
    ]


def test_the_block_is_replaced_and_the_rest_is_kept(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n")
    replace_block(readme, "new")
    replace_block(readme, "newer\n")
    assert readme.read_text() == "# Title\n<!-- results:begin -->\nnewer\n<!-- results:end -->\nafter\n"


@pytest.mark.parametrize("text", ["nothing", "<!-- results:end --><!-- results:begin -->", "<!-- results:begin -->"])
def test_a_readme_without_the_marks_is_named_and_untouched(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(TableError, match="README.md.*results:begin"):
        replace_block(readme, "new")
    assert readme.read_text() == text
    with pytest.raises(TableError, match="no such file"):
        replace_block(tmp_path / "missing.md", "new")


def test_tsv_has_every_column_of_every_row(tmp_path):
    path = write_tsv(tmp_path / "scores.tsv", [{"a": 1}, {"b": "x\ty"}])
    assert path.read_text() == "a\tb\n1\t\n\tx y\n"


def test_the_commit_outside_git_is_unknown(tmp_path):
    assert commit(tmp_path) == "unknown"
