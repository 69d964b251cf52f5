"""Files made to crash, hang or fill the memory: each ends in one line and exit code 2, through the real commands.

The corpus is ``hostile_files``. A process runs the commands of one kind of file and measures the peak of each; a file
that crashed it would show by the name that is left in its report.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forked_commands import run_module
from hostile_files import array_files, pickles, safetensors_files, torch_files
from official_files import narrow, network
from safetensors.torch import save

from zoo.convert.convert import convert
from zoo.errors import UserError
from zoo.models import checkpoint_dir
from zoo.models.heads import byol_mlp
from zoo.models.model_config import ModelConfig
from zoo.models.resnet import build_encoder, encoder_state
from zoo.system.atomic_files import sha256_file
from zoo.transforms.preprocess import Preprocessing

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory with /proc")


def refused(tmp_path: Path, commands: Mapping[str, tuple[list[str | Path], int]]) -> dict[str, str]:
    """Run the commands and check each; return their errors by the commands' names.

    Args:
        commands: by name, the words and the bytes of the files that they read.
    """
    report = tmp_path / "report.json"
    report.write_text(json.dumps([[str(word) for word in words] for words, _ in commands.values()]))
    done = run_module("measured_commands", report, cwd=tmp_path)
    answers: Any = json.loads(report.read_text())
    assert done.returncode == 0, (answers, done.stderr)
    errors = {}
    for (case, (_, size)), answer in zip(commands.items(), answers, strict=True):
        assert answer["code"] == 2, (case, answer)
        assert len(answer["stderr"].strip().splitlines()) == 1, (case, answer)
        assert answer["stderr"].strip().isprintable(), (case, answer)
        assert len(answer["stderr"]) < 1000, (case, answer)
        assert answer["peak"] < 2 * size / 2**20 + 256, (case, answer)
        errors[case] = answer["stderr"].strip()
    return errors


def write(folder: Path, files: Mapping[str, bytes], ending: str = "") -> dict[str, Path]:
    for name, data in files.items():
        (folder / f"{name}{ending}").write_bytes(data)
    return {name: folder / f"{name}{ending}" for name in files}


def conversions(folder: Path, files: Mapping[str, Path], kinds: tuple[str, ...]) -> dict[str, tuple[list[Any], int]]:
    out = folder / "out"
    return {
        f"{name} {kind}": (["zoo", "convert", file, "--from", kind, "--out", out], file.stat().st_size)
        for name, file in files.items()
        for kind in kinds
    }


def test_pickles(tmp_path: Path) -> None:
    files = write(tmp_path, pickles(), ".pkl")
    errors = refused(tmp_path, conversions(tmp_path, files, ("deepmind-byol", "torch", "auto")))
    assert not (tmp_path / "out").exists()
    for way in ("dict", "ndarray", "encode", "namedtuple"):
        assert "only plain numbers are read" in errors[f"crash_{way} deepmind-byol"]
    assert "claims 4000000000000000 bytes and has 4" in errors["elements torch"]
    assert "claims 1099511627776 bytes where 2 are left" in errors["bytes deepmind-byol"]


def test_torch_files(tmp_path: Path) -> None:
    files = write(tmp_path, torch_files(), ".pth.tar")
    commands = conversions(tmp_path, files, ("simsiam", "torch", "auto"))
    for name, file in files.items():
        commands[f"{name} training"] = ["zoo-train", "export", file, "--out", tmp_path / "e"], file.stat().st_size
    errors = refused(tmp_path, commands)
    assert "claims 13194139533312 bytes of a storage of 16" in errors["stride_0 torch"]
    assert "expands from" in errors["deflated simsiam"]


def test_small_images_as_arrays(tmp_path: Path) -> None:
    files = write(tmp_path, array_files(tmp_path / "ran"))
    commands = {
        name: (["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"], path.stat().st_size)
        for name, path in files.items()
    }
    refused(tmp_path, commands)
    assert not (tmp_path / "ran").exists()


def test_weights(tmp_path: Path) -> None:
    files = write(tmp_path, safetensors_files(), ".safetensors")
    # Right tensors, and metadata that are somebody else's.
    state = encoder_state(build_encoder(narrow([1, 1, 1, 1])))
    good = {
        "format": "siamese-zoo encoder 1",
        "architecture": "r50",
        "preprocessing": json.dumps({"input_size": 32, "resize": 32}),
        "method": "byol",
        "licence": "MIT",
    }
    metadata: dict[str, dict[str, Any]] = {
        "side": {"preprocessing": json.dumps({"input_size": 60_000, "resize": 60_000})},
        "resize": {"preprocessing": json.dumps({"input_size": 32, "resize": 10**9})},
        "preprocessing_list": {"preprocessing": "[1]"},
        "preprocessing_deep": {"preprocessing": "[" * 100_000},
        "architecture_deep": {"architecture": "{" + '"a":[' * 50_000},
        "architecture_other": {"architecture": json.dumps({"name": ["a"], "stem": "cifar"})},
        "method_lines": {"method": "a\n\x1b[31mb"},
        "licence_lines": {"licence": "x-NC-\x1b[31m"},
    }
    for name, change in metadata.items():
        (tmp_path / f"{name}.safetensors").write_bytes(save(state, good | change))
        files[name] = tmp_path / f"{name}.safetensors"
    commands = {
        name: (["zoo", "extract", "--images", PHOTOS, "--model", path, "--out", tmp_path / "o"], path.stat().st_size)
        for name, path in files.items()
    }
    errors = refused(tmp_path, commands)
    assert "input_size 60000" in errors["side"]
    assert "whole numbers in 1..4096" in errors["resize"]


CONFIGS: dict[str, dict[str, Any]] = {
    "heads_of_4_tb": {"heads": {"projector": [["linear", 1 << 20, 1 << 20, True]]}},
    "heads_of_16_layers": {"heads": {"projector": [["linear", 1 << 20, 1 << 20, True]] * 16}},
    "heads_of_text": {"heads": {"projector": "linear"}},
    "heads_of_numbers": {"heads": {"projector": [1, 2]}},
    "heads_list": {"heads": [1]},
    "side": {"preprocessing": {"input_size": 60_000, "resize": 60_000}},
    "resize": {"preprocessing": {"input_size": 64, "resize": 10**9}},
    "side_float": {"preprocessing": {"input_size": 64.5, "resize": 73}},
    "side_true": {"preprocessing": {"input_size": True, "resize": 73}},
    "side_controls": {"preprocessing": {"input_size": "\x1b[31m\n", "resize": 73}},
    "side_text": {"preprocessing": {"input_size": "64", "resize": 73}},
    "mean_nan": {"preprocessing": {"input_size": 64, "resize": 73, "mean": [float("nan"), 0, 0]}},
    "mean_two": {"preprocessing": {"input_size": 64, "resize": 73, "mean": [0, 0]}},
    "mean_text": {"preprocessing": {"input_size": 64, "resize": 73, "mean": "abc"}},
    "mean_huge": {"preprocessing": {"input_size": 64, "resize": 73, "mean": [1e300, 0, 0]}},
    "std_zero": {"preprocessing": {"input_size": 64, "resize": 73, "std": [0, 1, 1]}},
    "std_tiny": {"preprocessing": {"input_size": 64, "resize": 73, "std": [1e-320, 1, 1]}},
    "std_infinite": {"preprocessing": {"input_size": 64, "resize": 73, "std": [float("inf"), 1, 1]}},
    "std_number": {"preprocessing": {"input_size": 64, "resize": 73, "std": 1}},
    "interpolation": {"preprocessing": {"input_size": 64, "resize": 73, "interpolation": "__class__"}},
    "interpolation_list": {"preprocessing": {"input_size": 64, "resize": 73, "interpolation": ["bicubic"]}},
    "resizing": {"preprocessing": {"input_size": 64, "resize": 73, "resizing": ["byol"]}},
    "preprocessing_list": {"preprocessing": [64, 73]},
    "parameters": {"parameters": 10**30, "padding": ["same"]},
    "source": {"source": "\x1b[31m"},
    "blocks": {"model_args": {"preact": False, "layers": [64, 64, 64, 64], "width_factor": 16}},
    "blocks_float": {"model_args": {"preact": False, "layers": [1.5, 1, 1, 1], "width_factor": 0.0625}},
    "blocks_text": {"model_args": {"preact": False, "layers": "1111", "width_factor": 0.0625}},
    "width_text": {"model_args": {"preact": False, "layers": [1, 1, 1, 1], "width_factor": "1"}},
    "features": {"num_features": 10**30},
}


def test_configs_of_models(tmp_path: Path) -> None:
    architecture = narrow([1, 1, 1, 1], 0.0625)
    config = ModelConfig("narrow", None, "byol", architecture, Preprocessing(64, 73), "MIT", "a test")
    heads = {"projector": encoder_state(byol_mlp(128, 32, 16))}
    checkpoint_dir.write(tmp_path / "good", config, encoder_state(build_encoder(architecture)), heads)
    commands = {}
    for name, change in CONFIGS.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in ("model.safetensors", "heads.safetensors"):
            os.link(tmp_path / "good" / file, folder / file)
        changed = json.loads((tmp_path / "good" / "config.json").read_text())
        for key, value in change.items():
            (changed if key in changed else changed["siamese_zoo"])[key] = value
        (folder / "config.json").write_text(json.dumps(changed))
        size = sum(p.stat().st_size for p in folder.iterdir())
        commands[name] = (
            ["zoo", "extract", "--images", PHOTOS, "--model", folder, "--backend", "torch", "--out", tmp_path / "o"],
            size,
        )
    refused(tmp_path, commands)


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", store_schema=False, **options)
    return file.getvalue()


def test_tables_of_results_and_of_images(tmp_path: Path) -> None:
    """A result whose manifest states the right hashes, and a data set: small files of much."""
    zeros = pa.array(np.zeros(20_000_000, np.int64))
    first = pa.array(np.zeros(3000, np.int32))
    one_text = pa.DictionaryArray.from_arrays(first, ["x" * 500_000])
    inside = pa.StructArray.from_arrays([pa.DictionaryArray.from_arrays(first, [b"x" * 500_000])], ["bytes"])
    tables = {
        "numbers": parquet(pa.table({"status": zeros, "image": zeros}), use_dictionary=False),
        "text": parquet(pa.table({"status": one_text, "image": one_text})),
        "struct": parquet(pa.table({"status": one_text, "image": inside})),
        "list": parquet(pa.table({"status": pa.array([["y" * 1000] * 50] * 3000), "image": one_text})),
        "plain": parquet(pa.table({"status": ["y" * 50_000] * 3000, "image": one_text}), use_dictionary=False),
    }
    commands: dict[str, tuple[list[Any], int]] = {}
    for name, data in tables.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        commands[f"{name} images"] = ["zoo", "evaluate", "knn", "--data", path, "--out", tmp_path / "o"], len(data)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "embeddings-000000.parquet").write_bytes(data)
        shard = {"file": "embeddings-000000.parquet", "rows": 1, "sha256": sha256_file(path)}
        (folder / "_manifest.json").write_text(json.dumps({"shards": [shard], "plan": "p", "dim": 2, "model": "m"}))
        commands[f"{name} result"] = ["zoo", "index", folder], len(data)
    refused(tmp_path, commands)


def test_a_footer_that_ends_pyarrow_s_process(tmp_path: Path) -> None:
    """Found by ``fuzz_readers.py``: a column's histogram does not fit its schema, and pyarrow 26 aborts when asked."""
    data = parquet(pa.table({"status": ["ok"] * 10}))
    optional, required = b"\x25\x02\x18\x06status", b"\x25\x00\x18\x06status"
    assert data.count(optional) == 1
    path = tmp_path / "embeddings-000000.parquet"
    path.write_bytes(data.replace(optional, required))
    shard = {"file": path.name, "rows": 1, "sha256": sha256_file(path)}
    (tmp_path / "_manifest.json").write_text(json.dumps({"shards": [shard], "plan": "p", "dim": 2, "model": "m"}))
    refused(tmp_path, {"footer": (["zoo", "index", tmp_path], len(data))})


def onnx_file(**metadata: Any) -> bytes:
    onnx = pytest.importorskip("onnx")
    body = metadata.pop("body", "embedding = ReduceMean <keepdims = 0> (x, sides)")
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, 3, 8, 8] x) => (float[n, 3] embedding)
        <int64[2] sides = {{2, 3}}, int64[2] size = {{1000000000, 3}}, int64[1] zero = {{0}},
         int64[8] pads = {{0, 0, 20000, 20000, 0, 0, 20000, 20000}}> {{ {body} }}"""
    )
    about = {"model": "m", "method": "byol", "licence": "MIT", "weights_sha256": "0"}
    values = {"format": 2, "about": about, "preprocessing": {"input_size": 8, "resize": 8}, "normalize": False}
    values |= {"pixels": "normalised", "precision": "fp32"} | metadata
    renamed, text = values.pop("rename", []), values.pop("text", None)
    model.metadata_props.add(key="siamese-zoo", value=text or json.dumps(values))
    for name in renamed:
        model.graph.output[0].name = model.graph.node[0].output[0] = name
    made: bytes = model.SerializeToString()
    return made


def test_onnx_files(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    preprocessing = {"input_size": 8, "resize": 8}
    changes: dict[str, dict[str, Any]] = {
        "side": {"preprocessing": {"input_size": 60_000, "resize": 60_000}},
        "mean": {"preprocessing": preprocessing | {"mean": [float("nan"), 0, 0]}},
        "about_list": {"about": [1]},
        "about_number": {"about": {"model": 1}},
        "about_lines": {"about": {"model": "a\n\x1b[31m"}},
        "normalize": {"normalize": "no"},
        "pixels": {"pixels": ["crop"]},
        "precision": {"precision": "fp1"},
        "format": {"format": 10**30},
        "deep": {"text": "[" * 100_000},
        "list": {"text": "[1]"},
        "output": {"rename": ["other"]},
        "constant_folded": {"body": """filled = ConstantOfShape (size)
            most = ReduceMax (filled, zero)
            mean = ReduceMean <keepdims = 0> (x, sides)
            embedding = Add (mean, most)"""},
        "padded": {"body": """padded = Pad (x, pads)
            embedding = ReduceMean <keepdims = 0> (padded, sides)"""},
    }  # fmt: skip
    folder = tmp_path / "models"
    folder.mkdir()
    files = {name: onnx_file(**change) for name, change in changes.items()}
    files["not_text"] = files["side"].replace(b"\x01x", b"\x01\xff")  # the input's name
    commands = {}
    for name, path in write(folder, files, ".onnx").items():
        words = ["zoo", "extract", "--images", PHOTOS, "--model", path, "--out", tmp_path / "o"]
        commands[name] = words, path.stat().st_size
    errors = refused(tmp_path, commands)
    assert "ConstantOfShape makes a tensor of 12000 MB" in errors["constant_folded"]
    assert "Pad makes a tensor of 19" in errors["padded"]


def test_tensorflow_checkpoints(tmp_path: Path) -> None:
    good = Path(__file__).parents[1] / "zoo" / "data" / "simclr_narrow.zip"
    with zipfile.ZipFile(good) as archive:
        index = next(archive.read(n) for n in archive.namelist() if n.endswith(".index"))
        data = next(n for n in archive.namelist() if ".data-" in n)
    footer = 48

    def packed(files: Mapping[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return file.getvalue()

    stem = data.partition(".data-")[0]
    bundles = {
        "expands": packed({f"{stem}.index": index, data: bytes(200_000_000)}),
        "index_large": packed({f"{stem}.index": bytes(65 << 20), data: b""}),
        "no_data": packed({f"{stem}.index": index}),
        "cut": packed({f"{stem}.index": index, data: bytes(1000)}),
        "no_footer": packed({f"{stem}.index": index[:-footer], data: bytes(1000)}),
        "outside": packed({f"{stem}.index": index[:-footer] + b"\xff" * 9 + b"\x01" * 31 + index[-8:], data: b""}),
    }
    refused(tmp_path, conversions(tmp_path, write(tmp_path, bundles, ".zip"), ("simclr", "auto")))


def test_depth_files(tmp_path: Path) -> None:
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["images"] = np.zeros((4, 3, 8, 8), np.uint8)
        file["depths"] = np.zeros((4, 8, 8), np.float32)

    def plain(file: Any) -> None:
        file["images"] = np.zeros((4, 3, 8, 8), np.uint8)
        file["depths"] = np.zeros((4, 8, 8), np.float32)

    def claims(file: Any) -> None:
        file.create_dataset("images", (4, 3, 10**6, 10**6), np.uint8)  # nothing is stored: HDF5 fills it
        file.create_dataset("depths", (4, 10**6, 10**6), np.float32)

    def chunks(file: Any) -> None:
        file.create_dataset("images", (4, 3, 8, 8), np.uint8, chunks=(4, 3, 8, 8), compression="gzip")
        file.create_dataset("depths", (10**6, 8, 8), np.float32, chunks=(10**6, 8, 8), compression="gzip")

    def links(file: Any) -> None:
        for name in ("images", "depths"):
            file[name] = h5py.ExternalLink(str(secret), name)

    def external(file: Any) -> None:
        file.create_dataset("images", (4, 3, 8, 8), np.uint8, external=[("/etc/passwd", 0, 768)])
        file.create_dataset("depths", (4, 8, 8), np.float32)

    def virtual(file: Any) -> None:
        plain(file)
        del file["depths"]
        layout = h5py.VirtualLayout((4, 8, 8), np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "depths", (4, 8, 8))
        file.create_virtual_dataset("depths", layout)

    def texts(file: Any) -> None:
        plain(file)
        del file["images"]
        file["images"] = np.array([[[["x"]]]], dtype=h5py.string_dtype())

    def group(file: Any) -> None:
        file.create_group("images")
        file["depths"] = np.zeros((4, 8, 8), np.float32)

    good = {"trainNdxs": np.array([[1], [2]]), "testNdxs": np.array([[3], [4]])}
    cases: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
        **{make.__name__: (make, good) for make in (claims, chunks, links, external, virtual, texts, group)},
        "negative": (plain, good | {"testNdxs": np.array([[-3]])}),
        "beyond": (plain, good | {"testNdxs": np.array([[10**9]])}),
        "none": (plain, good | {"testNdxs": np.zeros((0, 1))}),
        "expands": (plain, good | {"testNdxs": np.ones((30_000_000, 1))}),
        "words": (plain, good | {"testNdxs": np.array(["abc"])}),
    }
    commands = {}
    for name, (fill, splits) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
            fill(file)
        scipy_io.savemat(folder / "splits.mat", splits, do_compression=True)
        size = sum(p.stat().st_size for p in folder.iterdir())
        commands[name] = ["zoo", "evaluate", "depth", "--data", folder, "--out", tmp_path / "o"], size
    errors = refused(tmp_path, commands)
    for name, error in errors.items():
        assert "NYU v2's list of splits" in error or "does not hold the images and depths" in error, (name, error)


def test_tensors_that_share_memory_are_not_copied_a_thousand_times(tmp_path: Path) -> None:
    """A network whose every tensor is a view of one: the file is small, what would be written is not."""

    state = network(narrow([1, 1, 1, 1])).state
    pool = torch.zeros(max(v.numel() for v in state.values()))
    views = {key: pool[: value.numel()].view(value.shape) for key, value in state.items()}
    torch.save(views, tmp_path / "views.pth")
    with pytest.raises(UserError, match="share memory"):
        convert(tmp_path / "views.pth", "torch", tmp_path / "out")
    many = {"fc.1000000000000.weight": torch.zeros(2, 2)}
    torch.save({"state_dict": {f"module.encoder.{k}": v for k, v in (state | many).items()}}, tmp_path / "many.pth")
    with pytest.raises(UserError, match="belongs to no layer"):
        convert(tmp_path / "many.pth", "simsiam", tmp_path / "out")
    assert not (tmp_path / "out").exists()
