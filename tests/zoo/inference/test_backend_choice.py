"""The engine is chosen by a rule, runs without torch where torch is not needed, and gives torch's embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import zoo
from zoo.cli.messages import print_opened
from zoo.errors import UserError
from zoo.export import export
from zoo.export.onnx_cache import cached_onnx
from zoo.extraction.fingerprint import default_batch_size
from zoo.hub.weights import locate
from zoo.inference import backend_choice, onnx_backend
from zoo.models.fuse_bn import MAX_ERROR, fold_batch_norms
from zoo.models.registry import Architecture
from zoo.models.resnet import build_encoder
from zoo.system import hardware

ROOT = Path(__file__).parents[3]
PHOTOS = ROOT / "examples" / "photos"
CAT = PHOTOS / "cat_chelsea.jpg"


@pytest.fixture(scope="module", autouse=True)
def traced_once(mini_core: Any) -> Iterator[None]:
    """All files here are of one network: its trace, the slow part, is shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "trace_core", lambda embedder: mini_core)
        yield


@pytest.fixture(scope="module")
def cached(traced_once: None) -> Path:
    """The ONNX file of the bundled network, made in the tests' cache."""
    return cached_onnx(locate("simclr_r18_mini"), "fp32")


@pytest.mark.parametrize(
    ("wishes", "backend", "reason"),
    [
        ({}, "onnx", "the fastest on a CPU"),
        ({"device": "cpu"}, "onnx", "the fastest on a CPU"),
        ({"device": "cuda:1"}, "torch", "for cuda:1"),
        ({"device": "mps"}, "torch", "for mps"),
        ({"precision": "bf16"}, "torch", "for bf16"),
        ({"precision": "int8"}, "onnx", "for int8"),
        ({"random": True}, "torch", "random weights"),
        ({"torch_only": "--layers"}, "torch", "for --layers"),
    ],
)
def test_the_rule_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, wishes: dict[str, object], backend: str, reason: str
) -> None:
    monkeypatch.setattr(backend_choice, "gpu_in_sight", lambda: False)
    monkeypatch.setattr(backend_choice, "cpu_features", frozenset)
    asked = {"device": None, "precision": "fp32"} | wishes
    assert backend_choice.choose("auto", **asked) == backend_choice.BackendChoice(backend, reason)  # type: ignore[arg-type]


def test_the_rule_with_a_gpu_in_sight_and_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_choice, "gpu_in_sight", lambda: True)
    assert backend_choice.choose("auto", device=None, precision="fp32").backend == "torch"
    assert backend_choice.choose("auto", device="cpu", precision="fp32").backend == "onnx"
    monkeypatch.setattr(backend_choice, "gpu_in_sight", lambda: False)
    monkeypatch.setattr(backend_choice, "find_spec", lambda name: None if name == "onnxruntime" else object())
    choice = backend_choice.choose("auto", device=None, precision="fp32")
    assert choice.backend == "torch"
    assert "onnxruntime is not installed" in choice.reason


@pytest.mark.parametrize(
    ("precision", "features", "wishes", "backend"),
    [
        ("bf16", {"avx512_bf16"}, {}, "openvino"),
        ("bf16", {"amx_bf16", "amx_int8"}, {"device": "cpu"}, "openvino"),
        ("int8", {"avx512_vnni"}, {}, "openvino"),
        ("int8", {"amx_int8"}, {}, "openvino"),
        ("fp32", {"amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni"}, {}, "onnx"),
        ("bf16", {"avx512f", "avx512_vnni"}, {}, "torch"),
        ("int8", {"avx2", "avx512_bf16"}, {}, "onnx"),
        ("bf16", {"avx512_bf16"}, {"device": "cuda"}, "torch"),
        ("bf16", {"avx512_bf16"}, {"random": True}, "torch"),
        ("bf16", {"avx512_bf16"}, {"torch_only": "--layers"}, "torch"),
    ],
)
def test_openvino_runs_what_the_cpu_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, precision: str, features: set[str], wishes: dict[str, object], backend: str
) -> None:
    monkeypatch.setattr(backend_choice, "gpu_in_sight", lambda: False)
    monkeypatch.setattr(backend_choice, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(backend_choice, "find_spec", lambda name: object())
    asked = {"device": None, "precision": precision} | wishes
    assert backend_choice.choose("auto", **asked).backend == backend  # type: ignore[arg-type]
    if backend == "openvino":
        # A GPU runs bf16 itself; int8 has always been the CPU's.
        monkeypatch.setattr(backend_choice, "gpu_in_sight", lambda: True)
        on_gpu = "torch" if precision == "bf16" and not wishes else "openvino"
        assert backend_choice.choose("auto", **asked).backend == on_gpu  # type: ignore[arg-type]
        monkeypatch.setattr(backend_choice, "find_spec", lambda name: None if name == "openvino" else object())
        assert backend_choice.choose("auto", **asked).backend == ("torch" if precision == "bf16" else "onnx")  # type: ignore[arg-type]


def test_the_cpu_names_its_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "_CPUINFO", cpuinfo)
    assert hardware.cpu_features() == frozenset(), "no such file on other systems"
    cpuinfo.write_text("processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu amx_bf16 avx512_vnni\n\nprocessor\t: 1\n")
    assert hardware.cpu_features() == {"fpu", "amx_bf16", "avx512_vnni"}


@pytest.mark.parametrize(
    ("flags", "emulates"), [("fpu avx2 fma", True), ("avx2 avx512f", False), ("asimd bf16", False), ("", False)]
)
def test_a_cpu_without_instructions_for_bf16_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, emulates: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n" if flags else "")
    assert hardware.emulates_bf16() == emulates
    for precision in ("bf16", "fp32"):
        about = {"model": "m", "backend": "torch", "precision": precision, "device": "cpu"}
        opened: Any = SimpleNamespace(identity=lambda: about, backend_reason="", shapes={}, dim=4)  # noqa: B023
        print_opened(opened)
        assert ("no instructions for bf16" in capsys.readouterr().err) == (emulates and precision == "bf16")


@pytest.mark.parametrize(
    ("backend", "wishes", "message"),
    [
        ("tf", {}, "unknown backend"),
        ("auto", {"precision": "int4"}, "unknown precision"),
        ("onnx", {"precision": "bf16"}, "needs --backend torch"),
        ("torch", {"precision": "int8"}, "needs --backend onnx"),
        ("onnx", {"random": True}, "a random network needs --backend torch"),
        ("onnx", {"torch_only": "--layers"}, "--layers needs --backend torch"),
        ("auto", {"precision": "int8", "random": True}, "a random network needs --backend torch"),
        ("openvino", {"random": True}, "the OpenVINO backend runs exported weights: a random network needs"),
        ("openvino", {"precision": "bf16", "torch_only": "--maps"}, "--maps needs --backend torch"),
    ],
)
def test_wishes_that_no_engine_fulfils_are_one_line(backend: str, wishes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        backend_choice.choose(backend, **({"device": "cpu", "precision": "fp32"} | wishes))  # type: ignore[arg-type]


def test_the_file_is_made_once_and_again_where_it_is_damaged(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, written = cached.read_bytes(), cached.stat().st_mtime_ns
    assert cached_onnx(locate("simclr_r18_mini"), "fp32") == cached
    assert cached.stat().st_mtime_ns == written
    assert capsys.readouterr().err == ""
    cached.write_bytes(good[:100_000] + bytes([good[100_000] ^ 1]) + good[100_001:])
    assert cached_onnx(locate("simclr_r18_mini"), "fp32") == cached
    assert "making the ONNX file of simclr_r18_mini.tin64 (fp32), once" in capsys.readouterr().err
    assert cached.read_bytes() == good
    assert {path.suffix for path in cached.parent.iterdir()} == {".onnx", ".sha256"}


def test_all_engines_agree(cached: Path) -> None:
    photos = sorted(PHOTOS.glob("*.jpg"))
    reference = zoo.load(normalize=True)(photos)
    fp32 = zoo.load(backend="onnx", normalize=True)
    np.testing.assert_allclose(fp32(photos), reference, atol=1e-4)
    assert fp32.identity()["precision"] == "fp32"
    int8 = zoo.load(precision="int8", backend="auto", normalize=True)
    assert int8.identity()["precision"] == "int8"
    assert (int8(photos) * reference).sum(1).min() > 0.995


def test_extraction_on_onnx_runtime_imports_no_torch(cached: Path, tmp_path: Path) -> None:
    """torch, timm and the exporter cannot be imported in that process; the choice stands in the manifest."""
    out = tmp_path / "out"
    code = f"""
import sys
for name in ("torch", "torchvision", "timm", "onnx", "onnxscript"):
    sys.modules[name] = None
sys.argv = ["zoo", "extract", "--images", {str(PHOTOS)!r}, "--out", {str(out)!r}, "--backend", "onnx"]
from zoo.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "onnx on cpu, fp32: asked for" in done.stdout
    manifest = json.loads((out / "_manifest.json").read_text())
    assert (manifest["backend"], manifest["device"], manifest["precision"]) == ("onnx", "cpu", "fp32")
    assert (manifest["ok"], manifest["batch_size"]) == (24, 64)


def test_a_missing_gpu_provider_is_said_and_nothing_falls_back(cached: Path) -> None:
    for device, message in (("cuda", "Provider"), ("cuda:x", "'cuda:x' is not usable here"), ("mps", "not on 'mps'")):
        if device == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(UserError, match=message):
            zoo.load(backend="onnx", device=device)


def test_a_gpu_computes_full_float32_by_algorithms_that_no_clock_chose() -> None:
    name, options = onnx_backend._provider("cuda:1", ["CUDAExecutionProvider"])
    assert name == "CUDAExecutionProvider"
    assert options == {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    # The library knows these options: it drops others with a warning at most.
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if library.exists():
        known = library.read_bytes()
        assert all(option.encode() in known for option in options)


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet18", 512, 0),
        Architecture("resnet50", 2048, 0, {"layers": [1, 1, 1, 1]}),
        Architecture("resnetv2_50", 2048, 0, {"preact": False, "layers": [1, 1, 1, 1]}),
        Architecture("resnetv2_50", 2048, 0, {"preact": False, "layers": [1, 1, 1, 1]}, padding="same"),
    ],
    ids=["resnet18", "resnet50", "resnetv2", "same"],
)
def test_folding_keeps_the_features_and_the_model(architecture: Architecture) -> None:
    torch.manual_seed(0)
    model = build_encoder(architecture).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_(0, 0.2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = fold_batch_norms(model)
    assert fast is not None
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    x = torch.randn(2, 3, 50, 70)
    with torch.inference_mode():
        expected, found = model(x), fast(x)
    assert (found - expected).abs().max() <= MAX_ERROR * expected.abs().max()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_nothing_to_fold_gives_none() -> None:
    assert fold_batch_norms(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())) is None


def test_the_embedder_keeps_its_model_unfolded() -> None:
    embedder = zoo.load()
    embedder(CAT)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in embedder.model.modules())


@pytest.mark.parametrize(
    ("device", "side", "images"),
    [("cpu", 224, 16), ("cpu", 48, 64), ("cpu", 896, 1), ("cuda", 224, 256), ("mps", 48, 1024)],
)
def test_the_batch_size_follows_the_size_of_the_input(device: str, side: int, images: int) -> None:
    assert default_batch_size(device, side) == images


def test_a_cache_that_cannot_be_written_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIAMESE_ZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="--backend torch"):
        zoo.load(backend="auto", device="cpu")
