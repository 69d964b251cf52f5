from __future__ import annotations

from pathlib import Path

import pytest

from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_dataset


@pytest.fixture
def photos() -> Dataset:
    """The example photographs, without labels."""
    return open_dataset(Path(__file__).parents[3] / "examples" / "photos")
