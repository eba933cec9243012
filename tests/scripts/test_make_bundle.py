"""Which recordings a bundle takes: several lists with lines of their own, and people's."""

import pytest

from echostream_plugin.config import ConfigError
from echostream_plugin.data.tables import DataError
from tests.scripts.conftest import ROOT, load_script

make_bundle = load_script("make_bundle")


def chosen(tmp_path, *flags):
    args = make_bundle.parse_args(["--checkpoint", "c", "--out", str(tmp_path), *flags])
    return make_bundle.chosen_samples(args)


def write_lists(folder, count):
    folder.mkdir()
    for name in ("wav_list", "src", "target"):
        (folder / f"{name}.txt").write_text("".join(f"{folder.name}{number}\n" for number in range(count)))
    return str(folder)


def test_lists_have_lines_of_their_own(tmp_path):
    one, two = write_lists(tmp_path / "one", 3), write_lists(tmp_path / "two", 5)
    people = str(ROOT / "examples" / "quickstart" / "recordings")
    found = chosen(tmp_path, "--samples", one, "--samples", f"{two}:4,1", "--sample-lines", "2", "--recordings", people)
    assert [sample.source for sample in found[:3]] == ["one2", "two4", "two1"] and all(s.human for s in found[3:])
    assert chosen(tmp_path) == []


@pytest.mark.parametrize("lines, error", [("7", DataError), ("a", ConfigError), ("1,,2", ConfigError)])
def test_lines_that_are_not_there_are_named(tmp_path, lines, error):
    with pytest.raises(error, match="counted from 0|are numbers from 0"):
        chosen(tmp_path, "--samples", f"{write_lists(tmp_path / 'one', 3)}:{lines}")
