"""For tests that ask for a GPU, with ``pytest_plugins = ["tests.standin.fixtures"]``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.standin.standin import Install, StandIn


@pytest.fixture
def install() -> Iterator[Install]:
    """Give what installs a stand-in for the rest of the test; takes what StandIn takes."""
    with contextlib.ExitStack() as installed:
        yield lambda *args, **kwargs: installed.enter_context(StandIn(*args, **kwargs).installed())


@pytest.fixture(params=["8.6.0", "10.3.0", "11.4.1"])
def standin(request: pytest.FixtureRequest, install: Install) -> StandIn:
    """TensorRT in each of the versions there are, on an Orin."""
    return install(str(request.param))
