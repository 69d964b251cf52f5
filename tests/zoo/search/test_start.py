"""``zoo search`` starts quickly: it imports and reads no more than a query needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_collection import clusters, make

import zoo
from zoo.errors import UserError
from zoo.search import intact
from zoo.search.collection import Collection
from zoo.search.index import FOLDER, build, open_index
from zoo.search.query import open_model, search
from zoo.system.atomic_files import sha256_file

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT / "examples" / "photos"
UNUSED = (
    "torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib", "scipy", "sklearn", "fastapi", "uvicorn",
    "pandas", "transformers",
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


def test_a_large_index_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start must not read gigabytes: the size, time and inode of a file that was hashed stand for its bytes."""
    made = make(tmp_path / "out", clusters(300, 16))
    build(made)
    (file,) = (made.root / FOLDER).glob("exact-*.npy")
    hashed = list[Path]()
    monkeypatch.setattr(intact, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    monkeypatch.setattr(intact, "HASHED_EACH_TIME", 1000)
    # A file that has just been written could still change within one tick of the clock.
    open_index(made)
    open_index(made)
    assert hashed.count(file) == 2
    os.utime(file, ns=(10**18, 10**18))
    hashed.clear()
    open_index(made)
    open_index(made)
    assert hashed.count(file) == 1
    # Another time, another size, another file: hashed again, and refused where the bytes differ.
    os.utime(file, ns=(10**18 + 1, 10**18 + 1))
    open_index(made)
    assert hashed.count(file) == 2
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    other = file.with_suffix(".copy")
    other.write_bytes(data)
    os.utime(other, ns=(10**18 + 1, 10**18 + 1))
    os.replace(other, file)
    with pytest.raises(UserError, match="missing or damaged"):
        open_index(made)
    build(made)  # a new index
    assert not list((made.root / FOLDER).glob(f"*{intact.SUFFIX}"))
