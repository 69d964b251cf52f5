"""Layers, maps, heads, crops and tiles, each against a computation of its own, on real photographs; and refusals."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from photographs import PHOTOS, alike
from pictures import picture
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.embeddings.verify import verify
from zoo.errors import UserError
from zoo.export import export
from zoo.hub.networks import load_encoder
from zoo.hub.weights import locate
from zoo.inference.embedder import as_rgb
from zoo.inference.outputs import Outputs, grid
from zoo.models import checkpoint_dir
from zoo.models.colour_split import SplitEncoder, convert_colours
from zoo.models.heads import byol_mlp
from zoo.models.model_config import ModelConfig
from zoo.models.resnet import encoder_state
from zoo.transforms.preprocess import MAX_WHOLE_PIXELS, Preprocessing

pytestmark = pytest.mark.usefixtures("two_threads")
NORMALISE = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def embedded(embedder: zoo.Embedder, images: list[Image.Image]) -> NDArray[np.float32]:
    """By torchvision's tensors and the bare module, one by one."""
    tensors = [NORMALISE(transforms.functional.to_tensor(image))[None] for image in images]
    with torch.inference_mode():
        return np.concatenate([embedder.model(tensor).numpy() for tensor in tensors])


def resized(image: Image.Image, side: int) -> Image.Image:
    bigger: Image.Image = transforms.Resize(side, InterpolationMode.BICUBIC)(image)
    return bigger


# ---------------------------------------------------------------- each output against its own computation


def test_stages_of_one_thread_are_not_those_of_another() -> None:
    """A second thread's whole pass runs in the middle of the first one's."""
    embedder = zoo.load("byol_r18_mini", device="cpu", outputs=Outputs(layers=("layer1", "layer4")))
    alone = [embedder.outputs(photo) for photo in PHOTOS[:2]]
    assert not np.allclose(alone[0]["layer1"], alone[1]["layer1"])
    beside: list[dict[str, NDArray[np.float32]]] = []

    def run_another(*_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: beside.append(embedder.outputs(PHOTOS[1])))
            other.start()
            other.join()

    network = embedder._torch_engine.network()
    handle = network.get_submodule("layer2").register_forward_pre_hook(run_another)
    found = embedder.outputs(PHOTOS[0])
    handle.remove()
    for name, expected in alone[0].items():
        assert np.array_equal(found[name], expected), name
        assert np.array_equal(beside[0][name], alone[1][name]), name


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


def test_stages_of_split_colours_are_those_of_both_halves() -> None:
    every = ("layer1", "layer2", "layer3", "layer4")
    embedder = zoo.load("cmc_r50.random", device="cpu", outputs=Outputs(layers=every, maps=every))
    embedder = replace(embedder, preprocessing=replace(embedder.preprocessing, input_size=48, resize=48))
    found = embedder.outputs(PHOTOS[:2])
    network = embedder.model
    assert isinstance(network, SplitEncoder)
    images = convert_colours(torch.stack([embedder.transform(photo) for photo in PHOTOS[:2]]), "lab")
    with torch.inference_mode():
        of_both = [
            half.forward_intermediates(channels)[1]  # type: ignore[operator]
            for half, channels in zip(network.halves, (images[:, :1], images[:, 1:]), strict=True)
        ]
    for n, layer in enumerate(every, 1):
        expected = torch.cat([stages[n] for stages in of_both], 1)
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


def test_tiles_are_the_parts_of_the_whole_image(many_outputs: zoo.Embedder) -> None:
    image = as_rgb(PHOTOS[1])
    size = (many_outputs.preprocessing.input_size,) * 2
    parts = []
    for row, column in itertools.product(range(2), range(3)):
        box = (column * image.width // 3, row * image.height // 2,
               (column + 1) * image.width // 3, (row + 1) * image.height // 2)  # fmt: skip
        parts.append(image.resize(size, Image.Resampling.BICUBIC, box=box))
    expected = embedded(many_outputs, parts).reshape(1, 2, 3, -1)
    alike(many_outputs.outputs(PHOTOS[1])["tiles"], expected)
    unit = replace(many_outputs, normalize=True).outputs(PHOTOS[1])
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
    told = ModelConfig("mini", None, "byol", file.architecture, file.preprocessing, "Apache-2.0", "test")
    folder = tmp_path_factory.mktemp("heads") / "mini"
    checkpoint_dir.write(folder, told, encoder_state(load_encoder(file)), states)
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
    with_heads: tuple[Path, dict[str, nn.Module]], photo_folder: Path, tmp_path: Path
) -> None:
    folder, _ = with_heads
    zoo.extract(photo_folder, tmp_path / "out", model=folder, backend="torch", device="cpu")
    assert pq.read_schema(tmp_path / "out" / "embeddings-00000.parquet").names[-2:] == ["embedding", "logits"]
    manifest = verify(tmp_path / "out").manifest
    assert manifest["outputs"] == {"logits": [7]}
    assert manifest["heads_sha256"] == json.loads((folder / "config.json").read_text())["siamese_zoo"]["sha256"][
        "heads.safetensors"
    ]  # fmt: skip
    plain = zoo.load("simclr_r18_mini", device="cpu")
    assert list(plain.shapes) == list(plain.outputs(PHOTOS[0])) == ["embedding"]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "layer5"], "--layers 'layer5' is not known: choose from layer1, layer2, layer3, layer4"),
        (["--layers", "layer1,layer1"], "--layers names one twice: layer1, layer1"),
        (["--maps", "layer4", "--crops", "ten"], "--maps with --crops ten"),
        (["--maps", "layer4", "--crops", "full"], "--maps with --crops full"),
        (["--heads", "logits"], "--heads logits: simclr_r18_mini.tin64 has no heads"),
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
    photo_folder: Path, tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    arguments = ["zoo", "extract", "--images", str(photo_folder), "--out", str(out), "--device", "cpu", *options]
    monkeypatch.setattr("sys.argv", arguments)
    assert exit_code(app, "zoo", "") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_head_that_is_missing_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"--heads prediction: m has projection and logits"):
        Outputs(heads=("prediction",)).for_checkpoint(["projector", "classifier"], "m")
    with pytest.raises(UserError, match=r"--crops full: tf\.image\.resize"):
        zoo.load("byol_r50.random", outputs=Outputs(crops="full"))
    assert grid("2x13") == (2, 13)
