"""What the tests of the compiled operator share."""

import pytest

from echostream_plugin.modules import native
from tests import native_library


@pytest.fixture(scope="module")
def library():
    """The operator, built if need be; without a compiler the test is skipped."""
    native_library.use()


@pytest.fixture(params=native.PATHS)
def path(request, monkeypatch):
    """Each form of the operator that this processor has."""
    if request.param not in native_library.paths():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv(native.VARIABLE, request.param)
    return request.param
