"""A small labelled folder of real photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


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
