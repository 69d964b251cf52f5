"""The ONNX file is the torch network, or it is not written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import zoo
from zoo import export
from zoo.errors import UserError
from zoo.onnx_engine import METADATA, OnnxEngine

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> export.Exported:
    return export.export_onnx(zoo.load(), tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_parity_on_photographs_it_was_not_gated_on(exported: export.Exported) -> None:
    embedder = zoo.load()
    pixels = np.stack([embedder.pixels(p) for p in PHOTOS])
    engine, reference = OnnxEngine(exported.path), embedder.embed_pixels(pixels)
    for batch in (1, 3, len(PHOTOS)):
        ours = engine(pixels[:batch])
        assert np.abs(ours - reference[:batch]).max() / np.abs(reference).max() < 1e-4
    assert exported.parity < 1e-4


def test_the_file_is_self_contained_and_says_what_it_is(exported: export.Exported) -> None:
    model = onnx.load(exported.path, load_external_data=False)
    onnx.checker.check_model(model)
    assert not any(t.external_data for t in model.graph.initializer)
    size = zoo.load().preprocessing.input_size
    shape = [d.dim_value or d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape[1:] == [size, size, 3]
    assert isinstance(shape[0], str)
    about = json.loads({p.key: p.value for p in model.metadata_props}[METADATA])
    assert about["about"]["weights_sha256"] == zoo.load().about["weights_sha256"]
    assert str(Path.home()).encode() not in exported.path.read_bytes()
    assert b"site-packages" not in exported.path.read_bytes()


def test_an_onnx_file_is_a_model(exported: export.Exported) -> None:
    embedder = zoo.load(exported.path)
    assert embedder.identity()["backend"] == "onnx"
    np.testing.assert_allclose(embedder(PHOTOS[0]), zoo.load()(PHOTOS[0]), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="has no torch module"):
        _ = embedder.model


def test_the_backend_exports_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path))
    first = zoo.load(backend="onnx", normalize=True)
    (file,) = tmp_path.rglob("*.onnx")
    written = file.stat().st_mtime_ns
    second = zoo.load(backend="onnx", normalize=True)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first(PHOTOS[1]), second(PHOTOS[1]))
    np.testing.assert_allclose(np.linalg.norm(first(PHOTOS[1])), 1, rtol=1e-6)


def test_normalize_can_be_in_the_graph(tmp_path: Path) -> None:
    file = export.export_onnx(zoo.load(normalize=True), tmp_path / "unit.onnx")
    pixels = zoo.load().pixels(PHOTOS[0])[None]
    np.testing.assert_allclose(np.linalg.norm(OnnxEngine(file.path)(pixels)), 1, rtol=1e-5)
    assert zoo.load(file.path).identity()["normalize"] is True


def test_a_graph_that_differs_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real exporter, given a network that is not the embedder's."""
    out = tmp_path / "model.onnx"
    out.write_text("the previous good file")
    original = export._pixels_to_embedding

    def wrong(embedder: zoo.Embedder) -> object:
        module = original(embedder)
        module.mean += 1.0  # type: ignore[operator]
        return module

    monkeypatch.setattr(export, "_pixels_to_embedding", wrong)
    with pytest.raises(UserError, match="differs from torch"):
        export.export_onnx(zoo.load(), out)
    assert out.read_text() == "the previous good file"
    assert list(tmp_path.iterdir()) == [out]


def test_a_foreign_onnx_file_is_refused(tmp_path: Path, exported: export.Exported) -> None:
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not written by `zoo export`"):
        zoo.load(tmp_path / "foreign.onnx")
    (tmp_path / "broken.onnx").write_bytes(exported.path.read_bytes()[:1000])
    with pytest.raises(UserError, match="is no ONNX file"):
        zoo.load(tmp_path / "broken.onnx")
    with pytest.raises(UserError, match="no ONNX file at"):
        zoo.load(tmp_path / "none.onnx")
