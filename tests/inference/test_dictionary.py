"""fairseq dictionaries without fairseq."""

import pytest

from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.errors import BundleError


@pytest.fixture
def dictionary(tmp_path):
    (tmp_path / "dict.txt").write_text("▁my 1\n▁sister 1\n▁watch 1\nes 1\n", encoding="utf-8")
    return Dictionary.read(tmp_path / "dict.txt")


def test_indices_follow_the_four_special_symbols(dictionary):
    assert len(dictionary) == 8 and dictionary.symbols[4] == "▁my" and dictionary.symbols[:2] == ("<s>", "<pad>")


def test_text_joins_pieces(dictionary):
    assert dictionary.text([4, 5, 6, 7]) == "my sister watches"
    assert dictionary.text([]) == "" and dictionary.text([7, 4, 2]) == "es my"
    assert dictionary.text([4, 3, 7]) == "my es"


def test_text_only_grows(dictionary):
    tokens = [3, 4, 0, 7, 2, 3, 6, 7]
    texts = [dictionary.text(tokens[:count]) for count in range(len(tokens) + 1)]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))


def test_same_as_fairseq(dictionary, tmp_path):
    fairseq_data = pytest.importorskip("fairseq.data")
    theirs = fairseq_data.Dictionary.load(str(tmp_path / "dict.txt"))
    assert tuple(theirs.symbols) == dictionary.symbols


def test_errors_name_file_and_line(tmp_path):
    with pytest.raises(BundleError, match="none.txt: no such dictionary"):
        Dictionary.read(tmp_path / "none.txt")
    (tmp_path / "bad.txt").write_text("▁a 1\n▁b\n", encoding="utf-8")
    with pytest.raises(BundleError, match="bad.txt:2"):
        Dictionary.read(tmp_path / "bad.txt")
    (tmp_path / "twice.txt").write_text("▁a 1\n▁a 1\n", encoding="utf-8")
    with pytest.raises(BundleError, match="▁a"):
        Dictionary.read(tmp_path / "twice.txt")
