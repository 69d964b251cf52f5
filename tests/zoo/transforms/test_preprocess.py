from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture
from torchvision import transforms as T

from zoo.errors import UserError
from zoo.hub.weights import locate
from zoo.transforms.preprocess import Preprocessing
from zoo.transforms.unreadable import UnreadableImage

PAIRS = [("bicubic", T.InterpolationMode.BICUBIC), ("bilinear", T.InterpolationMode.BILINEAR),
         ("nearest", T.InterpolationMode.NEAREST), ("lanczos", T.InterpolationMode.LANCZOS)]  # fmt: skip


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    input_size=st.integers(1, 70),
    margin=st.integers(0, 40),
    interpolation=st.sampled_from(PAIRS),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_pixels_are_those_of_torchvision(
    width: int, height: int, input_size: int, margin: int, interpolation: tuple[str, T.InterpolationMode]
) -> None:
    image = picture(width, height)
    ours = Preprocessing(input_size, input_size + margin, interpolation[0])
    theirs = T.Compose([T.Resize(input_size + margin, interpolation[1]), T.CenterCrop(input_size)])
    assert np.array_equal(ours.pixels(image), np.asarray(theirs(image)))
    assert ours.pixels(image).shape == (input_size, input_size, 3)


def test_pixels_are_those_of_timm_at_the_published_sizes() -> None:
    from timm.data import create_transform

    for width, height in ((500, 333), (333, 500), (256, 256), (1023, 767)):
        image = picture(width, height)
        theirs = create_transform(224, is_training=False, interpolation="bicubic", crop_pct=224 / 256)
        ours = Preprocessing(224, 256)
        assert np.array_equal(ours.normalise(ours.pixels(image)[None])[0], theirs(image).numpy())


def test_normalised_values_are_those_of_torchvision() -> None:
    ours = Preprocessing(48, 55, mean=(0.1, 0.5, 0.9), std=(0.2, 1.0, 0.3))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    theirs = T.Compose([T.ToTensor(), T.Normalize(ours.mean, ours.std)])
    result = ours.normalise(pixels)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert np.array_equal(result, torch.stack([theirs(image) for image in pixels]).numpy())


def test_an_image_too_long_to_resize_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="too-large"):
        Preprocessing(224, 256).pixels(picture(1, 5000))
    assert Preprocessing(224, 256).pixels(picture(1, 900)).shape == (224, 224, 3)


def test_json_and_back() -> None:
    import json

    ours = Preprocessing(160, 182, "bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert Preprocessing.from_json(json.loads(json.dumps(ours.to_json()))) == ours


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 224, "resize": 200}, r"input_size 224 is not in 1\.\.200"),
        ({"input_size": 0, "resize": 200}, r"input_size 0, resize 200: whole numbers in 1\.\.4096"),
        ({"input_size": 224, "resize": 256, "interpolation": "cubic"}, "interpolation must be one of"),
        ({"input_size": 224, "resize": 256, "std": [0.5, 0.0, 0.5]}, "three finite numbers each"),
        ({"input_size": 224, "resize": 256, "std": [0.5, 0.5]}, "mean has 3 numbers and std 2"),
        ({"input_size": 224, "resize": 256, "mean": [0.5]}, "mean has 1 numbers and std 3"),
        ({"input_size": 224, "resize": 256, "mean": [0.5] * 5, "std": [0.5] * 5}, "three finite numbers each"),
        ({"input_size": 9, "resize": 9, "mean": [0.5], "std": [0.5], "resizing": "byol"}, "byol is for RGB"),
        ({"input_size": 224, "resize": 256, "resizing": "jax"}, "resizing must be one of"),
        ({"input_size": 224, "resize": 256, "resizing": "byol", "interpolation": "bilinear"}, "byol is bicubic, not"),
        ({"input_size": 224, "resize": 256, "crop": 1}, r"\['crop'\] not known"),
        ({"input_size": 224}, "input_size and resize are needed"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"^preprocessing: .*{message}"):
        Preprocessing.from_json(fields)


def test_the_smallest_and_equal_sizes_are_taken() -> None:
    assert Preprocessing(1, 1).pixels(picture(5, 3)).shape == (1, 1, 3)
    assert Preprocessing(16, 16).pixels(picture(16, 16)).shape == (16, 16, 3)


@pytest.mark.parametrize(("name", "third_std"), [("simsiam_r50", 0.229), ("mocov2_r50", 0.229), ("swav_r50", 0.228)])
def test_facebooks_weights_see_the_pixels_of_their_linear_evaluation(name: str, third_std: float) -> None:
    """main_lincls.py of simsiam and moco, eval_linear.py of swav: ``Resize(256)``, which is bilinear."""
    official = T.Compose(
        [
            T.Resize(256),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [third_std, 0.224, 0.225]),
        ]
    )
    preprocessing = locate(f"{name}.random").preprocessing
    for size in ((500, 333), (333, 500), (1023, 767)):
        rgb = picture(*size)
        ours = torch.from_numpy(preprocessing.normalise(preprocessing.pixels(rgb)[None])[0])
        torch.testing.assert_close(ours, official(rgb), rtol=0, atol=1e-6)
