"""Layers, maps, heads, crops and tiles, each against a computation of its own, in every format, on real photographs."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from extraction_driver import PixelMeans, assert_tidy, finish, results, run
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray
from pictures import fill, picture
from PIL import Image
from safetensors.numpy import load_file
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import zoo
from zoo import arrays, export, model_folder
from zoo.cli import app
from zoo.command_line import exit_code
from zoo.embed import as_rgb
from zoo.encoder import encoder_state
from zoo.errors import UserError
from zoo.heads import byol_mlp
from zoo.identity import default_shard_size
from zoo.merge import merge
from zoo.outputs import Outputs, grid
from zoo.preprocess import MAX_WHOLE_PIXELS, Preprocessing
from zoo.search.collection import Collection
from zoo.search.index import build
from zoo.search.query import embed_bytes, open_model
from zoo.verify import verify
from zoo.weights import load_encoder, locate

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))[:6]
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WANTED = Outputs(layers=("layer4", "layer2"), maps=("layer3",), tiles=(2, 3))


@pytest.fixture(scope="module")
def embedder() -> zoo.Embedder:
    return zoo.load(device="cpu", outputs=WANTED)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS:
        shutil.copyfile(photo, folder / photo.name)
    (folder / "zz_bad.jpg").write_bytes(b"bad")
    return folder


def alike(found: NDArray[Any], expected: Any, limit: float = 1e-4) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max()


def embedded(embedder: zoo.Embedder, images: list[Image.Image]) -> NDArray[np.float32]:
    """By torchvision's tensors and the bare module, one by one."""
    tensors = [NORMALISE(transforms.functional.to_tensor(image))[None] for image in images]
    with torch.inference_mode():
        return np.concatenate([embedder.model(tensor).numpy() for tensor in tensors])


def resized(image: Image.Image, side: int) -> Image.Image:
    bigger: Image.Image = transforms.Resize(side, InterpolationMode.BICUBIC)(image)
    return bigger


# ---------------------------------------------------------------- each output against its own computation


@pytest.mark.parametrize("name", ["byol_r18_mini", "simclr_r50x2.random"])
def test_stages_are_those_that_timm_gives(name: str) -> None:
    """Both of timm's families: ``layer1`` ... and ``stages.0`` ..."""
    every = ("layer1", "layer2", "layer3", "layer4")
    embedder = zoo.load(name, device="cpu", outputs=Outputs(layers=every, maps=every))
    embedder = replace(embedder, preprocessing=replace(embedder.preprocessing, input_size=48, resize=48))
    found = embedder.outputs(PHOTOS[0])
    with torch.inference_mode():
        _, stages = embedder.model.forward_intermediates(embedder.transform(PHOTOS[0])[None])  # type: ignore[operator]
    for layer, expected in zip(every, stages[1:], strict=True):
        alike(found[f"{layer}_map"], expected)
        alike(found[layer], expected.mean((2, 3)))
    alike(found["embedding"], found["layer4"])
    assert {key: values.shape[1:] for key, values in found.items()} == dict(embedder.shapes)


@pytest.mark.parametrize("resize", [40, 53])
def test_ten_crops_are_torchvisions(resize: int) -> None:
    outputs = Outputs(crops="ten", layers=("layer2",))
    embedder = replace(zoo.load(device="cpu", outputs=outputs), preprocessing=Preprocessing(40, resize))
    photos = [as_rgb(photo) for photo in PHOTOS[:4]]
    for photo in photos:
        crops = transforms.TenCrop(40)(resized(photo, resize))
        assert all(np.array_equal(a, b) for a, b in zip(embedder.views(photo), crops, strict=True))
    expected = [embedded(embedder, transforms.TenCrop(40)(resized(photo, resize))).mean(0) for photo in photos]
    found = embedder.outputs(photos)
    alike(found["embedding"], expected)
    assert found["layer2"].shape == (4, 128)
    np.testing.assert_allclose(embedder(photos), found["embedding"], rtol=1e-5, atol=1e-5)
    unit = replace(embedder, normalize=True)(photos)
    alike(unit, np.array(expected) / np.linalg.norm(expected, axis=1, keepdims=True))


def test_ten_crops_where_the_crop_comes_first_are_boxes_of_its_size() -> None:
    image = as_rgb(PHOTOS[0])
    preprocessing = Preprocessing(32, 40, resizing="byol")
    crops = preprocessing.ten_crops(image)
    np.testing.assert_array_equal(crops[4], preprocessing.pixels(image))
    np.testing.assert_array_equal(crops[9], crops[4][:, ::-1])
    side = int(0.8 * min(image.size))
    whole = Preprocessing(32, 32, resizing="byol")
    np.testing.assert_array_equal(crops[0], whole.pixels(image.crop((0, 0, side, side))))
    corner = image.crop((image.width - side, image.height - side, image.width, image.height))
    np.testing.assert_array_equal(crops[3], whole.pixels(corner))


def test_the_whole_image_goes_alone_and_uncropped() -> None:
    embedder = zoo.load(device="cpu", outputs=Outputs(crops="full", layers=("layer3",)))
    photos = [as_rgb(photo) for photo in PHOTOS[:3]]
    side = embedder.preprocessing.resize
    expected = np.concatenate([embedded(embedder, [resized(photo, side)]) for photo in photos])
    alike(embedder(photos), expected)
    np.testing.assert_array_equal(embedder.outputs(photos)["layer3"][2:], embedder.outputs(photos[2])["layer3"])
    thin = picture(3, 3 * (MAX_WHOLE_PIXELS // side**2 + 9))
    with pytest.raises(Exception, match="too long and thin"):
        embedder.views(thin)


def test_tiles_are_the_parts_of_the_whole_image(embedder: zoo.Embedder) -> None:
    image = as_rgb(PHOTOS[1])
    size = (embedder.preprocessing.input_size,) * 2
    parts = []
    for row, column in itertools.product(range(2), range(3)):
        box = (column * image.width // 3, row * image.height // 2,
               (column + 1) * image.width // 3, (row + 1) * image.height // 2)  # fmt: skip
        parts.append(image.resize(size, Image.Resampling.BICUBIC, box=box))
    expected = embedded(embedder, parts).reshape(1, 2, 3, -1)
    alike(embedder.outputs(PHOTOS[1])["tiles"], expected)
    unit = replace(embedder, normalize=True).outputs(PHOTOS[1])
    alike(unit["tiles"], expected / np.linalg.norm(expected, axis=3, keepdims=True))
    np.testing.assert_allclose(np.linalg.norm(unit["embedding"], axis=1), 1, rtol=1e-5)
    assert unit["layer4"].max() > 1.5 * unit["embedding"].max(), "only embeddings are normalised"


def test_a_grid_covers_images_of_every_size() -> None:
    preprocessing = Preprocessing(8, 8)
    for width, height in ((1, 1), (2, 5), (7, 3)):
        tiles = preprocessing.tiles(picture(width, height), 3, 4)
        assert [tile.shape for tile in tiles] == [(8, 8, 3)] * 12


# ---------------------------------------------------------------- heads


@pytest.fixture(scope="module")
def with_heads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, nn.Module]]:
    """The bundled network as a converted model with all three heads."""
    torch.manual_seed(0)
    heads = {"projector": byol_mlp(512, 32, 16), "predictor": byol_mlp(16, 24, 16), "classifier": nn.Linear(512, 7)}
    for head in heads.values():
        head.eval()
    states = {part: encoder_state(head) for part, head in heads.items()}
    states["classifier"] = {f"0.{key}": value for key, value in states["classifier"].items()}
    file = locate("simclr_r18_mini")
    told = model_folder.Description("mini", None, "byol", file.architecture, file.preprocessing, "Apache-2.0", "test")
    folder = tmp_path_factory.mktemp("heads") / "mini"
    model_folder.write(folder, told, encoder_state(load_encoder(file)), states)
    return folder, dict(heads)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_heads_take_the_embedding_before_it_is_normalised(
    with_heads: tuple[Path, dict[str, nn.Module]], backend: str, mini_core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "trace_core", lambda embedder: mini_core)
    folder, heads = with_heads
    outputs = Outputs(heads=("prediction", "projection"))
    found = zoo.load(folder, device="cpu", backend=backend, normalize=True, outputs=outputs).outputs(PHOTOS[:3])
    with torch.inference_mode():
        plain = torch.from_numpy(zoo.load(folder, device="cpu", backend=backend)(PHOTOS[:3]))
        alike(found["projection"], heads["projector"](plain))
        alike(found["prediction"], heads["predictor"](heads["projector"](plain)))
        alike(found["logits"], heads["classifier"](plain))
    alike(found["embedding"], plain / plain.norm(dim=1, keepdim=True))


def test_logits_come_along_where_there_is_a_classifier(
    with_heads: tuple[Path, dict[str, nn.Module]], photos: Path, tmp_path: Path
) -> None:
    folder, _ = with_heads
    zoo.extract(photos, tmp_path / "out", model=folder, backend="torch", device="cpu")
    assert pq.read_schema(tmp_path / "out" / "embeddings-00000.parquet").names[-2:] == ["embedding", "logits"]
    manifest = verify(tmp_path / "out").manifest
    assert manifest["outputs"] == {"logits": [7]}
    assert manifest["heads_sha256"] == json.loads((folder / "config.json").read_text())["siamese_zoo"]["sha256"][
        "heads.safetensors"
    ]  # fmt: skip
    plain = zoo.load("simclr_r18_mini", device="cpu")
    assert list(plain.shapes) == list(plain.outputs(PHOTOS[0])) == ["embedding"]


# ---------------------------------------------------------------- extraction


def read(out: Path, format: str, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    def shard(table: Path) -> NDArray[Any]:
        if format == "safetensors":
            return load_file(table.with_suffix(".safetensors"))[name]
        if format == "npy":
            beside = "" if name == "embedding" else f".{name}"
            return np.asarray(np.load(table.with_suffix(f"{beside}.npy")))
        rows = pq.read_table(table)[name].to_pylist()
        empty = [np.nan] * int(np.prod(shape))
        return np.array([empty if row is None else row for row in rows], np.float32).reshape(len(rows), *shape)

    return np.concatenate([shard(table) for table in sorted(out.glob("embeddings-*.parquet"))])


@pytest.mark.parametrize("format", ["parquet", "npy", "safetensors"])
def test_every_output_is_written_merged_verified_and_indexed(
    embedder: zoo.Embedder, photos: Path, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    result = run(photos, out, embedder=embedder, format=format, shard_size=4, batch_size=32)
    assert (result.total, result.ok, result.failed) == (7, 6, {"not-an-image": 1})
    expected = embedder.outputs(PHOTOS)
    assert set(expected) == {"embedding", "layer2", "layer4", "layer3_map", "tiles"}
    manifest = verify(out).manifest
    assert manifest["outputs"] == {key: list(v.shape[1:]) for key, v in expected.items() if key != "embedding"}
    merge(out, tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")
    merge(out, tmp_path / "sets.npy")
    merge(out, tmp_path / "tensors.safetensors")
    assert set(table.schema.names) - set(pq.read_schema(tmp_path / "sets.parquet").names) == set(expected)
    for name, values in expected.items():
        found = read(out, format, name, values.shape[1:])
        assert np.isnan(found[-1]).all()
        alike(found[:-1], values)
        merged = np.load(tmp_path / ("sets.npy" if name == "embedding" else f"sets.{name}.npy"))
        np.testing.assert_array_equal(merged, found)
        np.testing.assert_array_equal(load_file(tmp_path / "tensors.safetensors")[name], found)
        np.testing.assert_array_equal(arrays.array(table[name], values.shape[1:]), found)
        told = table.schema.field(name).metadata
        assert told is None if name == "embedding" else json.loads(told[b"zoo.shape"]) == list(values.shape[1:])
    assert build(Collection(out))["indexed"] == 6
    shutil.rmtree(out / "index")
    before = results(out)
    damaged = out / ("embeddings-00001.layer4.npy" if format == "npy" else f"embeddings-00001.{format}")
    data = damaged.read_bytes()
    damaged.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with pytest.raises(UserError, match=f"{damaged.name} has the sha256"):
        verify(out)
    again = run(photos, out, embedder=embedder, format=format, shard_size=4, batch_size=32)
    assert again.reused == 4
    assert results(out) == before


def test_outputs_are_part_of_the_plan(photos: Path, tmp_path: Path) -> None:
    plain, ten = (zoo.load(device="cpu", outputs=Outputs(crops=crops)) for crops in ("center", "ten"))
    assert plain.identity().keys() == ten.identity().keys() - {"crops"}
    run(photos, tmp_path / "out", embedder=ten)
    with pytest.raises(UserError, match="crops ten there, none now"):
        run(photos, tmp_path / "out", embedder=plain)
    with pytest.raises(UserError, match=r"outputs\.layer2 none there, \[128\] now"):
        run(photos, tmp_path / "out", embedder=replace(ten, wants=Outputs(crops="ten", layers=("layer2",))))
    build(Collection(tmp_path / "out"))
    query = open_model(Collection(tmp_path / "out"), device="cpu")
    found = embed_bytes(query, PHOTOS[2].read_bytes(), 10**8)
    alike(found[None], ten(PHOTOS[2]))


def test_duckdb_and_datasets_read_maps_as_they_are(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "out", embedder=PixelMeans(stages=True))
    duckdb = pytest.importorskip("duckdb", reason="reads the result as a user would")
    query = f"select count(layer1_map), max(len(layer1_map)) from '{tmp_path}/out/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(6, 48)]
    datasets = pytest.importorskip("datasets", reason="reads the result as a user would")
    shards = [str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    table = datasets.load_dataset("parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    assert np.array(table[0]["layer1_map"]).shape == (48,)


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_run_with_outputs_killed_at_any_step_ends_in_the_same_bytes(tmp_path: Path, format: str) -> None:
    images = fill(tmp_path / "images", 8)
    options: dict[str, Any] = {"format": format, "stages": True}
    assert finish(images, tmp_path / "whole", **options) == 0
    for n in range(6, 70, 15):
        out = tmp_path / f"out{n}"
        killed = finish(images, out, kill=n, **options) == -signal.SIGKILL
        assert finish(images, out, **options) == 0
        assert results(out) == results(tmp_path / "whole")
        assert_tidy(out)
        if not killed:
            assert n > 15
            return


def test_an_update_takes_all_outputs_over(tmp_path: Path) -> None:
    images = fill(tmp_path / "images", 8)
    embedder = PixelMeans(stages=True)
    run(images, tmp_path / "out", embedder=embedder, format="npy")
    (images / "00.jpeg").unlink()
    shutil.copy(images / "01.png", images / "zz.png")
    assert run(images, tmp_path / "out", embedder=embedder, format="npy", update=True).reused == 7
    run(images, tmp_path / "fresh", embedder=embedder, format="npy")
    for name in ("embedding", "layer1", "layer1_map"):
        found, expected = (read(tmp_path / out, "npy", name, ()) for out in ("out", "fresh"))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_tidy(tmp_path / "out")


def test_what_is_not_finite_in_any_output_is_a_failed_row(tmp_path: Path) -> None:
    class Explodes(PixelMeans):
        def outputs_of(self, views: Any, at_once: int = 32) -> dict[str, Any]:
            found = super().outputs_of(views, at_once)
            found["layer1_map"][0, 2, 3, 1] = np.inf
            return found

    result = run(fill(tmp_path / "images", 6), tmp_path / "out", embedder=Explodes(stages=True))
    assert result.failed == {"not-finite": 2}
    assert result.failures[0][2] == "the network gave a value in layer1_map that is not finite in float32"


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_shape_survives_parquet(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    width = 8 * np.dtype(dtype).itemsize
    finite = st.floats(-100, 100, width=width)  # type: ignore[arg-type]
    rows = data.draw(arrays_of.arrays(dtype, (data.draw(st.integers(1, 5)), *shape), elements=finite))
    status = [data.draw(st.sampled_from(["ok", "corrupt"])) for _ in rows]
    expected = rows.copy()
    expected[[state != "ok" for state in status]] = np.nan
    field, column = arrays.column("layer1_map", expected, status)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table([column], schema=pa.schema([field])), buffer)
    table = pq.read_table(pa.BufferReader(buffer.getvalue()))
    assert json.loads(table.schema.field("layer1_map").metadata[arrays.SHAPE]) == list(shape)
    assert table["layer1_map"].null_count == sum(state != "ok" for state in status)
    found = arrays.array(table["layer1_map"], shape)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_shards_are_smaller_where_rows_are_large() -> None:
    assert [default_shard_size(n) for n in (24, 8192, 1 << 16, 1 << 17, 10**9)] == [1024, 1024, 1024, 512, 1]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "layer5"], "--layers 'layer5' is not known: choose of layer1, layer2, layer3, layer4"),
        (["--layers", "layer1,layer1"], "--layers names one twice: layer1, layer1"),
        (["--maps", "layer4", "--crops", "ten"], "--maps with --crops ten"),
        (["--maps", "layer4", "--crops", "full"], "--maps with --crops full"),
        (["--heads", "logits"], "--heads logits: simclr_r18_mini.tin32 has no heads"),
        (["--heads", "scores"], "--heads 'scores' is not known"),
        (["--tiles", "2"], "--tiles takes ROWSxCOLUMNS, such as 2x3, not '2'"),
        (["--tiles", "0x3"], "--tiles 0x3"),
        (["--backend", "onnx", "--layers", "layer2"], "--layers needs --backend torch"),
        (["--backend", "onnx", "--maps", "layer2"], "--maps needs --backend torch"),
        (["--backend", "onnx", "--crops", "full"], "--crops full needs --backend torch"),
        (["--model", "x.onnx", "--layers", "layer2"], "not an .onnx file"),
        (["--layers", "layer2", "--keep", "layer2"], "column layer2 cannot be kept"),
    ],
)
def test_what_cannot_be_is_one_line(
    photos: Path, tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    arguments = ["zoo", "extract", "--images", str(photos), "--out", str(out), "--device", "cpu", *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert exit_code(app, "zoo", "") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_head_that_is_missing_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"--heads prediction: m has projection and logits"):
        Outputs(heads=("prediction",)).of_checkpoint(["projector", "classifier"], "m")
    with pytest.raises(UserError, match=r"--crops full: tf\.image\.resize"):
        zoo.load("byol_r50.random", outputs=Outputs(crops="full"))
    assert grid("2x13") == (2, 13)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
