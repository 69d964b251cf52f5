"""The OpenVINO engine: the same file, the same embeddings, its own check before it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.embeddings.reopen_model import reopen_model
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.export import export
from zoo.export.onnx_cache import cached_onnx
from zoo.hub.weights import locate
from zoo.inference import onnx_backend
from zoo.inference.parity import smallest_cosine

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT / "examples" / "photos"
SOME = sorted(PHOTOS.glob("*.jpg"))[:6]
INSTALL = "pip install 'siamese-zoo[openvino]'"


@pytest.fixture(scope="module", autouse=True)
def traced_once(mini_core: Any) -> Iterator[None]:
    """All files here are of one network: its trace, the slow part, is shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace_core", lambda embedder: mini_core)
        yield


@pytest.fixture(scope="module")
def fp32_file(traced_once: None) -> Path:
    return cached_onnx(locate("simclr_r18_mini"), "fp32")


@pytest.fixture(scope="module")
def openvino() -> Any:
    return pytest.importorskip("openvino", reason=INSTALL)


def has_bf16(openvino: Any) -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_or_skip(openvino: Any, precision: str, **options: Any) -> zoo.Embedder:
    if precision == "bf16" and not has_bf16(openvino):
        pytest.skip("this CPU has no bf16")
    return zoo.load(backend="openvino", precision=precision, **options)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999999), ("bf16", 0.999), ("int8", 0.995)])
def test_embeddings_are_those_of_torch(openvino: Any, precision: str, least: float) -> None:
    embedder = open_or_skip(openvino, precision)
    reference, found = zoo.load(device="cpu")(SOME), embedder(SOME)
    assert smallest_cosine(found, reference) >= least - 1e-7
    assert np.array_equal(found, embedder(SOME)), "the same bytes again"
    identity = embedder.identity()
    assert (identity["backend"], identity["device"], identity["precision"]) == ("openvino", "cpu", precision)
    assert identity["versions"]["openvino"] == openvino.__version__
    assert len(identity["versions"]["onnx_file"]) == 64
    assert repr(embedder).startswith(f"Embedder(simclr_r18_mini.tin64: 512 numbers, openvino {precision} on cpu")
    with pytest.raises(UserError, match="runs on OpenVINO and has no torch module"):
        _ = embedder.model


def test_fp32_is_fp32_on_a_cpu_that_has_bf16(openvino: Any, fp32_file: Path) -> None:
    """OpenVINO's own choice on such a CPU is bf16."""
    reference, found = zoo.load(backend="onnx")(SOME), zoo.load(backend="openvino")(SOME)
    np.testing.assert_allclose(found, reference, rtol=1e-4, atol=1e-4)


def test_threads_share_an_engine(openvino: Any, fp32_file: Path) -> None:
    embedder = zoo.load(backend="openvino")
    crops = [embedder.pixels(path)[None] for path in SOME]
    expected = [embedder.embed_pixels(crop) for crop in crops]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embedder.embed_pixels, crops * 5))
    for row, wanted in zip(found, expected * 5, strict=True):
        assert np.array_equal(row, wanted)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_an_extraction_says_it_is_resumed_and_searched_with_it(
    openvino: Any, tmp_path: Path, precision: str, fp32_file: Path
) -> None:
    open_or_skip(openvino, precision)
    out = tmp_path / "out"
    zoo.extract(PHOTOS, out, backend="openvino", precision=precision, shard_size=10)
    manifest = json.loads((out / "_manifest.json").read_bytes())
    assert (manifest["backend"], manifest["precision"], manifest["device"]) == ("openvino", precision, "cpu")
    assert manifest["versions"]["openvino"] == openvino.__version__
    verify(out)
    # A run that lost a shard makes the same bytes again.
    shard = out / "embeddings-00001.parquet"
    before = shard.read_bytes()
    shard.unlink()
    zoo.extract(PHOTOS, out, backend="openvino", precision=precision, shard_size=10)
    assert shard.read_bytes() == before
    with pytest.raises(UserError, match=r"backend openvino there, onnx now.*add --backend openvino"):
        zoo.extract(PHOTOS, out, backend="onnx", shard_size=10)
    # Search opens the same engine.
    again = reopen_model(out, manifest)
    assert (again.engine.backend, again.engine.precision) == ("openvino", precision)
    row = pq.read_table(out / "embeddings-00000.parquet").to_pylist()[0]
    found = again(PHOTOS / row["path"])[0]
    np.testing.assert_allclose(found, row["embedding"], rtol=2e-2 if precision != "fp32" else 1e-4, atol=1e-2)


def test_a_file_of_zoo_export_is_opened_by_path(openvino: Any, fp32_file: Path, tmp_path: Path) -> None:
    assert np.array_equal(zoo.load(fp32_file, backend="openvino")(SOME), zoo.load(backend="openvino")(SOME))
    int8 = cached_onnx(locate("simclr_r18_mini"), "int8")
    assert zoo.load(int8, backend="openvino").engine.precision == "int8", "the file decides"
    with pytest.raises(UserError, match="holds int8 numbers: --precision bf16 needs another file"):
        zoo.load(int8, backend="openvino", precision="bf16")
    if has_bf16(openvino):
        out = tmp_path / "out"
        zoo.extract(PHOTOS, out, model=fp32_file, backend="openvino", precision="bf16")
        again = reopen_model(out, json.loads((out / "_manifest.json").read_bytes()), str(fp32_file))
        assert (again.engine.backend, again.engine.precision) == ("openvino", "bf16")


def test_bf16_is_refused_where_the_cpu_has_none(
    openvino: Any, fp32_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO itself would run fp32, and the manifest would say bf16."""
    of_core = openvino.Core.get_property

    def without_bf16(core: Any, device: str, name: str) -> Any:
        return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else of_core(core, device, name)

    monkeypatch.setattr(openvino.Core, "get_property", without_bf16)
    with pytest.raises(UserError, match="this CPU has no instructions for bf16"):
        zoo.load(backend="openvino", precision="bf16")


def test_an_engine_that_differs_is_refused(openvino: Any, fp32_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_backend.OnnxEngine.run

    def turned(engine: Any, inputs: Any) -> Any:
        found = right(engine, inputs)
        return found + 0.02 * np.linalg.norm(found, axis=1, keepdims=True) * np.eye(1, found.shape[1])

    monkeypatch.setattr(onnx_backend.OnnxEngine, "run", turned)
    with pytest.raises(
        UserError, match=r"in fp32 differs from ONNX Runtime here: cosine 0\.999\d+ .* 0\.99999 is needed"
    ):
        zoo.load(backend="openvino")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu"])
def test_another_device_is_refused(openvino: Any, fp32_file: Path, device: str) -> None:
    with pytest.raises(UserError, match=f"OpenVINO runs on cpu here, not on '{device}'"):
        zoo.load(backend="openvino", device=device)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "other graph", "folder"])
def test_a_file_that_is_none_is_one_line(openvino: Any, fp32_file: Path, tmp_path: Path, damage: str) -> None:
    path, good = tmp_path / "model.onnx", fp32_file.read_bytes()
    if damage == "folder":
        path.mkdir()
    elif damage == "other graph":
        onnx = pytest.importorskip("onnx")
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in "xy"]
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", sides[:1], sides[1:])), path)
    else:
        path.write_bytes({"text": b"no graph" * 100, "empty": b"", "cut": good[: len(good) // 2]}[damage])
    with pytest.raises(UserError) as error:
        zoo.load(path, backend="openvino")
    assert "model.onnx" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_was_changed_is_not_opened_in_a_forked_process(
    openvino: Any, fp32_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(fp32_file.read_bytes())
    engine = zoo.load(path, backend="openvino").engine
    path.write_bytes(fp32_file.read_bytes()[:-1])
    engine._process = os.getpid() + 1  # type: ignore[attr-defined]  # as a forked process sees it
    with pytest.raises(UserError, match="was changed since it was opened"):
        engine(np.zeros((1, 40, 40, 3), np.uint8))


def test_extraction_on_openvino_imports_no_torch(openvino: Any, fp32_file: Path, tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("torch", "torchvision", "timm", "onnx", "onnxscript"):
    sys.modules[name] = None
sys.argv = ["zoo", "extract", {str(PHOTOS)!r}, "--out", {str(tmp_path / "out")!r}, "--backend", "openvino"]
from zoo.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "openvino on cpu, fp32: asked for" in done.stdout


def test_a_missing_package_is_said_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where OpenVINO is installed: the import is refused."""
    monkeypatch.setattr("zoo.system.preflight._is_installed", lambda name: name != "openvino")
    command = ["zoo", "extract", str(PHOTOS), "--out", str(tmp_path / "out"), "--backend", "openvino"]
    monkeypatch.setattr("sys.argv", command)
    assert exit_code(app, "zoo", "run it again") == 2
    said = capsys.readouterr().err
    assert "the OpenVINO backend needs openvino: pip install 'siamese-zoo[openvino]'" in said
    assert not (tmp_path / "out").exists()
