"""``zoo verify``: nothing in a manifest can be changed unseen, by the plan beside it, the shards and its own hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import made_collection
import pytest
from extraction_driver import run
from pictures import encode, fill, picture

from zoo.cli.messages import print_verified
from zoo.embeddings.verify import verify
from zoo.errors import UserError

TOLD = {
    "backend": "torch",
    "precision": "fp32",
    "device": "cpu",
    "licence": "Apache-2.0",
    "normalize": False,
    "decoder": {"resize": "bilinear", "max_pixels": 1000},
    "versions": {"torch": "2.11.0"},
    "keep": [],
}


@pytest.fixture(scope="module", params=["parquet", "npy", "safetensors"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    vectors = made_collection.clusters(9, 8)
    made_collection.make(
        out, vectors, failed=(4,), shard_size=4, format=request.param, frozen=True, dedupe={"near": 0.5}, **TOLD
    )
    verify(out)
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys to each value, the outer ones too."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*where, key)
        yield from places(value[key], (*where, key))


def another(value: Any) -> Any:
    """A value of the same type that a run could have written."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return type(value)()


def altered(manifest: Any, place: tuple[Any, ...], *, remove: bool) -> Any:
    copy = json.loads(json.dumps(manifest))
    at = copy
    for key in place[:-1]:
        at = at[key]
    if remove:
        del at[place[-1]]
    else:
        at[place[-1]] = another(at[place[-1]])
    return copy


@pytest.mark.parametrize("remove", [False, True])
def test_every_value_of_a_manifest_is_compared(out: Path, remove: bool) -> None:
    """Without the manifest's own hash, as in a result of an earlier version: plan and shards alone notice."""
    (out / ".zoo" / "manifest.sha256").unlink()
    manifest = json.loads((out / "_manifest.json").read_text())
    unseen = []
    for place in places(manifest):
        changed = altered(manifest, place, remove=remove)
        if changed == manifest:
            continue  # an empty list stays an empty list
        (out / "_manifest.json").write_text(json.dumps(changed))
        with suppress(UserError):
            verify(out)
            unseen.append(place)
    assert unseen == []


def test_a_key_that_no_run_wrote_is_seen(out: Path) -> None:
    manifest = json.loads((out / "_manifest.json").read_text())
    (out / "_manifest.json").write_text(json.dumps(manifest | {"audited_by": "somebody"}))
    with pytest.raises(UserError, match="'audited_by' is not what its plan says"):
        verify(out)


def test_other_bytes_of_the_same_values_are_seen_by_the_hash_and_the_next_run_puts_it_right(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 6), tmp_path / "out"
    run(images, out)
    before = (out / "_manifest.json").read_bytes()
    (out / "_manifest.json").write_text(json.dumps(json.loads(before)))
    with pytest.raises(UserError, match="not the one that the run wrote"):
        verify(out)
    run(images, out)
    assert (out / "_manifest.json").read_bytes() == before
    verify(out)


def test_an_update_brings_its_own_hash(tmp_path: Path) -> None:
    images, out = fill(tmp_path / "images", 6), tmp_path / "out"
    run(images, out)
    first = (out / ".zoo" / "manifest.sha256").read_text()
    (images / "new.png").write_bytes(encode(picture(seed=3), "PNG"))
    run(images, out, update=True)
    assert (out / ".zoo" / "manifest.sha256").read_text() != first
    verify(out)
    manifest = json.loads((out / "_manifest.json").read_text())
    (out / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="not the one that the run wrote"):
        verify(out)


def test_a_result_without_its_plan_is_said_to_be_compared_with_nothing(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(out / ".zoo")
    verified = verify(out)
    assert not verified.has_plan
    print_verified(verified)
    assert "its plan is gone" in capsys.readouterr().out
