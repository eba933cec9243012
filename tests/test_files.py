"""Files are written whole or not at all."""

import pytest

from echostream_plugin.files import whole_file, write_text


def test_what_breaks_off_leaves_the_file_that_was_there(tmp_path):
    path = write_text(tmp_path / "new folder" / "a.txt", "old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("killed")
    assert path.read_text() == "old" and [each.name for each in path.parent.iterdir()] == ["a.txt"]
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and [each.name for each in path.parent.iterdir()] == ["a.txt"]
