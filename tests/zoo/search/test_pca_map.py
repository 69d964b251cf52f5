from __future__ import annotations

from pathlib import Path

import numpy as np
from made_collection import clusters, make

from zoo.search.pca_map import pca_points


def test_points_are_the_first_two_principal_components_and_are_cached(tmp_path: Path) -> None:
    vectors = clusters(60, 5)
    collection = make(tmp_path, vectors, failed=(2, 31), shard_size=7)
    found = pca_points(collection)
    good = [n for n in range(60) if n not in (2, 31)]
    assert np.isnan(found[[2, 31]]).all()
    units = vectors[good].astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(units - units.mean(axis=0), full_matrices=False)
    projected = (units - units.mean(axis=0)) @ axes[:2].T
    for axis in range(2):
        assert abs(np.corrcoef(projected[:, axis], found[good][:, axis])[0, 1]) > 0.99
    (cache,) = (tmp_path / ".zoo").glob("map-*.npy")
    before = cache.read_bytes()
    cache.write_bytes(before[:100])
    np.testing.assert_array_equal(pca_points(collection), found)  # a damaged cache is written again
    assert cache.read_bytes() == before
    for count in (1, 2, 3):
        assert np.isfinite(pca_points(make(tmp_path / str(count), clusters(count, 5)))).all()
