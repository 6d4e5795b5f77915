"""What the tests of the offline half share."""

from collections.abc import Iterator

import pytest
import torch

from compress.networks.network import Classifier
from tests.compress import tiny


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    # Results repeat bit by bit only for one number of threads, whatever the machine has.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> Classifier:
    return tiny.network()
