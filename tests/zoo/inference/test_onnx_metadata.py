"""ONNX files whose graph is not what their metadata say, or gives other rows than it was given, end in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import zoo  # noqa: E402
from zoo.errors import UserError  # noqa: E402
from zoo.inference.onnx_backend import FORMAT, METADATA  # noqa: E402
from zoo.system import hardware  # noqa: E402
from zoo.transforms.preprocess import Preprocessing  # noqa: E402

MEANS = """g (uint8[n, 8, 8, 3] x) => (float[n, 3] embedding) <int64[2] sides = {1, 2}> {
    f = Cast <to = 1> (x)
    embedding = ReduceMean <keepdims = 0> (f, sides) }"""
SUMMED = """g (uint8[n, 8, 8, 3] x) => (float[m, 3] embedding) <int64[3] sides = {0, 1, 2}, int64[1] first = {0}> {
    f = Cast <to = 1> (x)
    r = ReduceMean <keepdims = 0> (f, sides)
    embedding = Unsqueeze (r, first) }"""
IMAGES = [Image.new("RGB", (20, 10), (40 * n, 9, 200)) for n in range(3)]


def written(path: Path, graph: str, **changes: Any) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {graph}')
    values = {
        "format": FORMAT, "about": {"model": "m", "licence": "MIT"}, "preprocessing": Preprocessing(8, 8).to_json(),
        "normalize": False, "pixels": "crop", "precision": "fp32",
    }  # fmt: skip
    model.metadata_props.add(key=METADATA, value=json.dumps(values | changes))
    path.write_bytes(model.SerializeToString())
    return path


BACKENDS = ["onnx", pytest.param("openvino", marks=pytest.mark.filterwarnings("ignore"))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_fits_is_read(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    found = zoo.load(written(tmp_path / "m.onnx", MEANS), device="cpu", backend=backend)(IMAGES)
    assert np.allclose(found, [[40 * n, 9, 200] for n in range(3)])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("graph", "changes"),
    [
        (MEANS.replace("8, 8, 3", "16, 16, 3"), {}),
        (MEANS.replace("[n, 8", "[1, 8").replace("[n, 3", "[1, 3"), {}),
        (MEANS.replace("n, 8, 8, 3", "n, 3, 8, 8"), {}),
        (MEANS.replace("uint8[", "float["), {}),
        (MEANS.replace("float[n, 3] e", "double[n, 3] e").replace("to = 1>", "to = 11>"), {}),
        (MEANS.replace("float[n, 3] e", "int64[n, 3] e").replace("to = 1>", "to = 7>"), {}),
        (MEANS, {"pixels": "normalised"}),
        (MEANS, {"preprocessing": Preprocessing(9, 9).to_json()}),
        (MEANS, {"preprocessing": Preprocessing(8, 8, mean=(0.5,), std=(0.5,)).to_json()}),
    ],
)
def test_a_graph_that_takes_or_gives_other_arrays_is_refused(
    graph: str, changes: dict[str, Any], backend: str, tmp_path: Path
) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    with pytest.raises(UserError, match=r"not what its metadata say|does not map images") as caught:
        zoo.load(written(tmp_path / "m.onnx", graph, **changes), device="cpu", backend=backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_weights_of_8_bits_are_refused_where_their_sums_overflow(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    earlier = written(tmp_path / "earlier.onnx", MEANS, precision="int8")
    today = written(tmp_path / "today.onnx", MEANS, precision="int8", weight_bits=7)
    for features, overflows in (({"avx2"}, True), ({"avx2", "avx512_vnni"}, False), ({"asimd"}, False), (set(), False)):
        monkeypatch.setattr(hardware, "cpu_features", lambda found=features: frozenset(found))
        zoo.load(today, device="cpu", backend=backend)
        if overflows:
            with pytest.raises(UserError, match=r"int8 weights of 8 bits.*no VNNI instructions: export it again"):
                zoo.load(earlier, device="cpu", backend=backend)
        else:
            zoo.load(earlier, device="cpu", backend=backend)
    with pytest.raises(UserError, match="another version"):
        zoo.load(written(tmp_path / "m.onnx", MEANS, weight_bits="7"), device="cpu", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_gives_one_row_for_a_batch_is_refused(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if backend == "openvino" else "onnxruntime")
    with pytest.raises(UserError, match=r"gives \[1, 3\] numbers for \d images"):
        zoo.load(written(tmp_path / "m.onnx", SUMMED), device="cpu", backend=backend)(IMAGES)


def test_a_graph_that_fails_as_it_runs_is_one_line(tmp_path: Path) -> None:
    graph = """g (uint8[n, 8, 8, 3] x) => (float[n, 3] embedding) <int64[2] sides = {1, 2}, float[2] table = {0, 1}> {
        f = Cast <to = 1> (x)
        r = ReduceMean <keepdims = 0> (f, sides)
        i = Cast <to = 7> (r)
        embedding = Gather (table, i) }"""
    with pytest.raises(UserError, match="fails on 3 images") as caught:
        zoo.load(written(tmp_path / "m.onnx", graph), device="cpu")(IMAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("about", [{}, {"model": None}, {"model": ""}])
def test_a_file_that_does_not_name_its_model_is_refused(about: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="export it again"):
        zoo.load(written(tmp_path / "m.onnx", MEANS, about=about), device="cpu")
