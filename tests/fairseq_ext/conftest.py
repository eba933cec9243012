import pytest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The data folder of a miniature StreamSpeech-format corpus."""
    from tests.fairseq_ext.miniature import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))
