"""The ONNX file is the torch network, or it is not written."""

from __future__ import annotations

import copy
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from resize_graph import resize_graph

import zoo
from zoo.errors import UserError
from zoo.export import export
from zoo.export.export import INT8_COSINE, PARITY, PRECISIONS, Variant, export_onnx
from zoo.export.onnx_graph import OPSETS, assemble
from zoo.inference.embedder import as_rgb
from zoo.inference.onnx_backend import METADATA, OnnxEngine
from zoo.transforms.preprocess import Preprocessing

PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))
SHIPPED = {path.name for path in (Path(export.__file__).parents[1] / "bundled" / "parity").glob("*.jpg")}
UNSEEN = [path for path in PHOTOS if path.name not in SHIPPED]


@pytest.fixture(scope="module")
def embedder() -> zoo.Embedder:
    return zoo.load()


@pytest.fixture(scope="module")
def core(mini_core: Any) -> Any:
    return mini_core


@pytest.fixture(scope="module")
def exported(embedder: zoo.Embedder, core: Any, tmp_path_factory: pytest.TempPathFactory) -> export.Exported:
    return export_onnx(embedder, tmp_path_factory.mktemp("onnx") / "model.onnx", core=core)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def test_a_network_that_gives_only_zeros_is_not_exported(embedder: zoo.Embedder, tmp_path: Path) -> None:
    zeros = copy.deepcopy(embedder)
    for values in zeros.model.parameters():
        values.data.zero_()
    with pytest.raises(UserError, match=r"^the network gives zeros for every photograph: [^\n]*$"):
        export_onnx(zeros, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pixels", "precision", "opset"),
    [
        *itertools.product(["any"], PRECISIONS, [OPSETS[0], OPSETS[-1]]),
        ("crop", "fp32", OPSETS[0]),
        ("normalised", "fp32", OPSETS[-1]),
        ("normalised", "fp16", OPSETS[0]),
    ],
)
def test_every_variant_on_photographs_it_was_neither_gated_nor_calibrated_on(
    embedder: zoo.Embedder, core: Any, tmp_path: Path, pixels: str, precision: str, opset: int
) -> None:
    made = export_onnx(embedder, tmp_path / "m.onnx", Variant(pixels, precision, opset), core=core)
    assert onnx.load(made.path).opset_import[0].version == opset
    crops = np.stack([embedder.pixels(path) for path in UNSEEN])
    reference = embedder.embed_pixels(crops)
    session = onnxruntime.InferenceSession(made.path)  # as any other program does
    (name,) = [i.name for i in session.get_inputs()]
    if pixels == "any":
        ours = np.concatenate([session.run(None, {name: np.asarray(as_rgb(path))[None]})[0] for path in UNSEEN])
    else:
        inputs = crops if pixels == "crop" else embedder.preprocessing.normalise(crops)
        ours = np.concatenate([session.run(None, {name: part})[0] for part in (inputs[:1], inputs[1:4], inputs[4:])])
    assert least_cosine(ours, reference) > (INT8_COSINE if precision == "int8" else 0.99999)
    assert made.bytes < {"fp32": 1, "fp16": 0.51, "int8": 0.26}[precision] * 44.8e6
    if precision != "int8":
        assert relative(ours, reference) < PARITY[precision, pixels]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "resize"), [(64, 73), (33, 33), (224, 256)])
def test_the_graph_resizes_and_crops_as_pillow_does(core: Any, interpolation: str, side: int, resize: int) -> None:
    """At odd and even sizes, upright, wide and square, larger and smaller than the crop."""
    preprocessing = Preprocessing(side, resize, interpolation, mean=(0, 0, 0), std=(1 / 255,) * 3)
    session = resize_graph(preprocessing)
    photo = Image.open(UNSEEN[0]).convert("RGB")
    for size in (None, (resize, resize), (resize - 5, resize + 30), (401, 300), (300, 401), (500, 90), (31, 31)):
        image = photo if size is None else photo.resize(size)
        ours = session.run(None, {"pixels": np.asarray(image)[None]})[0].reshape(3, side, side).transpose(1, 2, 0)
        difference = np.abs(np.round(ours) - preprocessing.pixels(image))
        assert difference.max() <= 1
        assert difference.mean() < 0.03


def test_a_tall_photograph_is_close(embedder: zoo.Embedder, exported: export.Exported) -> None:
    """Pillow 13 makes the passes of a tall image in another order than ONNX Runtime, which rounds otherwise."""
    tall = Image.open(UNSEEN[0]).convert("RGB").resize((300, 900))
    ours = OnnxEngine(exported.path).run(np.asarray(tall)[None])
    assert least_cosine(ours, embedder(tall)) > 0.9999


def test_the_file_is_self_contained_and_says_what_it_is(embedder: zoo.Embedder, exported: export.Exported) -> None:
    model = onnx.load(exported.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.external_data for t in model.graph.initializer)
    shape = [d.dim_value or d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", "height", "width", 3]
    entries = {p.key: p.value for p in model.metadata_props}
    assert json.loads(entries[METADATA])["about"]["weights_sha256"] == embedder.weights_info["weights_sha256"]
    assert entries["weights_sha256"] == embedder.weights_info["weights_sha256"]
    assert entries["licence"] == "Apache-2.0"
    assert entries["source"] == "this project, trained on Tiny-ImageNet"
    assert json.loads(entries["preprocessing"]) == embedder.preprocessing.to_json()
    assert str(Path.home()).encode() not in exported.path.read_bytes()
    assert b"site-packages" not in exported.path.read_bytes()


def test_the_same_export_gives_the_same_bytes(
    embedder: zoo.Embedder, core: Any, exported: export.Exported, tmp_path: Path
) -> None:
    assert export_onnx(embedder, tmp_path / "again.onnx", core=core).sha256 == exported.sha256


def test_an_onnx_file_is_a_model(embedder: zoo.Embedder, core: Any, exported: export.Exported, tmp_path: Path) -> None:
    opened = zoo.load(exported.path)
    assert opened.identity()["backend"] == "onnx"
    np.testing.assert_allclose(opened(PHOTOS[0]), embedder(PHOTOS[0]), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="has no torch module"):
        _ = opened.model
    small = export_onnx(embedder, tmp_path / "int8.onnx", Variant("normalised", "int8"), core=core)
    assert zoo.load(small.path).identity()["precision"] == "int8"
    assert least_cosine(zoo.load(small.path)(PHOTOS[0]), embedder(PHOTOS[0])) > INT8_COSINE


def test_normalize_can_be_in_the_graph(core: Any, tmp_path: Path) -> None:
    file = export_onnx(zoo.load(normalize=True), tmp_path / "unit.onnx", core=core)
    pixels = zoo.load().pixels(PHOTOS[0])[None]
    np.testing.assert_allclose(np.linalg.norm(OnnxEngine(file.path)(pixels)), 1, rtol=1e-5)
    assert zoo.load(file.path).identity()["normalize"] is True


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_that_differs_is_never_written(
    embedder: zoo.Embedder, core: Any, tmp_path: Path, precision: str
) -> None:
    """The real pipeline, given a network in which one bias is not the embedder's."""
    out = tmp_path / "model.onnx"
    out.write_text("the previous good file")
    wrong = onnx.ModelProto()
    wrong.CopyFrom(core)
    bias = max((t for t in wrong.graph.initializer if len(t.dims) == 1 and t.data_type == 1), key=lambda t: t.dims[0])
    values = onnx.numpy_helper.to_array(bias) + 3
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    with pytest.raises(UserError, match="differs from torch"):
        export_onnx(embedder, out, Variant(precision=precision), core=wrong)
    assert out.read_text() == "the previous good file"
    assert list(tmp_path.iterdir()) == [out]


def test_int8_gives_the_same_embeddings_on_every_cpu(embedder: zoo.Embedder, core: Any, tmp_path: Path) -> None:
    """A CPU without VNNI adds pairs of products in 16 bits, which overflow with weights beyond 7 bits.

    Without its optimisations ONNX Runtime computes the quantised numbers in float, which is exact.
    """
    made = export_onnx(embedder, tmp_path / "m.onnx", Variant("normalised", "int8"), core=core)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer]
    weights = [w for w in weights if w.dtype == np.int8 and w.ndim == 4]
    assert len(weights) == 20  # the convolutions of a ResNet-18
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64
    pixels = embedder.preprocessing.normalise(np.stack([embedder.pixels(path) for path in UNSEEN]))
    exact = onnxruntime.SessionOptions()
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    fast, slow = (
        onnxruntime.InferenceSession(made.path, options).run(None, {"normalised": pixels})[0]
        for options in (None, exact)
    )
    assert least_cosine(fast, slow) > 0.9999


def test_int8_takes_ones_own_photographs(embedder: zoo.Embedder, core: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in UNSEEN[:6]:
        (mine / path.name).write_bytes(path.read_bytes())
    made = export_onnx(embedder, tmp_path / "m.onnx", Variant(precision="int8"), calibrate=mine, core=core)
    assert made.photographs == len(SHIPPED)
    assert made.cosine > INT8_COSINE
    entries = {p.key: p.value for p in onnx.load(made.path).metadata_props}
    assert json.loads(entries[METADATA])["calibration"] == {"photographs": 6, "folder": "mine"}
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "no photographs in"), (tmp_path / "none", "no folder of photographs")):
        with pytest.raises(UserError, match=message):
            export_onnx(embedder, tmp_path / "n.onnx", Variant(precision="int8"), calibrate=folder, core=core)
    with pytest.raises(UserError, match="--calibrate is for"):
        export_onnx(embedder, tmp_path / "n.onnx", Variant(), calibrate=mine, core=core)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [({"opset": 17}, "from 18 to 23"), ({"pixels": "raw"}, "unknown pixels"), ({"precision": "bf16"}, "not 'bf16'")],
)
def test_a_wrong_wish_is_one_line(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Variant(**wishes)


def test_a_filter_that_onnx_lacks_is_refused(core: Any) -> None:
    with pytest.raises(UserError, match="--pixels crop"):
        assemble(core, Preprocessing(40, 40, "lanczos"), pixels="any", normalize=False, opset=18)


def test_a_foreign_onnx_file_is_refused(tmp_path: Path, exported: export.Exported) -> None:
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not written by `zoo export`"):
        zoo.load(tmp_path / "foreign.onnx")
    model.metadata_props.add(key=METADATA, value='{"format": 1}')
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(UserError, match="export it again"):
        zoo.load(tmp_path / "old.onnx")
    (tmp_path / "broken.onnx").write_bytes(exported.path.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not an ONNX file"):
        zoo.load(tmp_path / "broken.onnx")
    with pytest.raises(UserError, match="no ONNX file at"):
        zoo.load(tmp_path / "none.onnx")


def test_a_file_that_resizes_is_not_fed_crops(embedder: zoo.Embedder, core: Any, tmp_path: Path) -> None:
    size = embedder.preprocessing.input_size
    wider = Preprocessing(size, size + 6)
    model = assemble(core, wider, pixels="any", normalize=False, opset=18)
    about = {"format": 2, "about": {"model": "m"}, "preprocessing": wider.to_json(), "normalize": False}
    model.metadata_props.add(key=METADATA, value=json.dumps(about | {"pixels": "any", "precision": "fp32"}))
    onnx.save(model, tmp_path / "any.onnx")
    with pytest.raises(UserError, match="--pixels crop"):
        zoo.load(tmp_path / "any.onnx")


@pytest.mark.parametrize("location", ["../secret", "secret", "/etc/hostname"])
def test_a_graph_that_reads_other_files_is_refused(tmp_path: Path, exported: export.Exported, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for secret in (tmp_path / "secret", folder / "secret"):
        secret.write_bytes(b"\0" * 4096)
    inner = onnx.parser.parse_graph("g () => (float[2] z) <float[2] z = {1, 2}> { }")
    for nested in (False, True):
        model = onnx.load(exported.path)
        hidden = inner.initializer[0] if nested else model.graph.initializer[0]
        hidden.data_location = onnx.TensorProto.EXTERNAL
        del hidden.external_data[:]
        hidden.external_data.add(key="location", value=location)
        if nested:
            model.graph.node.add(op_type="If", input=["c"], output=["d"]).attribute.append(
                onnx.helper.make_attribute("then_branch", inner)
            )
        (folder / "evil.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match="data in other files"):
            zoo.load(folder / "evil.onnx")


def test_a_mutated_file_is_one_line(tmp_path: Path) -> None:
    """Whatever the bytes: refused or opened, never a traceback."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 2] x) => (float[n, 2] y) <float[2] b = {1, 2}> { y = Add (x, b) }"""
    )
    good = model.SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    mutations = [rng.integers(1, 256, len(good)) * (rng.random(len(good)) < 0.05) for _ in range(300)]
    mutated = [bytes(np.frombuffer(good, np.uint8) ^ change.astype(np.uint8)) for change in mutations]
    for data in [good[:n] for n in range(len(good))] + mutated:
        path.write_bytes(data)
        with pytest.raises(UserError):
            OnnxEngine(path)


def test_without_the_onnx_library_doubtful_files_are_refused(
    tmp_path: Path, exported: export.Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word ``location`` may be harmless text: only the library can tell."""
    model = onnx.load(exported.path)
    model.doc_string = "a location"
    onnx.save(model, tmp_path / "text.onnx")
    assert OnnxEngine(tmp_path / "text.onnx").dim == 512
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert OnnxEngine(exported.path).dim == 512
    with pytest.raises(UserError, match="may refer to data in other files: pip install onnx"):
        OnnxEngine(tmp_path / "text.onnx")
