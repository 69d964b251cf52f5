"""Two networks of one architecture, for files that hold both."""

from __future__ import annotations

import pytest
from official_files import Network, narrow, network


@pytest.fixture(scope="session")
def net() -> Network:
    return network(narrow([1, 1, 1, 1]))


@pytest.fixture(scope="session")
def average() -> Network:
    return network(narrow([1, 1, 1, 1]), seed=1)
