"""Manifest, plan and ``index.json`` of a stranger: every value hostile, through each command that reads them.

Whatever is in a file, a command either works on what is sound or ends with one line. Nothing that a file claims is
allocated, and no name in it leads out of its folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import made_collection
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extraction_driver import results, run
from hostile_json import mutations
from pictures import fill

from zoo.embeddings import manifest
from zoo.embeddings.merge import merge
from zoo.embeddings.plan import Plan
from zoo.embeddings.shards import DamagedShard, OutputFolder
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.extraction.incremental import install_staged
from zoo.search.collection import Collection
from zoo.search.index import FOLDER, build, open_index
from zoo.search.pca_map import pca_points
from zoo.search.query import nearest, open_model
from zoo.search.thumbnails import Thumbnails

TOLD = {"backend": "torch", "precision": "fp32", "normalize": False, "decoder": {"max_pixels": 1000}, "keep": []}


def ends_well(work: Callable[[], object], what: object) -> bool:
    """Whether it works; if not it must be one line."""
    said = ""
    try:
        work()
        return True
    except UserError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    assert "\n" not in said, what
    assert len(said) < 1000, what
    return False


@pytest.fixture(params=["parquet", "npy"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    made_collection.make(
        out,
        made_collection.clusters(5, 4),
        shard_size=3,
        format=request.param,
        frozen=True,
        dedupe={"near": 0.5},
        **TOLD,
    )
    build(Collection(out))
    return out


def search_by(out: Path) -> None:
    """What ``zoo search`` and ``zoo serve`` do before and after the network runs."""
    collection = Collection(out)
    index = open_index(collection)
    pca_points(collection)
    nearest(collection, index, np.ones(collection.dim, np.float32), 3)
    collection.items(0, 99)
    Thumbnails(collection, str(out / "no.csv"))
    open_model(collection)


def test_any_manifest_in_each_command(out: Path, tmp_path: Path) -> None:
    whole, good = tmp_path / "whole.npy", json.loads((out / "_manifest.json").read_text())
    works = 0
    for what, data in list(mutations(good))[::2]:
        (out / "_manifest.json").write_bytes(data)
        if not ends_well(lambda: Collection(out), what):
            assert not ends_well(lambda: verify(out), what)
            continue
        works += 1
        ends_well(lambda: build(Collection(out)), what)
        ends_well(lambda: search_by(out), what)
        assert not ends_well(lambda: merge(out, whole), what) or json.loads(data) == good
        for path in tmp_path.glob("whole*"):
            path.unlink()
    assert 0 < works < 1500  # other counts or facts of the model do not keep anybody from reading


def test_any_manifest_of_a_staged_update(out: Path, tmp_path: Path) -> None:
    """A name in it that leads out of the folder would move a file there."""
    good = json.loads((out / "_manifest.json").read_text())
    victim = tmp_path / "victim.parquet"
    for what, data in list(mutations(good))[::13]:
        copy = Path(shutil.copytree(out, tmp_path / "copy"))
        staged = OutputFolder(copy).staged
        staged.create()
        staged.manifest.write_bytes(data)
        victim.write_bytes(b"mine")
        ends_well(lambda copy=copy: install_staged(OutputFolder(copy)), what)  # type: ignore[misc]
        assert victim.read_bytes() == b"mine"
        shutil.rmtree(copy)


def test_a_manifest_names_no_file_outside_its_folder(out: Path, tmp_path: Path) -> None:
    good = json.loads((out / "_manifest.json").read_text())
    shutil.copy(out / good["shards"][0]["file"], tmp_path)
    for name in ("../embeddings-00000.parquet", str(tmp_path / "embeddings-00000.parquet"), "a/../x.parquet", "."):
        changed = json.loads(json.dumps(good))
        changed["shards"][0]["file"] = name
        (out / "_manifest.json").write_text(json.dumps(changed))
        for work in (lambda: verify(out), lambda: Collection(out)):
            with pytest.raises(UserError, match="it names a file that is none of a shard"):
                work()


def test_any_index_json(out: Path) -> None:
    file = out / FOLDER / "index.json"
    for what, data in mutations(json.loads(file.read_text())):
        file.write_bytes(data)
        ends_well(lambda: search_by(out), what)


def with_fingerprint(file: Path, table: pa.Table, text: bytes) -> None:
    pq.write_table(table.replace_schema_metadata({b"zoo.identity": text}), file)


def test_any_fingerprint_of_a_plan_in_a_run_again(tmp_path: Path) -> None:
    """``zoo extract`` again into a folder, and ``zoo verify``, whatever the plan there says of the model."""
    images, out = fill(tmp_path / "images", 3), tmp_path / "out"
    run(images, out, dedupe=True)
    before, plan = results(out), out / ".zoo" / "plan.parquet"
    table = pq.read_table(plan)
    good = json.loads(table.schema.metadata[b"zoo.identity"])
    saved = plan.read_bytes()
    for number, (what, data) in enumerate(mutations(good)):
        with_fingerprint(plan, table, data)
        loads = ends_well(lambda: Plan.load(plan), what)
        if loads or number % 20 == 0:
            ends_well(lambda: verify(out), what)
            ends_well(lambda: run(images, out, dedupe=True), what)
    plan.write_bytes(saved)
    run(images, out, dedupe=True)
    assert results(out) == before
    verify(out)


def changed_columns(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """The plan with each column removed, of other types, with nulls, and with numbers out of their range."""
    n = len(table)
    columns: list[Any] = [
        pa.nulls(n),
        pa.array(["x"] * n),
        pa.array([b"../../x"] * n),
        pa.array([[1]] * n),
        pa.array([1.5] * n),
        pa.array([2**62] * n),
        pa.array([-5] * n),
        pa.array([2**30] * n, pa.int32()),
        pa.array([0] * (n - 1) + [None], pa.int64()),
        pa.array([b"x"] * (n - 1) + [None]),
    ]
    found = []
    for number, name in enumerate(table.schema.names):
        found.append((f"{name} removed", table.drop_columns([name])))
        found += [(f"{name} {c.type} {c[n - 1]}", table.set_column(number, name, c)) for c in columns]
    return [*found, ("no rows", table.slice(0, 0)), ("half", table.slice(0, n // 2))]


def test_any_columns_of_a_plan(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 3), tmp_path / "out"
    run(images, out, dedupe=True)
    plan = out / ".zoo" / "plan.parquet"
    table = pq.read_table(plan)
    for what, changed in changed_columns(table):
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), plan)
        for work in (
            lambda: verify(out),
            lambda: run(images, out, dedupe=True),
            lambda: run(images, out, dedupe=True, update=True),
            lambda: Thumbnails(Collection(out), str(images)).small(0),
        ):
            ends_well(work, what)
        if not (out / "_manifest.json").exists():  # an update took the plan for its own, and began
            run(images, out, dedupe=True)


def test_any_columns_of_a_shard_with_the_right_hashes(out: Path, tmp_path: Path) -> None:
    """The stranger knows how to hash: the manifest agrees with the file."""
    folder = OutputFolder(out)
    file = out / "embeddings-00000.parquet"
    table, good = pq.read_table(file), folder.manifest.read_text()
    for what, changed in changed_columns(table):
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)
        told = json.loads(good)
        told["shards"][0]["sha256"] = manifest.sha256_file(file)
        folder.manifest.write_text(json.dumps(told))
        ends_well(lambda: search_by(out), what)
        ends_well(lambda: build(Collection(out)), what)
        ends_well(lambda: verify(out), what)
        ends_well(lambda: merge(out, tmp_path / "whole.npy"), what)
        plan = Plan.load(folder.plan)
        assert plan is not None
        with suppress(DamagedShard):
            folder.read(plan, 0)
        for path in tmp_path.glob("whole*"):
            path.unlink()
