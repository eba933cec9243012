import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `miniature` beside this file


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The data folder of a miniature StreamSpeech-format corpus."""
    from miniature import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))
