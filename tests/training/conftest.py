"""A small labelled folder of real photographs, and one thread for all tests of ``training``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import add_tiny_architecture, one_thread

from zoo.datasets.dataset import Dataset
from zoo.datasets.opening import open_dataset

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="package", autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes (birds and flowers against the rest), two crops of each photograph, sides 40 to 60 pixels."""
    root = tmp_path_factory.mktemp("labelled")
    for number, path in enumerate(sorted(PHOTOS.glob("*.jpg"))):
        label = root / ("small" if path.name.startswith(("bird", "flower")) else "large")
        label.mkdir(exist_ok=True)
        with Image.open(path) as image:
            for corner in (0, 80):
                crop = image.convert("RGB").crop((corner, corner, corner + 200, corner + 200))
                crop.resize((40 + number % 3 * 10, 40)).save(label / f"{path.stem}_{corner}.jpg")
    return root


@pytest.fixture(scope="session")
def photos(labelled_folder: Path) -> Dataset:
    add_tiny_architecture()
    return open_dataset(labelled_folder)
