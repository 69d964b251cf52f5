from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from zoo.search.collection import Collection
from zoo.search.index import build

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"


@pytest.fixture(scope="session")
def photos_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example photographs, extracted with the bundled network and indexed; read-only."""
    out = tmp_path_factory.mktemp("search") / "out"
    zoo.extract(PHOTOS, out, backend="torch", device="cpu")
    build(Collection(out))
    return out
