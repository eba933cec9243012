"""The miniatures of CVSS-C as downloaded, copied, prepared."""

import pytest

from tests.data_prep import miniature_cvss
from tests.data_prep.miniature_cvss import SOURCE
from tests.scripts.cvss.steps import copy_of, prepared_folder


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """The miniatures as downloaded: whole ones of three languages, and `broken` French with two bad clips."""
    folder = tmp_path_factory.mktemp("cvss")
    for language in SOURCE:
        miniature_cvss.build(folder / "whole", language)
    miniature_cvss.build(folder / "broken", "fr", whole=False)
    return folder


@pytest.fixture
def corpus(originals, tmp_path):
    """A good, a broken and a missing clip are among those of the training split."""
    return copy_of(originals, "broken", tmp_path)


@pytest.fixture(scope="session")
def prepared(originals, tmp_path_factory):
    return prepared_folder(originals, tmp_path_factory.mktemp("prepared")).output
