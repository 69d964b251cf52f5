"""A folder of images and a place for the result, for each test of an extraction."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import fill


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fill(tmp_path / "images")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
