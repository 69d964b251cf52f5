"""Groups of near duplicates: all images of all pairs, in memory that does not grow with the pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import made_collection
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.embeddings import manifest
from zoo.embeddings.verify import verify
from zoo.extraction import near_duplicates
from zoo.extraction.near_duplicates import NearGroups


def test_each_of_6000_frames_of_one_scene_is_in_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 997 000 pairs. The pairs' file ends at its limit, which once left a quarter of the frames unnamed."""
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 100_000)
    monkeypatch.setattr(near_duplicates, "_HELD_BYTES", 16 * 4 * 2000)  # three passes
    rng = np.random.default_rng(0)
    frames = (np.ones(16) + 0.001 * rng.normal(size=(6000, 16))).astype(np.float32)
    alone = np.eye(16, dtype=np.float32)[:2] * -1
    vectors = np.concatenate([alone[:1], frames, alone[1:]])
    made_collection.make(tmp_path, vectors, failed=(17,), dedupe={"near": 0.99}, frozen=True)
    assert verify(tmp_path).manifest["near_duplicates"]["groups"]["images"] == 5999
    groups = pq.read_table(tmp_path / manifest.NEAR_GROUPS).to_pydict()
    wanted = [row for row in range(1, 6001) if row != 17]
    assert groups["path"] == [f"{row:07d}.jpg" for row in wanted]
    assert set(groups["group"]) == {0}
    pairs = pq.ParquetFile(tmp_path / manifest.NEAR_DUPLICATES).metadata
    assert (pairs.num_rows, pairs.metadata[manifest.PAIRS_FOUND]) == (100_000, b"%d" % (5999 * 5998 // 2))
    # The nearest frame of some rows, by the whole matrix.
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for at in (0, 16, 3000, 5998):
        cosines = units @ units[wanted[at]]
        cosines[[wanted[at], 17]] = -1
        assert groups["cosine"][at] == pytest.approx(cosines.max(), abs=1e-6)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14), st.floats(0.5, 1, width=32)), max_size=40),
    cuts=st.sets(st.integers(0, 40), max_size=4),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_groups_are_the_connected_components(pairs: list[tuple[int, int, float]], cuts: set[int]) -> None:
    """Whatever the pairs, and however they are cut into blocks; ties of the cosine go to the first row."""
    known = [(min(a, b), max(a, b), cosine) for a, b, cosine in pairs if a != b]
    groups = NearGroups(15)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 99], strict=True):
        part = known[start:stop]
        columns = tuple(zip(*part, strict=True)) if part else ((), (), ())
        groups.add((np.array(columns[0], int), np.array(columns[1], int), np.array(columns[2], np.float32)))
    label = list(range(15))
    for _ in label:
        for a, b, _ in known:
            label[a] = label[b] = min(label[a], label[b])
    rows = groups.rows()
    assert rows.tolist() == sorted({row for a, b, _ in known for row in (a, b)})
    first, nearest, cosines = groups.of(rows)
    assert first.tolist() == [label[row] for row in rows]
    for row, other, cosine in zip(rows.tolist(), nearest.tolist(), cosines.tolist(), strict=True):
        candidates = [(-c, a + b - row) for a, b, c in known if row in (a, b)]
        assert (-cosine, other) == min(candidates)


def test_a_long_chain_is_one_group() -> None:
    count = 50_000
    order = np.random.default_rng(0).permutation(count - 1)
    groups = NearGroups(count)
    groups.add((order, order + 1, np.full(count - 1, 0.99, np.float32)))
    assert groups.of(np.arange(count))[0].max() == 0


def test_a_result_of_an_earlier_version_has_pairs_only(tmp_path: Path) -> None:
    """The pairs' file says nothing of groups, and neither does its manifest."""
    old = Path(__file__).parents[2] / "compat" / "v0_2" / "npy"
    near = verify(old).manifest["near_duplicates"]
    assert set(near) == {"file", "pairs", "sha256"}
    # A file of groups beside it, from nowhere, is not taken for one of its own.
    out = Path(shutil.copytree(old, tmp_path / "out"))
    (out / manifest.NEAR_GROUPS).write_bytes(b"")
    assert json.loads((out / "manifest.json").read_text()) == verify(out).manifest
