"""The Python interface: any form of an image gives the same embedding."""

from __future__ import annotations

import copy
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import UserError
from zoo.models.registry import DEFAULT_MODEL, MODELS
from zoo.system.progress import Progress

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
CAT = PHOTOS / "cat_chelsea.jpg"


@pytest.fixture(scope="module")
def embedder() -> zoo.Embedder:
    return zoo.load()


def test_the_default_is_the_bundled_network(embedder: zoo.Embedder) -> None:
    tag = MODELS[DEFAULT_MODEL].default_tag
    assert embedder.identity()["model"] == f"{DEFAULT_MODEL}.{tag}"
    named = zoo.load(f"{DEFAULT_MODEL}.{tag}")
    np.testing.assert_array_equal(named(CAT), embedder(CAT))


def test_every_form_of_an_image_gives_its_embedding(embedder: zoo.Embedder) -> None:
    reference = embedder(CAT)
    assert reference.shape == (1, embedder.dim)
    assert reference.dtype == np.float32
    image = Image.open(CAT)
    array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for form in (str(CAT), [CAT], image, array, array[None], tensor, tensor[None], tensor.float() / 255, iter([image])):
        np.testing.assert_array_equal(embedder(form), reference)


def test_arrays_of_other_usual_kinds_are_the_image_that_they_show(
    embedder: zoo.Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    array = np.array(Image.open(CAT))
    reference, opaque = embedder(CAT), np.full((*array.shape[:2], 1), 255, np.uint8)
    rgba = np.concatenate([array, opaque], axis=2)
    column = pd.DataFrame({"path": ["no.jpg", str(CAT)]})["path"][1:]  # its index does not begin at 0
    monkeypatch.setenv("HOME", str(CAT.parent))
    for form in (
        array.astype(np.float32) / 255,
        array.astype(np.float64)[None] / 255,
        rgba,
        rgba[None] / np.float32(255),
        torch.from_numpy(rgba).permute(2, 0, 1),
        array[::-1][::-1],
        np.asfortranarray(array),
        column,
        np.str_(CAT),
        f"~/{CAT.name}",
    ):
        np.testing.assert_array_equal(embedder(form), reference)
    seen_through = rgba.copy()
    seen_through[..., 3] = 0
    np.testing.assert_array_equal(embedder(seen_through), embedder(np.full_like(array, 255)))
    gray = array[:, :, 1]
    rows = embedder(
        [gray, gray[:, :, None], Image.fromarray(gray), torch.from_numpy(gray), torch.from_numpy(gray)[None]]
    )
    assert all(np.array_equal(row, rows[0]) for row in rows)


def test_a_device_may_be_a_torch_device_and_is_shown() -> None:
    assert zoo.load(device=torch.device("cpu")).device == "cpu"


class Trickle(io.RawIOBase):
    """A file that gives less than it is asked for, and cannot be rewound, as a socket."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    def read(self, size: int = -1) -> bytes:
        block, self._left = self._left[:1000], self._left[1000:]
        return block


def test_bytes_files_and_generators_are_images(embedder: zoo.Embedder, tmp_path: Path) -> None:
    reference, data = embedder(CAT), CAT.read_bytes()
    buffer = io.BytesIO()
    buffer.write(data)  # it stands at its end now
    with CAT.open("rb") as file, CAT.open("rb", buffering=0) as raw:
        for form in (data, bytearray(data), memoryview(data), buffer, file, raw, [data], (x for x in [buffer])):
            np.testing.assert_array_equal(embedder(form), reference)
        np.testing.assert_array_equal(embedder.transform(file), embedder.transform(CAT))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat", data)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("cat") as member, os.scandir(PHOTOS) as entries:
        entry = next(entry for entry in entries if entry.name == CAT.name)
        for form in (member, [member], Trickle(data), entry, [entry]):
            np.testing.assert_array_equal(embedder(form), reference)
    four = embedder([data, CAT, buffer, Image.open(CAT)])
    np.testing.assert_allclose(four, np.repeat(reference, 4, axis=0), rtol=1e-4, atol=1e-4)


def test_a_generator_is_read_as_it_is_used(embedder: zoo.Embedder) -> None:
    ahead: list[int] = []
    calls = 0

    class Counting(Progress):
        def advance(self, n: int, **fields: object) -> None:
            nonlocal calls
            calls += n
            assert ahead[-1] + 1 == calls  # no image is held that was not embedded

    images = (ahead.append(i) or CAT for i in range(10))  # type: ignore[func-returns-value]
    rows = embedder(images, batch_size=4, progress=Counting("images"))
    assert rows.shape == (10, embedder.dim)
    assert calls == 10
    np.testing.assert_allclose(rows, embedder([CAT] * 10), rtol=1e-4, atol=1e-4)


def test_progress_is_shown_when_asked_for(embedder: zoo.Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    embedder([CAT, CAT])
    assert capsys.readouterr().err == ""
    embedder([CAT, CAT], progress=True)
    assert capsys.readouterr().err.startswith("2 of 2 images")
    embedder.outputs(iter([CAT, CAT]), progress=True)
    assert capsys.readouterr().err.startswith("2 images")


def test_gray_and_rotated_images_are_taken(embedder: zoo.Embedder) -> None:
    gray = np.array(Image.open(CAT).convert("L"))
    three = np.repeat(gray[:, :, None], 3, axis=2)
    for form in (gray, torch.from_numpy(gray)[None], Image.fromarray(gray)):
        np.testing.assert_array_equal(embedder(form), embedder(three))
    rotated = PHOTOS / "castle_neuschwanstein.jpg"  # stored on its side, with an EXIF orientation
    np.testing.assert_array_equal(embedder(Image.open(rotated)), embedder(rotated))


def test_rows_keep_their_order_across_batches(embedder: zoo.Embedder) -> None:
    paths = sorted(PHOTOS.glob("*.jpg")) * 2
    rows = embedder(paths)
    assert rows.shape == (len(paths), embedder.dim)
    np.testing.assert_allclose(rows[5], embedder(paths[5])[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows[: len(paths) // 2], rows[len(paths) // 2 :], rtol=1e-4, atol=1e-4)


def test_model_and_transform_are_the_embedder_taken_apart(embedder: zoo.Embedder) -> None:
    x = embedder.transform(CAT)
    size = embedder.preprocessing.input_size
    assert x.shape == (3, size, size)
    with torch.no_grad():
        np.testing.assert_allclose(embedder.model(x[None]).numpy(), embedder(CAT), rtol=1e-4, atol=1e-5)
    assert not embedder.model.training


def test_no_images_give_no_rows(embedder: zoo.Embedder) -> None:
    assert embedder([]).shape == (0, embedder.dim)


def test_normalize_gives_length_one() -> None:
    unit = zoo.load(normalize=True)(CAT)
    np.testing.assert_allclose(np.linalg.norm(unit), 1, rtol=1e-6)
    plain = zoo.load()(CAT)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), rtol=1e-6)


def test_bf16_is_close_and_not_the_same(embedder: zoo.Embedder) -> None:
    low = zoo.load(precision="bf16")(CAT)
    exact = embedder(CAT)
    assert not np.array_equal(low, exact)
    assert np.abs(low - exact).max() / np.abs(exact).max() < 0.05


def test_random_weights_come_only_when_asked_for() -> None:
    first, second = (zoo.load("byol_r18", pretrained=False) for _ in range(2))
    np.testing.assert_array_equal(first(CAT), second(CAT))
    assert first.identity()["model"] == "byol_r18.random"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
        (np.full((5, 5, 3), 255.0), r"type float64 must hold values in \[0, 1\], not 255 to 255: divide them by 255"),
        (torch.full((3, 8, 8), 2.0), r"values in \[0, 1\]"),
        (torch.full((3, 8, 8), float("nan")), r"values in \[0, 1\]"),
        ("no/such/file.jpg", "missing"),
        (Path(__file__), "not-an-image"),
        (3, "int is not an image"),
        (None, "NoneType is not an image"),
        (b"GIF", "an image of 3 bytes cannot be read: not-an-image"),
        (io.BytesIO(b"no image"), "the file BytesIO cannot be read: not-an-image"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        # the caller's own shapes: not those of a part, nor of a tensor turned around
        (np.zeros((2, 5, 6, 7), np.uint8), r"an array of shape \(2, 5, 6, 7\) and type uint8 is no batch"),
        (torch.zeros(2, 5, 6, 7), r"a tensor of shape \(2, 5, 6, 7\) and type float32 is no batch"),
        (np.zeros((2, 2, 5, 6, 3), np.uint8), r"shape \(2, 2, 5, 6, 3\)"),
        (torch.zeros(7, 5, 6), r"a tensor of shape \(7, 5, 6\) and type float32 is not an image"),
        (torch.zeros(3, 5, 0), r"\[0, 1\]"),
        ([CAT, np.zeros((5, 5, 2), np.uint8)], r"image 1: an array of shape \(5, 5, 2\)"),
        ([CAT, b""], "image 1: an image of 0 bytes"),
        ([CAT, 3], "image 1: int is not an image"),
        # what to do about common mistakes
        (np.zeros((3, 5, 6), np.uint8), r"move the channels to the end, \.transpose\(1, 2, 0\)$"),
        (np.zeros((9, 3, 5, 6), np.uint8), r"no batch.*to the end, \.transpose\(0, 2, 3, 1\)$"),
        (torch.zeros(5, 6, 3), r"move the channels to the front, \.permute\(2, 0, 1\)$"),
        (torch.zeros(9, 5, 6, 3), r"no batch.*to the front, \.permute\(0, 3, 1, 2\)$"),
        (torch.randn(3, 40, 40), r"not -[0-9.]+ to [0-9.]+: give normalised ones to embedder\.model$"),
        (np.zeros((5, 5), np.uint16), r"16 bits: divide by 65535\.0"),
        (np.zeros((5, 5, 3), np.int64), "convert them to uint8$"),
        (np.zeros((5, 5), bool), "multiply by 1.0$"),
        ([[CAT, CAT], [CAT]], "image 0: list is not an image: give images in one list, not in a list of lists$"),
        ([(Image.new("RGB", (9, 9)), 3)], "image 0: tuple is not.*of pairs with a label give the first of each$"),
        ([{"bytes": b"x", "path": None}], r"image 0: dict is not an image: give its \['bytes'\]$"),
        (CAT.parent, r"a folder: give the paths of its images, or embed it by `zoo extract`$"),
        (str(CAT.parent / "*.jpg"), r"no such file: a pattern; give the paths that it names$"),
        ("https://example.org/a.jpg", "a URL must be downloaded first$"),
        ({CAT}, "a set of images has no order that rows could have: give a list"),
        ({"cat": CAT}, "a dict of images has no order that rows could have: give a list"),
        (pd.DataFrame({"path": [CAT]}), "DataFrame is not an image: give one of its columns, 'path'$"),
        (Image.new("RGB", (1, 100_000)), r"an image of 1 x 100000 pixels cannot be used: too-large"),
    ],
)
def test_what_is_no_image_is_one_line(embedder: zoo.Embedder, images: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        embedder(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 1.5, "4"])
def test_a_wrong_batch_size_is_one_line(embedder: zoo.Embedder, size: Any) -> None:
    with pytest.raises(UserError, match=f"^batch_size {size}: give a whole number above zero$"):
        embedder([CAT], batch_size=size)


def test_a_tensor_may_be_of_any_float_type(embedder: zoo.Embedder) -> None:
    pixels = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(3, 8, 2)  # exact in each
    rows = [embedder(pixels.to(dtype)) for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)]
    assert all(np.array_equal(row, rows[0]) for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tf"}, "unknown backend"),
        ({"precision": "int4"}, "unknown precision"),
        ({"device": "cuda:99"}, "is not usable here"),
        ({"device": "nonsense"}, "is not usable here"),
        pytest.param(
            {"device": "mps"},
            "'mps' is not usable here: this machine has",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="has MPS"),
        ),
        ({"backend": "onnx", "precision": "bf16"}, "needs --backend torch"),
        ({"outputs": {"layers": ["layer3"]}}, r"give zoo\.Outputs"),
        ({"outputs": "layer3"}, r"give zoo\.Outputs"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        zoo.load(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_was_trained_since_embeds_as_it_is_now(precision: str) -> None:
    embedder = zoo.load("byol_r18_mini.random", device="cpu", backend="torch", precision=precision)
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    before = embedder.embed_pixels(image)
    # In training mode an embedding would depend on its batch, and change the network's statistics.
    embedder.model.layer4.train()  # type: ignore[operator]
    with pytest.raises(UserError, match=r"^the network is in training mode, .*: call embedder\.model\.eval\(\) first$"):
        embedder.embed_pixels(image)
    embedder.model.eval()
    assert np.array_equal(embedder.embed_pixels(image), before)
    # A step of training changes what both give.
    with torch.no_grad():
        for parameter in embedder.model.layer4.parameters():  # type: ignore[operator]
            parameter.mul_(1.5)
    after = embedder.embed_pixels(image)
    assert np.abs(after - before).max() > 0.01
    fresh = zoo.load("byol_r18_mini.random", device="cpu", backend="torch", precision=precision)
    fresh.model.load_state_dict(embedder.model.state_dict())
    assert np.array_equal(fresh.embed_pixels(image), after)
    with torch.inference_mode():
        expected = embedder.model(embedder.engine.normalised(torch.from_numpy(image)))  # type: ignore[attr-defined]
    tolerance = 1e-4 if precision == "fp32" else 0.05
    assert np.abs(after - expected.numpy()).max() <= tolerance * np.abs(expected.numpy()).max()


def test_an_embedding_that_is_not_finite_is_an_error_with_the_number_of_its_image(embedder: zoo.Embedder) -> None:
    broken = copy.deepcopy(embedder)
    with torch.no_grad():
        for name, values in broken.model.named_parameters():
            if name.endswith("weight") and values.ndim == 1:
                values.fill_(1e38)
    gray = np.full((64, 64, 3), 128, np.uint8)
    for call in (broken, broken.outputs):
        with pytest.raises(UserError, match=r"^the embedding values of image 0 are not finite: [^\n]*$"):
            call([gray, CAT])
    # One image of many, in a later batch.
    rows = embedder([CAT, gray])

    class OneNaN:
        def __getattr__(self, name: str) -> object:
            return getattr(embedder.engine, name)

        def __call__(self, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            values = embedder.engine(pixels).copy()
            values[np.isclose(values, rows[1], rtol=1e-3, atol=1e-4).all(1), 7] = np.inf
            return values

    one = replace(embedder, engine=OneNaN())
    assert np.isfinite(one([CAT] * 3, batch_size=2)).all()
    with pytest.raises(UserError, match="of image 3 are"):
        one([CAT, CAT, CAT, gray], batch_size=1)
    with pytest.raises(UserError, match="of image 0 are"):
        one.embed_pixels(embedder.pixels(gray)[None])
