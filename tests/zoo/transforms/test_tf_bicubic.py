"""Crop and resize as BYOL's and SimCLR's official codes do it, held against TensorFlow's own results.

``data/crop_first.npz`` was written by ``data/write_crop_first.py`` with TensorFlow 2.21.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import picture
from PIL import Image
from resize_graph import resize_graph

import zoo
from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import UserError
from zoo.evaluate.random_crops import RandomCrops
from zoo.export.export import PARITY, export_onnx
from zoo.hub.weights import locate
from zoo.inference.embedder import as_rgb
from zoo.inference.onnx_backend import OnnxEngine
from zoo.models import registry
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.tf_bicubic import TF_BICUBIC

GOLDENS = np.load(Path(__file__).parents[1] / "data" / "crop_first.npz")
CASES = sorted({name.partition("_")[0] for name in GOLDENS.files})
PHOTOS = sorted((Path(__file__).parents[3] / "examples" / "photos").glob("*.jpg"))
CODES = sorted(TF_BICUBIC)


def of_case(case: str, code: str) -> tuple[Image.Image, Preprocessing, NDArray[np.intp], NDArray[np.float32]]:
    """A piece of a photograph, how it is looked at, and TensorFlow's levels 0..255 of some lines."""
    size, resize = (int(n) for n in GOLDENS[f"{case}_sizes"])
    levels = GOLDENS[f"{case}_{code}"] * np.float32(255)
    return (
        Image.fromarray(GOLDENS[f"{case}_piece"]),
        Preprocessing(size, resize, resizing=code),
        GOLDENS[f"{case}_lines"],
        levels,
    )


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("case", CASES)
def test_the_pixels_are_tensorflows(case: str, code: str) -> None:
    """Even and odd sizes, larger, smaller and equal; rounding costs half a level and no more."""
    image, preprocessing, lines, theirs = of_case(case, code)
    ours = preprocessing.float_pixels(image)
    assert ours.dtype == np.float32
    assert np.abs(ours[lines] - theirs).max() < 1e-4
    pixels = preprocessing.pixels(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (preprocessing.input_size, preprocessing.input_size, 3)
    assert np.abs(pixels[lines] - theirs).max() < 0.5 + 1e-4


def test_the_goldens_tell_the_codes_and_pillow_apart() -> None:
    image, byol, lines, theirs = of_case("1", "byol")
    for other in ("simclr", "pillow"):
        pixels = Preprocessing(byol.input_size, byol.resize, resizing=other).pixels(image)
        assert np.abs(pixels[lines] - theirs).mean() > 1


@given(
    width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(1, 60), margin=st.integers(0, 40),
    code=st.sampled_from(CODES),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_size_gives_a_crop_inside_of_the_image(
    width: int, height: int, size: int, margin: int, code: str
) -> None:
    image, preprocessing = picture(width, height), Preprocessing(size, size + margin, resizing=code)
    left, top, right, bottom = TF_BICUBIC[code].box(width, height, size / (size + margin))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert right - left == bottom - top
    assert preprocessing.pixels(image).shape == (size, size, 3)
    flat = preprocessing.float_pixels(Image.new("RGB", (width, height), (3, 128, 255)))
    np.testing.assert_allclose(flat, np.broadcast_to([3, 128, 255], flat.shape), atol=1e-4)  # weights sum to 1


def test_a_crop_of_the_size_wanted_stays_as_it_is() -> None:
    image = picture(64, 40)
    for code in CODES:
        assert np.array_equal(
            Preprocessing(40, 40, resizing=code).pixels(image), np.asarray(image.crop((12, 0, 52, 40)))
        )


def test_json_says_it_and_what_was_written_before_reads_as_pillow() -> None:
    old = {"input_size": 224, "resize": 256, "interpolation": "bicubic"}
    old |= {"mean": list(registry.IMAGENET_224.mean), "std": list(registry.IMAGENET_224.std)}
    assert registry.IMAGENET_224.to_json() == old
    assert Preprocessing.from_json(old).resizing == "pillow"
    new = json.loads(json.dumps(registry.BYOL_224.to_json()))
    assert new == {**old, "resizing": "byol"}
    assert Preprocessing.from_json(new) == registry.BYOL_224


@pytest.mark.parametrize(
    "fields", [{"resizing": "tf"}, {"resizing": None}, {"resizing": "byol", "interpolation": "bilinear"}]
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="resizing"):
        Preprocessing.from_json({"input_size": 224, "resize": 256, **fields})


def test_the_registry_gives_each_official_code_its_own() -> None:
    found = {
        f"{spec.name}.{tag}": weights.preprocessing.resizing
        for spec in registry.MODELS.values()
        for tag, weights in spec.weights.items()
    }
    for name, resizing in found.items():
        tag = name.partition(".")[2]
        assert resizing == (
            "byol" if tag.startswith("deepmind") else "simclr" if tag.startswith("google") else "pillow"
        )
    assert {"byol", "simclr", "pillow"} == set(found.values())
    assert locate("byol_r50.random").preprocessing == registry.BYOL_224


def test_info_says_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["zoo", "info", "byol_r50"])
    assert exit_code(app, "zoo", "") == 0
    wanted = "centre crop of 0.875 of the short side, then tf.image.resize to 224 (bicubic without antialias), mean"
    assert wanted in " ".join(capsys.readouterr().out.split())


class _One:
    """A data set of one photograph."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def __len__(self) -> int:
        return 1

    def image(self, index: int) -> Image.Image:
        return self._image


@pytest.mark.parametrize("code", CODES)
def test_training_crops_of_an_evaluation_are_resized_the_same_way(code: str) -> None:
    """Crops of the whole image, in which only the flip is left to chance."""
    image = picture(50, 50)
    preprocessing = Preprocessing(32, 32, resizing=code)
    crops = RandomCrops(_One(image), preprocessing, seed=0, min_area=1.0, clamped=False)  # no try fits: all of it
    straight = preprocessing.pixels(image)
    flips = [np.array_equal(crops.pixels(np.array([0]), epoch)[0], straight) for epoch in range(12)]
    assert set(flips) == {True, False}
    for epoch, straight_on in enumerate(flips):
        found = crops.pixels(np.array([0]), epoch)[0]
        assert np.array_equal(found if straight_on else found[:, ::-1], straight)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("side", "resize"), [(64, 73), (33, 33), (224, 256)])
def test_the_graph_crops_and_resizes_as_the_zoo_does(code: str, side: int, resize: int) -> None:
    """ONNX Runtime has no table of cubics: one value in some two hundred is another whole number, by one."""
    preprocessing = Preprocessing(side, resize, mean=(0, 0, 0), std=(1 / 255,) * 3, resizing=code)
    session = resize_graph(preprocessing)
    photo = Image.open(PHOTOS[4]).convert("RGB")
    for size in (
        None,
        (resize, resize),
        (resize - 5, resize + 30),
        (401, 300),
        (300, 401),
        (500, 90),
        (31, 31),
        (1, 3),
    ):
        image = photo if size is None else photo.resize(size)
        ours = session.run(None, {"pixels": np.asarray(image)[None]})[0].reshape(3, side, side).transpose(1, 2, 0)
        difference = np.abs(np.round(ours) - preprocessing.pixels(image))
        assert difference.max() <= 1
        assert difference.mean() < 0.03


def test_an_exported_network_agrees_with_torch(mini_core: Any, tmp_path: Path) -> None:
    bundled = zoo.load()
    way = replace(bundled.preprocessing, resize=bundled.preprocessing.input_size + 7, resizing="byol")
    embedder = replace(bundled, preprocessing=way)
    made = export_onnx(embedder, tmp_path / "m.onnx", core=mini_core)  # behind its gate
    assert made.parity < 1e-3
    engine = OnnxEngine(made.path)
    assert engine.file.preprocessing == embedder.preprocessing
    with pytest.raises(UserError, match="resizes by itself"):
        zoo.load(made.path)
    expected = embedder(PHOTOS[4])
    found = engine.run(np.asarray(as_rgb(PHOTOS[4]))[None])
    assert np.abs(found - expected).max() < PARITY["fp32", "any"] * np.abs(expected).max()
