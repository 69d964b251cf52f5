"""``zoo.sklearn`` and ``zoo.lancedb``, with the real libraries."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zoo
from zoo.errors import UserError
from zoo.sklearn import ImageEmbedder

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))[:12]
PATHS = [str(path) for path in PHOTOS]


@pytest.fixture(scope="module")
def expected() -> Any:
    return zoo.load(device="cpu")(PATHS)


def test_a_pipeline_fits_and_predicts(expected: Any) -> None:
    labels = [name.split("_")[0] in ("bird", "cat", "cow") for name in (path.name for path in PHOTOS)]
    pipeline = make_pipeline(ImageEmbedder(device="cpu"), StandardScaler(), LogisticRegression())
    assert pipeline.fit(PATHS, labels).score(PATHS, labels) == 1
    assert pipeline[:1].get_feature_names_out()[[0, -1]].tolist() == ["imageembedder0", "imageembedder511"]
    again = pickle.loads(pickle.dumps(pipeline))
    assert len(pickle.dumps(pipeline[0])) < 1000  # no network
    assert again.predict(PATHS[:3]).tolist() == labels[:3]
    # A search clones the step and sets its parameters.
    search = GridSearchCV(pipeline, {"imageembedder__normalize": [False, True]}, cv=2, error_score="raise")
    assert set(search.fit(PATHS, labels).cv_results_["param_imageembedder__normalize"]) == {False, True}


@pytest.mark.parametrize("form", [list, tuple, np.array, pandas.Series, lambda paths: (path for path in paths)])
def test_columns_of_all_kinds_give_the_embeddings_of_an_embedder(expected: Any, form: Any) -> None:
    embedder = ImageEmbedder(device="cpu", batch_size=5)
    found = embedder.fit_transform(form(PATHS))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_parameters_open_another_model_and_a_clone_opens_its_own(expected: Any) -> None:
    embedder = ImageEmbedder(device="cpu")
    embedder.transform(PATHS[:1])
    copy = clone(embedder.set_params(normalize=True))
    assert not hasattr(copy, "_embedder")
    for one in (embedder, copy):
        np.testing.assert_allclose(np.linalg.norm(one.transform(PATHS[:2]), axis=1), 1, atol=1e-5)
    assert repr(copy) == "ImageEmbedder(device='cpu', normalize=True)"
    with pytest.raises(UserError, match="gone"):
        embedder.transform([PATHS[0], "gone.jpg"])
    with pytest.raises(UserError):
        ImageEmbedder("no_such_model").transform(PATHS[:1])


def test_lancedb_embeds_and_searches(tmp_path: Path, expected: Any) -> None:
    lancedb = pytest.importorskip("lancedb")
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    import zoo.lancedb

    images = get_registry().get("siamese-zoo").create(device="cpu")
    assert isinstance(images, zoo.lancedb.ImageEmbeddings)

    class Photo(LanceModel):
        path: str = images.SourceField()
        vector: Vector(images.ndims()) | None = images.VectorField(default=None)

    table = lancedb.connect(tmp_path).create_table("photos", schema=Photo, on_bad_vectors="null")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    table.add([{"path": path} for path in [*PATHS, str(broken)]], on_bad_vectors="null")
    stored = {row["path"]: row["vector"] for row in table.to_arrow().to_pylist()}
    assert stored.pop(str(broken)) is None
    units = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose([stored[path] for path in PATHS], units, atol=1e-5)
    # A table that is opened again finds the function by its name.
    again = lancedb.connect(tmp_path).open_table("photos")
    found = [row["path"] for row in again.search(PATHS[3]).limit(4).to_list()]
    assert found == [PATHS[n] for n in np.argsort(-units @ units[3])[:4]]
