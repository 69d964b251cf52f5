"""``zoo search`` starts quickly: it imports and reads no more than a query needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.search.collection import Collection
from zoo.search.index import build, open_index
from zoo.search.query import open_model, search

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT / "examples" / "photos"
UNUSED = (
    "torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib", "scipy", "sklearn", "fastapi", "uvicorn",
    "pandas",
)  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Six shards of four images, embedded by ONNX Runtime."""
    out = tmp_path_factory.mktemp("start") / "out"
    zoo.extract(PHOTOS, out, backend="onnx", shard_size=4)
    build(Collection(out))
    return Collection(out)


def test_a_search_on_onnx_runtime_imports_no_torch(collection: Collection) -> None:
    code = f"""
import sys
for name in {UNUSED!r}:
    sys.modules[name] = None
sys.argv = ["zoo", "search", {str(collection.root)!r}, {str(PHOTOS / "cat_chelsea.jpg")!r}, "-k", "1"]
from zoo.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1.0000  cat_chelsea.jpg" in done.stdout


def test_a_search_reads_the_rows_of_its_results_only(collection: Collection) -> None:
    read = list[int]()
    original = collection._read_metadata
    collection._metadata = lambda shard: read.append(shard) or original(shard)  # type: ignore[assignment, func-returns-value]
    index = open_index(collection)
    found = search(collection, index, open_model(collection), [PHOTOS / "cat_chelsea.jpg"], k=1, max_pixels=10**8)
    assert found[0].neighbours[0].item.name == "cat_chelsea.jpg"
    assert len(read) == 1, "of six shards"
