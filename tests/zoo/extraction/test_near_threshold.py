"""``--near auto``: the threshold of near duplicates comes from the collection's own distribution."""

from __future__ import annotations

import json
from pathlib import Path

import made_collection
import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_driver import run
from numpy.typing import NDArray
from pictures import fill

from zoo.cli.embeddings import _cosine
from zoo.cli.messages import print_extraction
from zoo.embeddings import manifest
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.extraction import near_threshold
from zoo.extraction.near_threshold import UNCENTRED, choose, threshold_of
from zoo.numerics.similarity import centred, l2_normalize, mean_direction


def crowded(count: int, copies: int, seed: int = 0, noise: float = 0.05) -> NDArray[np.float32]:
    """Vectors that share a large part, of a few clusters; the last ones are near copies of the first ones."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(7, 6)) * 1.5
    inner = centres[rng.integers(0, 7, count)] + rng.normal(size=(count, 6))
    points = np.concatenate([inner, inner[:copies] + noise * rng.normal(size=(copies, 6))])
    return (np.pad(points, ((0, 0), (0, 2))) + np.array([30, 0, 0, 0, 0, 0, 0, 30])).astype(np.float32)


@pytest.mark.parametrize(("count", "copies"), [(1000, 0), (1000, 50), (300, 40), (3000, 30)])
def test_copies_are_found_and_few_others_marked(count: int, copies: int) -> None:
    """From no copy to a quarter of copies; .95 without centring would mark all images."""
    units = l2_normalize(crowded(count, copies))
    assert (units[:100] @ units[:100].T).min() > 0.95
    moved = centred(units, mean_direction([units]))
    threshold = choose(lambda: iter(np.array_split(moved, 7)), np.arange(len(moved)))
    cosines = moved @ moved.T
    np.fill_diagonal(cosines, -1)
    near = cosines >= threshold
    true = np.zeros_like(near)
    first = np.arange(copies)
    true[first, count + first] = true[count + first, first] = True
    others = (near & ~true).any(axis=1).mean()
    assert others < 0.03, (threshold, others)
    assert (near & true).sum() >= 0.6 * true.sum(), threshold


def test_it_is_the_quantile_of_the_distribution_that_it_assumes() -> None:
    """log(1 - cosine) of a Gumbel distribution: one in 200 of its images reaches the threshold."""
    rng = np.random.default_rng(0)
    logs = -1.5 + 0.3 * np.log(rng.exponential(size=200_000))
    nearest = (1 - np.exp(logs)).astype(np.float32)
    assert (nearest >= threshold_of(nearest)).mean() == pytest.approx(0.005, rel=0.3)


def test_images_that_are_far_apart_and_images_that_are_alike() -> None:
    assert threshold_of(np.linspace(0.1, 0.3, 100, dtype=np.float32)) == 0.9
    assert threshold_of(np.ones(100, np.float32)) == 0.995


def _in_groups(folder: Path) -> tuple[int, int, float]:
    near = verify(folder).manifest["near_duplicates"]
    return near["groups"]["groups"], near["groups"]["images"], near["threshold"]


def _frames(scenes: int, frames: int) -> NDArray[np.float32]:
    """Vectors that share a large part; those of one scene differ by one part in a hundred."""
    rng = np.random.default_rng(3)
    parts = rng.normal(size=(scenes, 1, 32)) + 0.01 * rng.normal(size=(scenes, frames, 32))
    return (np.array([*[0] * 31, 30]) + parts.reshape(-1, 32)).astype(np.float32)


def test_frames_of_a_film_are_near_duplicates(tmp_path: Path) -> None:
    """Here every image has one, so the distribution of nearest neighbours is that of near duplicates."""
    made_collection.make(tmp_path, _frames(12, 25), dedupe={"near": "auto"}, frozen=True)
    assert _in_groups(tmp_path) == (12, 300, 0.995)


@pytest.mark.parametrize(("frames", "threshold"), [(2, UNCENTRED), (19, UNCENTRED), (200, UNCENTRED)])
def test_copies_of_one_picture_are_near_duplicates(tmp_path: Path, frames: int, threshold: float) -> None:
    """Centred by their mean, which is the picture, only noise would be left of them."""
    made_collection.make(tmp_path, _frames(1, frames), dedupe={"near": "auto"}, frozen=True)
    assert _in_groups(tmp_path) == (1, frames, threshold)


def test_the_default_is_chosen_from_the_collection_and_an_earlier_result_keeps_its_own(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 24)
    assert run(images, tmp_path / "new", dedupe=True).near_threshold is not None
    fixed = run(images, tmp_path / "fixed", dedupe=True, near=0.99)
    assert fixed.near_threshold is None
    bytes_before = (tmp_path / "fixed" / "_manifest.json").read_bytes()
    assert run(images, tmp_path / "fixed", dedupe=True).reused == 24  # as the command without --near did in 0.2.0
    assert (tmp_path / "fixed" / "_manifest.json").read_bytes() == bytes_before


@pytest.mark.parametrize("held", [1, 10**9])
def test_a_result_says_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Its pairs are those of a direct loop over centred vectors, whatever fits into memory."""
    from zoo.extraction import near_duplicates

    monkeypatch.setattr(near_duplicates, "_HELD_BYTES", held)
    monkeypatch.setattr(near_threshold, "_SAMPLE", 100)
    monkeypatch.setattr(near_threshold, "_ROWS_AT_ONCE", 33)
    vectors = crowded(300, 20)
    failed = (0, 44, 299)
    made_collection.make(tmp_path, vectors, failed=failed, shard_size=50, dedupe={"near": "auto"}, frozen=True)
    near = verify(tmp_path).manifest["near_duplicates"]
    units = l2_normalize(vectors)
    units[list(failed)] = np.nan
    good = np.setdiff1d(np.arange(320), failed)
    moved = centred(units, mean_direction([units[good]]))
    assert 0.9 < near["threshold"] == choose(lambda: iter([moved]), good)
    found = np.argwhere(np.triu(moved @ moved.T >= near["threshold"], 1))
    wanted = {(f"{a:07d}.jpg", f"{b:07d}.jpg") for a, b in found.tolist()}
    pairs = pq.read_table(tmp_path / manifest.NEAR_DUPLICATES).to_pylist()
    assert {(row["path"], row["path_of_other"]) for row in pairs} == wanted
    assert len(wanted) >= 10


def test_a_fixed_cosine_writes_what_it_always_wrote(tmp_path: Path) -> None:
    made_collection.make(tmp_path, crowded(30, 3), dedupe={"near": 0.99})
    near = json.loads((tmp_path / "_manifest.json").read_text())["near_duplicates"]
    assert set(near) == {"file", "pairs", "sha256", "pairs_found", "groups"}
    assert manifest.NEAR_THRESHOLD not in pq.read_metadata(tmp_path / manifest.NEAR_DUPLICATES).metadata


def test_many_near_duplicates_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = fill(tmp_path / "images", 24)
    result = run(images, tmp_path / "fixed", dedupe=True, near=0.1)
    print_extraction(result, tmp_path / "fixed")
    said = capsys.readouterr()
    assert "WARNING: 24 of 24 images (100%) are near duplicates: if they are not, " in said.err
    assert "--near auto, with a new --out," in said.err
    result = run(images, tmp_path / "auto", dedupe=True, near="auto")
    print_extraction(result, tmp_path / "auto")
    said = capsys.readouterr()
    assert f"near: a cosine of at least {result.near_threshold}, chosen from this collection" in said.out
    assert result.near_threshold is not None
    assert "--near auto" not in said.err
    # The same command goes on with the result; another threshold would be another result.
    assert run(images, tmp_path / "auto", dedupe=True, near="auto").reused == 24
    with pytest.raises(UserError, match=r"dedupe\.near auto there, 0\.9 now"):
        run(images, tmp_path / "auto", dedupe=True, near=0.9)


@pytest.mark.parametrize("text", ["atuo", "1.5", "nan", "0", ""])
def test_what_is_neither_a_cosine_nor_auto_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="give a cosine above 0 and at most 1, or auto"):
        run(fill(tmp_path / "images", 1), tmp_path / "out", dedupe=True, near=_cosine(text))


@pytest.mark.parametrize("value", [2, -1, "0.9", None, [], {}])
def test_a_forged_threshold_in_a_manifest_is_refused(tmp_path: Path, value: object) -> None:
    made_collection.make(tmp_path, crowded(30, 3), dedupe={"near": "auto"}, frozen=True)
    found = json.loads((tmp_path / "_manifest.json").read_text())
    found["near_duplicates"]["threshold"] = value
    (tmp_path / "_manifest.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match="is damaged"):
        verify(tmp_path)
