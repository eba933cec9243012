"""A bundle with a tiny random model, and a recording."""

import pytest

from tests.cli.runs import write_recording
from tests.tiny_bundle import save_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return save_tiny_bundle(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="session")
def wav(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("wav"))
